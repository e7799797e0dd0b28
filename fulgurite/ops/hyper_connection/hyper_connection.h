#pragma once
// DeepSeek-V4's residual: the update of the four streams after a block, and the mixing before the next block
// or the head, in one pass over the streams.
//
//   X'_k[t]   = round(((0 + post_k y) + C_0k X_0) + ... + C_3k X_3)     where a block was given, else X_k
//   m_n       = (sum_i flat(X')_i fn[n,i]) * r
//   r         = 1/sqrt(fp32(fp32(sum_i flat(X')_i^2 / (4 hidden)) + norm_eps))
//   pre_j     = sigmoid(m_j scale_0 + base_j) + eps                     j < 4
//   post'_j   = 2 sigmoid(m_{4+j} scale_1 + base_{4+j})                 of a layer
//   C'_jk     = Sinkhorn(m_{8+4j+k} scale_2 + base_{8+4j+k})            of a layer
//   collapsed = round(((0 + pre_0 X'_0) + ...) + pre_3 X'_3)
//
//   Sinkhorn: C = softmax over k (largest subtracted, divided by the sum) + eps; C /= (sum over j + eps);
//   then sinkhorn_iterations - 1 times C /= (sum over k + eps), C /= (sum over j + eps). Sums ascend.
//
//   streams      [tokens, 4, hidden]  activation  X
//   block        [tokens, hidden]     activation  y, optional: none at the first site
//   post, mix    [tokens, 4], [tokens, 4, 4] f32  of the site before, where block is given; mix[t,j,k] = C_jk
//   replaced     [tokens, 4 hidden]   f32         optional: stands for X', unrounded
//   fn           [24, 4 hidden]       f32         of the head [4, 4 hidden]
//   base, scale  [24], [3]            f32         of the head [4], [1]
//   streams_out  [tokens, 4, hidden]  activation  round(X'), where block or replaced is given; else not
//                                                 looked at. May be the memory of streams
//   post_out, mix_out                 f32         of a layer; may be the memory of post and mix
//   collapsed    [tokens, hidden]     activation  may be the memory of block
//
// Rounding   products and sums are fp32, each rounded, except: the sums over i are double, ascending, rounded
//            to fp32 once (of the squares the quotient); 1/sqrt as the knob rsqrt says; exp and sigmoid are
//            the double functions, rounded to fp32. round() is to the activation's type, and mixing and
//            collapse read the rounded X' (the knob norm_input is of norms).
// NaN        in a token's streams or block: all it has but streams_out, there the column. Empty: zero tokens
//            write nothing.
// Errors     check() throws Error naming the tensor.
// Tolerance  streams_out: 0. The others: what they can be where m has the error of sums of 256 columns in
//            fp32, 16 lanes, added in double (the CPU's are double throughout, and within it by far), and the
//            squares that of a double sum in another order; through Sinkhorn to first order.
//            hyper_connection_audit.cpp has it.
// Source     DeepSeek-V4 inference/model.py, hc_pre, hc_post, hc_head; kernel.py, hc_split_sinkhorn;
//            arXiv:2512.24880.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/host_device.h"
#include "fulgurite/core/implementation.h"

namespace fulgurite::hyper_connection {

inline constexpr int64_t kStreams = 4;

enum class Kind { kLayer, kHead };

struct Problem {
  Setting setting;
  int64_t hidden = 0;
  int64_t streams = kStreams;
  Kind kind = Kind::kLayer;
  int sinkhorn_iterations = 20;
  float eps = 1e-6f;       // hc_eps
  float norm_eps = 1e-6f;  // rms_norm_eps
  int64_t largest_batch = 0;
};

struct Args {
  ConstTensor<3> streams;
  ConstTensor<2> block;
  View<const float, 2> post;
  View<const float, 3> mix;
  View<const float, 2> replaced;
  View<const float, 2> fn;
  View<const float, 1> base;
  View<const float, 1> scale;
  Tensor<3> streams_out;
  View<float, 2> post_out;
  View<float, 3> mix_out;
  Tensor<2> collapsed;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

// Of fn: 4 to collapse; of a layer 4 to add the block and 16 to mix.
FULGURITE_HOST_DEVICE inline int64_t outputs(const Problem& problem) {
  return problem.kind == Kind::kHead ? kStreams : 2 * kStreams + kStreams * kStreams;
}
// Are the streams others afterwards?
FULGURITE_HOST_DEVICE inline bool updates(const Args& args) { return args.block || args.replaced; }
void check(const Problem& problem, const Args& args);

extern const Implementation kReference;
extern const Implementation kCpu;
extern const Implementation
    kCudaHopper;  // hidden of multiples of 8, fp32 and bf16; sums over i by matrix instructions in double
extern const Implementation kCuda;  // any GPU, slowly: sums as the reference

}  // namespace fulgurite::hyper_connection
