#pragma once
// Where the tokens of a test's batch stand, and the rotary table that their positions read.

#include <numeric>
#include <vector>

#include "fulgurite/core/token_place.h"
#include "fulgurite/ops/rotary/rotary.h"
#include "fulgurite/ops/rotary/rotary_table.h"
#include "test/op_inputs.h"

namespace fulgurite::inputs {

// DeepSeek-V3.2's frequencies.
struct RotaryTable {
  Buffer<2> cosine, sine;
  rotary::Table table() const { return {cosine.view, sine.view}; }
};
inline RotaryTable make_table(int64_t positions, int64_t dim) {
  Random unused(0);
  RotaryTable table{make(unused, Values::kConstant, positions, dim / 2),
                    make(unused, Values::kConstant, positions, dim / 2)};
  rotary::fill_table({1e4, dim, rotary::Yarn{40.0, 4096.0, 32.0, 1.0}}, table.cosine.view, table.sine.view);
  return table;
}

// `tokens` different places, in no order.
inline std::vector<TokenPlace> make_places(Random& random, int64_t tokens, int64_t sequences,
                                           int64_t context) {
  std::vector<int64_t> cells(static_cast<size_t>(sequences * context));
  std::iota(cells.begin(), cells.end(), int64_t{0});
  std::vector<TokenPlace> places;
  for (int64_t t = 0; t < tokens; ++t) {
    std::swap(cells[static_cast<size_t>(t)],
              cells[static_cast<size_t>(t + random.below(sequences * context - t))]);
    const int64_t cell = cells[static_cast<size_t>(t)];
    places.push_back({static_cast<int32_t>(cell / context), static_cast<int32_t>(cell % context)});
  }
  return places;
}
inline View<const TokenPlace, 1> view_of(const std::vector<TokenPlace>& places) {
  return {places.data(), {static_cast<int64_t>(places.size())}};
}

}  // namespace fulgurite::inputs
