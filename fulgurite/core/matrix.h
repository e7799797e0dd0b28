#pragma once
// A weight matrix [out, in] (y = x W^T) in the form in which the checkpoint stores it, and in the form in
// which the plan's implementations read it. The two are different types: an unprepared weight does not
// compile.

#include <string>
#include <variant>

#include "fulgurite/core/bf16.h"
#include "fulgurite/core/fp4.h"
#include "fulgurite/core/fp8.h"
#include "fulgurite/core/view.h"

namespace fulgurite {

// A block's extent that is the matrix's own, whatever that is: larger than any.
inline constexpr int64_t kWhole = int64_t{1} << 40;

struct BlockShape {  // {1, kWhole}: a scale an output channel; {kWhole, kWhole}: one for the tensor
  int64_t rows = 0;
  int64_t columns = 0;
  bool operator==(const BlockShape&) const = default;
};

// How a scale is written down. A scale multiplies its block's codes.
enum class ScaleFormat {
  kF32,   // any fp32 value
  kE8M0,  // a power of two, its exponent in a byte
  kE4M3,  // of Nvfp4 alone: an e4m3 value times the tensor's fp32
};

// How scales lie in memory. Checkpoints store the first; the others are made for kernels.
enum class ScaleLayout {
  kRowMajor,     // [rows of blocks, columns of blocks], contiguous
  kColumnMajor,  // columns contiguous, each at a multiple of 16 bytes, as TMA asks
  kPacked,       // e8m0, four neighbours of a row in an int32 (PackedScales)
  kTiles,        // e8m0, tiles of 128 rows by 4 scales, as cuBLASLt reads groups of 32
};

// Codes and scales, one value: weight(r, c) = data(r, c) * scale(r / block.rows, c / block.columns), exactly.
// The last block of a row or column may be short.
struct BlockScaled {
  View<const e4m3, 2> data;    // [out, in], rows contiguous
  View<const float, 2> scale;  // kF32: [ceil(out / block.rows), ceil(in / block.columns)], contiguous
  BlockShape block;
  ScaleFormat format = ScaleFormat::kF32;  // kF32 or kE8M0
  View<const e8m0, 2> exponents{};         // kE8M0: in the place of `scale`, which is empty then

  // The scale of an element, in either format.
  float scale_at(int64_t row, int64_t column) const {
    if (format == ScaleFormat::kF32) return scale(row / block.rows, column / block.columns);
    return to_float(exponents(row / block.rows, column / block.columns));
  }
};

// MXFP4: weight(r, c) = code(r, c) * scale(r, c / 32), exactly.
struct Mxfp4 {
  View<const e2m1x2, 2> data;  // [out, in / 2], rows contiguous
  View<const e8m0, 2> scale;   // [out, in / 32]
};

// NVFP4: weight(r, c) = code(r, c) * scale(r, c / 16) * global, exactly.
struct Nvfp4 {
  View<const e2m1x2, 2> data;   // [out, in / 2], rows contiguous
  View<const e4m3, 2> scale;    // [out, in / 16]
  View<const float, 1> global;  // [1]
};

using MatrixData = std::variant<View<const float, 2>, View<const bf16, 2>, BlockScaled, Mxfp4, Nvfp4>;

// What a matrix is made of, without its bytes: what a plan needs to know of it.
enum class MatrixForm { kF32, kBF16, kE4M3Blocks, kMxfp4, kNvfp4 };
struct MatrixFormat {
  MatrixForm form = MatrixForm::kF32;
  BlockShape block;  // of a form with scales
  ScaleFormat scale = ScaleFormat::kF32;
  ScaleLayout layout = ScaleLayout::kRowMajor;
  bool operator==(const MatrixFormat&) const = default;
};
std::string describe(const MatrixFormat& format);  // "e4m3 128x128, scales f32"
// A quantized weight.
inline bool has_scales(const MatrixFormat& format) {
  return format.form != MatrixForm::kF32 && format.form != MatrixForm::kBF16;
}
// Two codes a byte.
inline bool is_fp4(const MatrixFormat& format) {
  return format.form == MatrixForm::kMxfp4 || format.form == MatrixForm::kNvfp4;
}

// As the checkpoint stores it; the bytes belong to the checkpoint's mapping.
struct StoredMatrix {
  MatrixData as;
  int64_t out = 0;
  int64_t in = 0;
};
MatrixFormat format_of(const StoredMatrix& matrix);

// Rows [first, first + count) as a matrix of their own, which views the same bytes. `first` begins a block of
// scales.
StoredMatrix rows_of(const StoredMatrix& matrix, int64_t first, int64_t count);

class PackedScales;  // requantized.h, which alone makes them

// As a planned implementation reads it. Made by plan::prepare (and by the tests' inputs) alone.
struct PreparedMatrix {
  MatrixData as;
  int64_t out = 0;
  int64_t in = 0;
  const PackedScales* packed = nullptr;  // ScaleLayout::kPacked: the scales again, in that layout
};
MatrixFormat format_of(const PreparedMatrix& matrix);

// The exact value of one element: code, scale and tensor's scale have at most 4 + 4 + 24 bits.
double exact_element(const PreparedMatrix& matrix, int64_t row, int64_t column);
double exact_element(const StoredMatrix& matrix, int64_t row, int64_t column);
// out[i] = exact_element(row, i) of the whole row.
void exact_row(const StoredMatrix& matrix, int64_t row, double* out);

// One element of a quantized weight as the fp8 linear takes it: its code, and the scale of its group, of
// NVFP4 the group's times the tensor's, rounded to fp32 once.
float code_of(const MatrixData& matrix, int64_t row, int64_t column);
float scale_of(const MatrixData& matrix, int64_t row, int64_t column);

// out[i] = fp32(exact_element(row, first + i)) for i < count: any form, without haste.
void decode(const PreparedMatrix& matrix, int64_t row, int64_t first, int64_t count, float* out);

// How an operation reads a weight: its exact value, or that value rounded to bf16 once (code * scale too).
enum class WeightReading { kExact, kBf16 };
double element(const PreparedMatrix& matrix, WeightReading reading, int64_t row, int64_t column);

}  // namespace fulgurite
