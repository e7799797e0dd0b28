#pragma once
// Rotary position embedding, in place.
//
//   interleaved  x'[2i] = x[2i] c_i - x[2i+1] s_i     x'[2i+1] = x[2i] s_i + x[2i+1] c_i
//   half-split   x'[i]  = x[i]  c_i - x[i+d/2] s_i    x'[i+d/2] = x[i] s_i + x[i+d/2] c_i
//   c_i, s_i = table.cosine(p, i), table.sine(p, i) at the token's position p
//
//   x       [tokens, heads, dim]  activation   the rotated slice, dim even; token and head strides free
//   places  [tokens]                           position < table rows
//   table   [positions, dim / 2]  f32          two of them
//
// Rounding   two products and one add in fp32, each rounded; the result rounded to the activation's type
//            once.
// NaN        a NaN spoils its pair only. Empty: zero tokens or heads write nothing.
// Errors     check() throws Error naming the tensor, and the position that the table does not have.
// Tolerance  0: every implementation makes these roundings.
// Source     DeepSeek-V3.2-Exp inference/model.py, apply_rotary_emb; half-split in the indexer since
//            2025-11-17.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/host_device.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/token_place.h"

namespace fulgurite::rotary {

enum class Layout { kInterleaved, kHalfSplit };

struct Table {
  View<const float, 2> cosine;
  View<const float, 2> sine;
};

struct Problem {
  Setting setting;
  Layout layout = Layout::kInterleaved;
  int64_t heads = 0;
  int64_t dim = 0;
  int64_t positions = 0;
};

struct Args {
  Tensor<3> x;
  View<const TokenPlace, 1> places;
  Table table;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

// One vector, in place: what the operations that rotate inside call.
FULGURITE_HOST_DEVICE inline void rotate(Layout layout, const float* cosine, const float* sine, int64_t dim,
                                         float* x) {
  const int64_t pairs = dim / 2;
  const int64_t step = layout == Layout::kInterleaved ? 2 : 1;
  const int64_t partner = layout == Layout::kInterleaved ? 1 : pairs;
  for (int64_t i = 0; i < pairs; ++i) {
    const float a = x[i * step];
    const float b = x[i * step + partner];
    x[i * step] = a * cosine[i] - b * sine[i];
    x[i * step + partner] = a * sine[i] + b * cosine[i];
  }
}

extern const Implementation kReference;
extern const Implementation kCpu;
extern const Implementation kCudaHopper;  // dimensions of multiples of 8, fp32 and bf16
extern const Implementation kCuda;        // any GPU, slowly: sums as the reference

}  // namespace fulgurite::rotary
