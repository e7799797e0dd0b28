#include "fulgurite/core/requantized.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "fulgurite/core/error.h"

namespace fulgurite {
namespace {

int64_t blocks_of(int64_t extent, int64_t block) { return (extent + block - 1) / block; }

const BlockScaled& blocks_of(const StoredMatrix& matrix) {
  if (const auto* const blocks = std::get_if<BlockScaled>(&matrix.as)) return *blocks;
  fail(ErrorKind::kModel, "requantize: expected e4m3 blocks, found {}", describe(format_of(matrix)));
}

MatrixValues values_of(const StoredMatrix& matrix) {
  return {matrix.out, matrix.in, [&matrix](int64_t row, double* values) { exact_row(matrix, row, values); }};
}

// A block whose scale is a power of two gets it back, and its codes; returns how many do.
int64_t keep_powers_of_two(const StoredMatrix& original, EncodedMatrix& encoded) {
  const BlockScaled& from = blocks_of(original);
  const int64_t columns = blocks_of(original.in, from.block.columns);
  int64_t kept = 0;
  for (int64_t row = 0; row < original.out; row += from.block.rows)
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t first = c * from.block.columns;
      const int64_t count = std::min(from.block.columns, original.in - first);
      const std::optional<e8m0> exponent = exact_e8m0(from.scale_at(row, first));
      if (!exponent) continue;
      kept += 1;
      std::memcpy(&encoded.scale[static_cast<size_t>(row / from.block.rows * columns + c)], &*exponent, 1);
      for (int64_t r = row; r < std::min(original.out, row + from.block.rows); ++r)
        std::memcpy(&encoded.data[static_cast<size_t>(r * original.in + first)], &from.data(r, first),
                    static_cast<size_t>(count));
    }
  return kept;
}

EncodedMatrix with_powers_of_two(const StoredMatrix& original, int64_t& kept) {
  EncodedMatrix encoded =
      encode_e4m3(values_of(original), blocks_of(original).block, ScaleFormat::kE8M0, ScaleRounding::kPow2);
  kept = keep_powers_of_two(original, encoded);
  return encoded;
}

MatrixFormat requantized_format(const StoredMatrix& matrix) {
  return {MatrixForm::kE4M3Blocks, blocks_of(matrix).block, ScaleFormat::kE8M0};
}

StoredMatrix view_requantized(const EncodedMatrix& encoded, const StoredMatrix& original) {
  return view_of(encoded, requantized_format(original), original.out, original.in);
}

}  // namespace

int64_t PackedScales::bytes(int64_t out, int64_t in, BlockShape block) {
  return blocks_of(blocks_of(in, block.columns), 4) * ((out + 3) / 4 * 4) * 4;
}

PackedScales::PackedScales(const BlockScaled& matrix, int64_t out, int64_t in)
    : rows_(out),
      groups_(blocks_of(blocks_of(in, matrix.block.columns), 4)),
      words_(static_cast<size_t>(groups_ * column_words())) {
  const int64_t columns = blocks_of(in, matrix.block.columns);
  for (int64_t c = 0; c < columns; ++c)
    for (int64_t r = 0; r < out; ++r)
      words_[static_cast<size_t>(c / 4 * column_words() + r)] |=
          static_cast<uint32_t>(matrix.exponents(r / matrix.block.rows, c).bits) << (c % 4 * 8);
}

Requantized::Requantized(const StoredMatrix& original)
    : original_(original),
      encoded_(with_powers_of_two(original, kept_)),
      error_(encoding_error(values_of(original_), stored())),
      packed_(blocks_of(stored()), original.out, original.in) {}

StoredMatrix Requantized::stored() const { return view_requantized(encoded_, original_); }

PreparedMatrix Requantized::packed() const { return {stored().as, original_.out, original_.in, &packed_}; }

}  // namespace fulgurite
