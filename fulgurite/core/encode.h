#pragma once
// A matrix written down in another form: what `fulgurite convert` makes.
//
//   e4m3    scale of a block = amax * fp32(1/448), rounded up to a power of two where asked, at least
//           2^-126; codes = e4m3(clamp(x / scale, +-448)). No floor as activations have one: it would flush a
//           block of small weights. A block of zeros has scale 1, one with NaN or infinity NaN codes and
//           scale 1
//   mxfp4   groups of 32: scale = max(amax, 6 * 2^-126) * fp32(1/6), rounded up to a power of two;
//           codes = e2m1(x / scale)
//   nvfp4   groups of 16: global = amax of the matrix / (448 * 6); scale = e4m3(amax / (6 * global));
//           codes = e2m1(x / (scale * global)); a matrix of zeros has global 1
//
// With powers of two a block whose values came from e4m3 codes gets the same values back, and the same codes
// and scale where its largest code exceeds 224.
//
// Source     DeepSeek-V3.2-Exp inference/kernel.py, act_quant; NVIDIA Model Optimizer, NVFP4QTensor.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "fulgurite/core/matrix.h"
#include "fulgurite/core/quantize.h"

namespace fulgurite {

// Where the values come from: `row` writes the `in` values of one row.
struct MatrixValues {
  int64_t out = 0;
  int64_t in = 0;
  std::function<void(int64_t row, double* values)> row;
};

// Bytes as a checkpoint stores them; what a form does not have is empty.
struct EncodedMatrix {
  std::vector<std::byte> data;
  std::vector<std::byte> scale;
  std::vector<std::byte> global;  // one fp32
};

// As a matrix of this format, which views the bytes.
StoredMatrix view_of(const EncodedMatrix& encoded, const MatrixFormat& format, int64_t out, int64_t in);

// The e4m3 scale of a block of weights whose largest magnitude is amax (finite).
float weight_scale(float amax, ScaleRounding rounding);

EncodedMatrix encode_bf16(const MatrixValues& values);  // rounded once
// kE8M0 asks for kPow2.
EncodedMatrix encode_e4m3(const MatrixValues& values, BlockShape block, ScaleFormat format,
                          ScaleRounding rounding);
EncodedMatrix encode_mxfp4(const MatrixValues& values);  // in % 32 == 0
EncodedMatrix encode_nvfp4(const MatrixValues& values);  // in % 16 == 0

}  // namespace fulgurite
