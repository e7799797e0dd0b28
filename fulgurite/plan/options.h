#pragma once
// What is asked of a plan.

#include <cstdint>
#include <vector>

#include "fulgurite/core/numerics.h"
#include "fulgurite/plan/demand.h"

namespace fulgurite::plan {

enum class LogitRows { kLast, kAll };             // of each chunk: its last token, or every token
enum class Tracing { kOff, kOn };                 // keep room for index scores, which nothing else stores
enum class Candidates { kAll, kReferencesOnly };  // which rows of the catalog may be chosen

struct Options {
  Numerics numerics = Numerics::serving();
  int64_t context = 0;         // cache rows a sequence; 0: the model's max_position_embeddings
  int64_t sequences = 1;       // independent sequences that one session holds
  int64_t chunk_tokens = 256;  // tokens of all sequences that one forward may bring
  LogitRows logits = LogitRows::kLast;
  Tracing tracing = Tracing::kOff;
  Candidates candidates = Candidates::kAll;
  std::vector<Demand> demands;
};

}  // namespace fulgurite::plan
