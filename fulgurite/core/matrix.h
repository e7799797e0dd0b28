#pragma once
// A weight matrix [out, in] (y = x W^T) in the form in which the checkpoint stores it, and in the form in
// which the plan's implementations read it. The two are different types: an unprepared weight does not
// compile.

#include <string>
#include <variant>

#include "fulgurite/core/bf16.h"
#include "fulgurite/core/fp8.h"
#include "fulgurite/core/view.h"

namespace fulgurite {

struct BlockShape {
  int64_t rows = 0;
  int64_t columns = 0;
  bool operator==(const BlockShape&) const = default;
};

// How a scale is written down. A scale multiplies its block's codes.
enum class ScaleFormat {
  kF32,  // any fp32 value
};

// Codes and scales, one value: weight(r, c) = data(r, c) * scale(r / block.rows, c / block.columns), exactly.
// The last block of a row or column may be short.
struct BlockScaled {
  View<const e4m3, 2> data;    // [out, in], rows contiguous
  View<const float, 2> scale;  // [ceil(out / block.rows), ceil(in / block.columns)], contiguous
  BlockShape block;
  ScaleFormat format = ScaleFormat::kF32;
};

using MatrixData = std::variant<View<const float, 2>, View<const bf16, 2>, BlockScaled>;

// What a matrix is made of, without its bytes: what a plan needs to know of it.
enum class MatrixForm { kF32, kBF16, kE4M3Blocks };
struct MatrixFormat {
  MatrixForm form = MatrixForm::kF32;
  BlockShape block;  // of kE4M3Blocks
  ScaleFormat scale = ScaleFormat::kF32;
  bool operator==(const MatrixFormat&) const = default;
};
std::string describe(const MatrixFormat& format);  // "e4m3 128x128, scales f32"

// As the checkpoint stores it; the bytes belong to the checkpoint's mapping.
struct StoredMatrix {
  MatrixData as;
  int64_t out = 0;
  int64_t in = 0;
};
MatrixFormat format_of(const StoredMatrix& matrix);

// As a planned implementation reads it. Made by plan::prepare (and by the tests' inputs) alone.
struct PreparedMatrix {
  MatrixData as;
  int64_t out = 0;
  int64_t in = 0;
};
MatrixFormat format_of(const PreparedMatrix& matrix);

// The exact value of one element.
double exact_element(const PreparedMatrix& matrix, int64_t row, int64_t column);

// How an operation reads a weight: its exact value, or that value rounded to bf16 once (code * scale too).
enum class WeightReading { kExact, kBf16 };
double element(const PreparedMatrix& matrix, WeightReading reading, int64_t row, int64_t column);

}  // namespace fulgurite
