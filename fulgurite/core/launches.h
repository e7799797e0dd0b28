#pragma once
// Rows of a GPU that deal a token's keys to runs, as many as its call's tokens ask for: one way for each power of
// two of tokens, so that a pass and the same one padded have the same bits.

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <string>

namespace fulgurite {

// The most of bytes_of(tokens), over calls of up to `largest` tokens.
template <class BytesOf>
int64_t most_of_launches(int64_t largest, const BytesOf& bytes_of) {
  int64_t most = bytes_of(largest);
  for (int64_t tokens = 1; tokens < largest; tokens *= 2) most = std::max(most, bytes_of(tokens));
  return most;
}

// "8 from 1 token(s) on, 4 from 17 token(s) on; merged in order", for a plan's reader.
template <class RunsOf>
std::string describe_runs(int64_t largest, const RunsOf& runs_of) {
  std::string text;
  int64_t last = 0;
  for (int64_t tokens = 1; tokens < 2 * largest; tokens *= 2) {
    const int64_t runs = runs_of(tokens);
    if (runs != last) text += fmt::format(" {} from {} token(s) on,", runs, tokens == 1 ? 1 : tokens / 2 + 1);
    last = runs;
  }
  text.back() = ';';
  return text + " merged in order";
}

}  // namespace fulgurite
