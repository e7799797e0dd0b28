#pragma once
// Shapes of the test and the benchmark: DeepSeek-V3.2 (671B, a few of its 128 heads), the tiny model, and the
// awkward. And the selected rows, which expanded_attention reads too.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "fulgurite/core/cache_layout.h"
#include "fulgurite/core/quantize.h"
#include "fulgurite/core/random.h"
#include "fulgurite/core/token_place.h"
#include "fulgurite/core/view.h"

namespace fulgurite::sparse_attention {

struct Case {
  const char* what;
  int64_t tokens, heads, latent, rope, topk, sequences, context;
};

inline constexpr std::array kAwkwardCases{
    Case{"no tokens", 0, 4, 32, 8, 8, 1, 20},
    Case{"one of each", 1, 1, 1, 1, 1, 1, 1},
    Case{"primes", 3, 7, 67, 13, 11, 2, 101},
    Case{"one over a head group", 2, 5, 32, 16, 33, 1, 50},
    Case{"no rope", 2, 3, 48, 0, 9, 1, 30},
    Case{"topk beyond the context", 4, 4, 17, 2, 64, 2, 10},
    Case{"tiny model", 3, 8, 512, 64, 128, 2, 400},
    Case{"one over a tile", 2, 17, 33, 7, 65, 1, 80},
    Case{"one over a long tile", 1, 16, 16, 2, 129, 1, 129},
};

inline constexpr std::array kRealCases{
    Case{"671B, 5 heads", 2, 5, 512, 64, 2048, 1, 3000},
};

// What tokens have selected.
struct Selection {
  std::vector<TokenPlace> token_places;
  std::vector<int32_t> lists;
  int64_t topk = 0;

  View<const TokenPlace, 1> places() const {
    return {token_places.data(), {static_cast<int64_t>(token_places.size())}};
  }
  View<const int32_t, 2> selected() const {
    return {lists.data(), {static_cast<int64_t>(token_places.size()), topk}};
  }
};

// The first token stands at the end of the context, the second at its beginning, the others anywhere. Each
// selects a random subset of what it sees, at most topk rows.
inline Selection make_selection(Random& random, int64_t tokens, int64_t topk, int64_t sequences,
                                int64_t context) {
  Selection selection{{}, {}, topk};
  for (int64_t t = 0; t < tokens; ++t) {
    const int64_t position = t == 0 ? context - 1 : t == 1 ? 0 : random.below(context);
    selection.token_places.push_back({static_cast<int32_t>(t % sequences), static_cast<int32_t>(position)});
    std::vector<int32_t> rows(static_cast<size_t>(position) + 1);
    for (size_t s = 0; s < rows.size(); ++s) rows[s] = static_cast<int32_t>(s);
    for (size_t s = rows.size() - 1; s > 0; --s)
      std::swap(rows[s], rows[static_cast<size_t>(random.below(static_cast<int64_t>(s) + 1))]);
    rows.resize(std::min(rows.size(), static_cast<size_t>(topk)));
    std::sort(rows.begin(), rows.end());
    rows.resize(static_cast<size_t>(topk), -1);
    selection.lists.insert(selection.lists.end(), rows.begin(), rows.end());
  }
  return selection;
}

// Writes `latent` values and then `rope` as a row of the cache, as latent_prepare does.
inline void write_row(const LatentRow& form, const float* values, std::byte* row) {
  const auto plain = [&](const float* from, int64_t count, std::byte* to) {
    for (int64_t i = 0; i < count; ++i) {
      const bf16 half = to_bf16(from[i]);
      const void* const element =
          form.form == LatentCache::kFp32 ? static_cast<const void*>(from + i) : &half;
      std::memcpy(to + i * form.element_bytes(), element, static_cast<size_t>(form.element_bytes()));
    }
  };
  plain(values + form.latent, form.rope, row + form.rope_offset());
  if (form.form != LatentCache::kFp8) return plain(values, form.latent, row);
  for (int64_t g = 0; g < form.groups(); ++g) {
    const int64_t first = g * LatentRow::kGroup, count = std::min(LatentRow::kGroup, form.latent - first);
    std::vector<float> group(static_cast<size_t>(count));  // latent_prepare quantizes the norm's bf16 output
    for (int64_t i = 0; i < count; ++i) group[static_cast<size_t>(i)] = round_to_bf16(values[first + i]);
    const float scale = quantize_e4m3(group, ScaleRounding::kPow2, reinterpret_cast<e4m3*>(row) + first);
    std::memcpy(row + form.scales_offset() + g * 4, &scale, sizeof scale);
  }
}

}  // namespace fulgurite::sparse_attention
