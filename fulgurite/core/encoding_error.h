#pragma once
// What a matrix loses in another form, measured on the bytes that are written: each element decoded again and
// held against its value.

#include <cstdint>

#include "fulgurite/core/encode.h"

namespace fulgurite {

struct EncodingError {
  double relative = 0.0;  // Frobenius norm of the differences over that of the values
  double worst_block =
      0.0;                // the same of one block that shares a scale (without scales: of a row), the largest
  int64_t worst_row = 0;  // where that block begins
  int64_t worst_column = 0;
  int64_t saturated = 0;  // codes of the largest magnitude whose values lie beyond it (bf16: infinities)
  int64_t flushed = 0;    // zeros whose values are not

  bool any() const { return relative != 0.0; }  // NaN too
};

// Values that are NaN or infinite are left out; a value that became NaN makes the errors NaN. Where all values
// are zero and an element is not, they are infinite.
EncodingError encoding_error(const MatrixValues& values, const StoredMatrix& encoded);

}  // namespace fulgurite
