#pragma once
// What weights lose in another encoding (core/encoding_error.h), as the verbs that encode them print it.

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "fulgurite/core/encoding_error.h"
#include "tool/table.h"

namespace fulgurite::tool {

// One line on a terminal, written over at most a few times a second.
class Progress {
 public:
  void operator()(int64_t done_bytes, int64_t total_bytes);

 private:
  double shown_ = -1.0;
};

struct EncodedWeight {
  std::vector<std::string> cells;  // of the columns before those of the error
  EncodingError error;
};

// Those that lost something, worst first, and how many lose nothing; of more than some the rest is counted.
std::string error_table(std::vector<Table::Column> columns, std::vector<EncodedWeight> weights);

void add_error(nlohmann::ordered_json& entry, const EncodingError& error);

}  // namespace fulgurite::tool
