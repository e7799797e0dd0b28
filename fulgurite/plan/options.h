#pragma once
// What is asked of a plan.

#include <cstdint>
#include <vector>

#include "fulgurite/core/numerics.h"
#include "fulgurite/plan/demand.h"

namespace fulgurite::plan {

enum class LogitRows { kLast, kAll };  // of each chunk: its last token, or every token
enum class Tracing { kOff, kOn };      // keep room for index scores, which nothing else stores
// On a GPU: every kernel of a pass launched in its turn; or passes recorded when the session is made, for some counts of tokens,
// and run as one (a shorter pass is padded).
enum class Passes { kEager, kRecorded };
// Which rows of the catalog may be chosen: all; the references, of the problems as they are asked; or the references of what
// the rows that all would choose make of them (Implementation::states): what an audit holds those rows against.
enum class Candidates { kAll, kReferencesOnly, kReferencesOfRows };

struct Options {
  Numerics numerics = Numerics::serving();
  int64_t context = 0;         // cache rows a sequence; 0: the model's max_position_embeddings
  int64_t sequences = 1;       // independent sequences that one session holds
  int64_t pages = 0;           // of caches in pages, for all sequences; 0: every sequence's whole context
  int64_t chunk_tokens = 256;  // tokens of all sequences that one forward may bring
  LogitRows logits = LogitRows::kLast;
  Tracing tracing = Tracing::kOff;
  Candidates candidates = Candidates::kAll;
  Passes passes = Passes::kRecorded;
  std::vector<Demand> demands;
};

}  // namespace fulgurite::plan
