#pragma once
// cuBLASLt of this machine, if it is here: it is looked for when a plan is made for a GPU (libcublasLt.so.13, of CUDA 13), so that
// programs start without it.

#include <cstdint>

namespace fulgurite::cuda {

// As cublasLtGetVersion says: 130100 is 13.1.0. 0: not here.
int cublaslt_version();
// It is here, and there is a GPU that it runs on: it can be asked for algorithms.
bool cublaslt_answers();

// A product of e4m3 codes of both sides, rows along K, for one shape of a weight and up to so many rows of x:
//   y[t, n] = sum over blocks b of 128 columns of x_scale[b, t] * weight_scale[n / 128, b] * sum in b of x[t, i] * weight[n, i]
struct Fp8Shape {
  int64_t in = 0, out = 0;  // multiples of 16; in / 128 rounded up, a multiple of 4
  int64_t tokens = 0;       // a multiple of 4
  bool operator==(const Fp8Shape&) const = default;
};

struct Fp8Product {
  const void *x, *weight;           // [tokens, in], [out, in]; 16-byte aligned
  const float* x_scale;             // [in / 128, tokens]
  const float* weight_scale;        // [out / 128, in / 128]
  void* y;                          // [tokens, out] bf16
  int64_t weight_stride, y_stride;  // elements
  void* workspace;                  // kCublasltWorkspace bytes
};
inline constexpr int64_t kCublasltWorkspace = int64_t{32} << 20;

// Asks the library which algorithm multiplies this shape, without sums that meet in memory, and keeps the answer while the
// process lives. False: none.
bool choose_cublaslt(const Fp8Shape& shape);

// With the algorithm that was chosen for `chosen`, whose tokens are not fewer. Throws Error{kDevice}.
void run_cublaslt(const Fp8Shape& chosen, const Fp8Shape& shape, const Fp8Product& product, void* stream);

}  // namespace fulgurite::cuda
