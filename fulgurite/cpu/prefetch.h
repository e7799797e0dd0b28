#pragma once
// Weights are read in short pieces of many rows, which a processor does not foresee by itself: before a piece
// is used, the pieces that follow are asked for.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "fulgurite/core/matrix.h"

namespace fulgurite::cpu {

// A matrix as bytes.
struct RowBytes {
  const std::byte* base = nullptr;
  int64_t stride = 0;  // of rows, in bytes
  int64_t width = 0;   // of a row, in bytes
  int64_t rows = 0;
};

template <class T>
RowBytes bytes_of(const View<const T, 2>& data) {
  const auto size = static_cast<int64_t>(sizeof(T));
  return {reinterpret_cast<const std::byte*>(data.data), data.stride[0] * size, data.extent[1] * size,
          data.extent[0]};
}
inline RowBytes bytes_of(const BlockScaled& blocks) { return bytes_of(blocks.data); }
inline RowBytes bytes_of(const Mxfp4& groups) { return bytes_of(groups.data); }
inline RowBytes bytes_of(const Nvfp4& groups) { return bytes_of(groups.data); }
inline RowBytes bytes_of(const PreparedMatrix& weight) {
  return std::visit([](const auto& data) { return bytes_of(data); }, weight.as);
}

constexpr int64_t kCacheLine = 64;
constexpr int64_t kPiecesAhead = 2;

// Asks for bytes [from, to) of rows [row, row + count), as far as there are such rows. (Inlined always: a
// compiler takes a function that only prefetches for one without effect, and drops its calls.)
__attribute__((always_inline)) inline void prefetch_rows(const RowBytes& matrix, int64_t row, int64_t count,
                                                         int64_t from, int64_t to) {
  const int64_t last = std::min(row + count, matrix.rows);
  for (int64_t r = row; r < last; ++r)
    for (int64_t byte = from; byte < to; byte += kCacheLine)
      __builtin_prefetch(matrix.base + r * matrix.stride + byte, 0, 2);
}

// While bytes [at, at + piece) of rows [row, row + count) are used: asks for those kPiecesAhead pieces later,
// which beyond a row's end are the first ones of the rows `next` rows below.
__attribute__((always_inline)) inline void prefetch_ahead(const RowBytes& matrix, int64_t row, int64_t count,
                                                          int64_t next, int64_t at, int64_t piece) {
  int64_t from = at + kPiecesAhead * piece;
  if (from >= matrix.width) {
    from -= matrix.width;
    row += next;
  }
  prefetch_rows(matrix, row, count, from, std::min(from + piece, matrix.width));
}

}  // namespace fulgurite::cpu
