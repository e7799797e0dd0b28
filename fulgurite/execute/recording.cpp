#include "fulgurite/execute/recording.h"

namespace fulgurite::execute {

std::vector<int64_t> recorded_tokens(const plan::Options& options) {
  std::vector<int64_t> tokens;
  for (int64_t count = 1; count < options.chunk_tokens; count *= 2) tokens.push_back(count);
  tokens.push_back(options.chunk_tokens);
  return tokens;
}

}  // namespace fulgurite::execute
