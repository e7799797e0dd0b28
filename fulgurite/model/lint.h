#pragma once
// What a checkpoint is and everything that is wrong with it, of which binding would name the first alone.
// Reads headers; with a sample, a bounded part of the data (lint_sample.h) as well. docs/lint.md lists the
// rules.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fulgurite/checkpoint/checkpoint.h"
#include "fulgurite/model/examine.h"
#include "fulgurite/model/finding.h"

namespace fulgurite::model {

enum class Sampling { kHeadersOnly, kSample };

// A weight of the table, as far as it is there.
struct Inspected {
  TensorName name;
  std::string form;  // "e4m3 128x128, scales f32"; empty where it cannot be told or is not read
  std::optional<StoredMatrix> matrix;
  std::optional<StoredTable> table;
  std::vector<const checkpoint::TensorView*> parts;
};

struct Inspection {
  std::optional<Config> config;  // none: config.json cannot be read, and nothing below could be told
  std::vector<Inspected> weights;
  std::vector<Finding> findings;  // in the order of the rules
  int64_t bound_bytes = 0;
  int64_t left_out_bytes = 0;
};

// Views the survey's bytes.
Inspection inspect(const checkpoint::Survey& survey, Sampling sampling);

}  // namespace fulgurite::model
