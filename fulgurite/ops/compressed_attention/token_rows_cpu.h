#pragma once
// What both CPU implementations share: where the rows that a token sees stand, and how its output ends.

#include <algorithm>
#include <cmath>
#include <limits>

#include "fulgurite/cpu/pair_attention.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/cpu/softmax.h"
#include "fulgurite/ops/compressed_attention/compressed_attention.h"

namespace fulgurite::compressed_attention {

inline int64_t most_keys(const Problem& problem) {
  return problem.window + (problem.topk > 0 ? problem.topk : problem.entries);
}

// Keys are numbered: the window's, then the entries.
class TokenRows {
 public:
  TokenRows(const Problem& problem, const Args& args) : problem_(problem), args_(args) {}

  cpu::TokenKeys keys(int64_t t) const {
    const int64_t seen = window_of(problem_, args_.places(t).position).count;
    return {seen + entries_of(problem_, args_, t), seen, problem_.window - seen};
  }

  struct Place {
    const std::byte* row;
    const std::byte* scales;  // fp8 alone
  };
  Place place(int64_t t, int64_t key) const {
    const auto [rows, index] = index_of(t, key);
    return {rows.at(args_.places(t).sequence, index), rows.scales_at(args_.places(t).sequence, index)};
  }

  // Which rows hold the key, and as which of the sequence.
  struct Index {
    const ConstKvRows& rows;
    int64_t index;
  };
  Index index_of(int64_t t, int64_t key) const {
    const Seen seen = window_of(problem_, args_.places(t).position);
    if (key < seen.count) return {args_.window, (seen.first + key) % problem_.ring};
    const int64_t entry = key - seen.count;
    return {args_.entries, problem_.topk > 0 ? args_.selected(t, entry) : entry};
  }

  // Columns [column, column + count) of a head; a pair to rotate is never cut.
  void finish(const cpu::Kernels& kernels, int64_t t, int64_t head, const cpu::EndedSoftmax& softmax,
              int64_t column, int64_t count, float* sums) const {
    const float denominator = softmax.denominator + sink_weight(args_.sink(head), softmax.largest);
    const Tensor<1> out = args_.out[t][head];
    const int64_t plain = std::clamp(problem_.head_dim - problem_.rope - column, int64_t{0}, count);
    cpu::write_quotients(kernels, sums, denominator, column, plain, out);
    for (int64_t c = plain; c < count; ++c) sums[c] = sums[c] / denominator;
    rotate_back(kernels, t, column + plain, count - plain, sums + plain);
    cpu::write_floats(kernels, sums + plain, column + plain, count - plain, out);
  }

 private:
  static float sink_weight(float sink, float largest) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    if (sink == -kInfinity) return 0.0f;
    const float above = sink - largest;
    if (above <= 0.0f) return cpu::exp_not_positive(above);
    return static_cast<float>(std::exp(static_cast<double>(above)));
  }

  // x are columns from `column` on, all of them rotated ones.
  void rotate_back(const cpu::Kernels& kernels, int64_t t, int64_t column, int64_t count, float* x) const {
    constexpr int64_t kPairs = 64;
    float sine[kPairs];
    const int64_t position = args_.places(t).position;
    const int64_t first = (column - (problem_.head_dim - problem_.rope)) / 2;
    for (int64_t i = 0; i < count / 2; i += kPairs) {
      const int64_t some = std::min(kPairs, count / 2 - i);
      for (int64_t j = 0; j < some; ++j) sine[j] = -args_.table.sine(position, first + i + j);
      kernels.rotate(args_.table.cosine[position].data + first + i, sine, some, true, x + 2 * i);
    }
  }

  const Problem& problem_;
  const Args& args_;
};

}  // namespace fulgurite::compressed_attention
