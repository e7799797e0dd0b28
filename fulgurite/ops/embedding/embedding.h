#pragma once
// The rows of the embedding table that the ids name.
//
//   out[t,i] = table[ids[t], i]
//
//   ids     [tokens]              i32          in [0, vocabulary)
//   table   [vocabulary, hidden]  f32 or bf16  as stored
//   out     [tokens, hidden]      activation
//
// Rounding   to the activation's type.
// Empty      zero tokens write nothing.
// Errors     check() throws Error naming the tensor, and the id that is outside the vocabulary.
// Tolerance  0.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/matrix.h"

namespace fulgurite::embedding {

struct Problem {
  Setting setting;
  int64_t vocabulary = 0;
  int64_t hidden = 0;
  MatrixFormat table;
};

struct Args {
  View<const int32_t, 1> ids;
  const PreparedMatrix* table = nullptr;
  Tensor<2> out;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

extern const Implementation kReference;
extern const Implementation kCpu;
extern const Implementation kCudaHopper;  // hidden of multiples of 8, fp32 and bf16
extern const Implementation kCuda;        // any GPU, slowly: sums as the reference

}  // namespace fulgurite::embedding
