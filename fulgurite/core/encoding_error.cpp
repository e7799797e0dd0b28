#include "fulgurite/core/encoding_error.h"

#include <algorithm>
#include <cmath>
#include <span>

namespace fulgurite {
namespace {

// A scale that is rounded to fp32 puts the largest value of its block a little beyond the largest code.
constexpr double kBeyond = 1.0 + 0x1p-22;

struct Squares {
  double differences = 0.0, values = 0.0;

  double relative() const { return differences == 0.0 ? 0.0 : std::sqrt(differences / values); }
  void add(const Squares& other) {
    differences += other.differences;
    values += other.values;
  }
};

bool is_largest(const StoredMatrix& matrix, int64_t row, int64_t column, double decoded) {
  const MatrixFormat format = format_of(matrix);
  if (!has_scales(format)) return std::isinf(decoded);
  return std::fabs(code_of(matrix.as, row, column)) == (is_fp4(format) ? kLargestE2m1 : kLargestE4m3);
}

// Row by row, the blocks of a scale's rows together.
class Measure {
 public:
  Measure(const MatrixValues& values, const StoredMatrix& encoded)
      : values_(values),
        encoded_(encoded),
        block_(has_scales(format_of(encoded)) ? format_of(encoded).block : BlockShape{1, kWhole}),
        blocks_(static_cast<size_t>((encoded.in + block_.columns - 1) / block_.columns)) {}

  EncodingError run() {
    std::vector<double> exact(static_cast<size_t>(encoded_.in)), decoded(exact.size());
    for (int64_t row = 0; row < encoded_.out; ++row) {
      values_.row(row, exact.data());
      exact_row(encoded_, row, decoded.data());
      for (int64_t column = 0; column < encoded_.in; ++column)
        take(row, column, exact[static_cast<size_t>(column)], decoded[static_cast<size_t>(column)]);
      if ((row + 1) % block_.rows == 0 || row + 1 == encoded_.out)
        finish_blocks(row / block_.rows * block_.rows);
    }
    error_.relative = all_.relative();
    return error_;
  }

 private:
  void take(int64_t row, int64_t column, double exact, double decoded) {
    if (!std::isfinite(exact)) return;
    const double difference = decoded - exact;
    Squares& block = blocks_[static_cast<size_t>(column / block_.columns)];
    block.differences += difference * difference;
    block.values += exact * exact;
    if (difference == 0.0) return;
    error_.flushed += decoded == 0.0;
    const bool beyond = std::isinf(decoded) || std::fabs(exact) > std::fabs(decoded) * kBeyond;
    error_.saturated += beyond && is_largest(encoded_, row, column, decoded);
  }

  void finish_blocks(int64_t row) {
    for (size_t b = 0; b < blocks_.size(); ++b) {
      all_.add(blocks_[b]);
      const double relative = blocks_[b].relative();
      if (!(relative <= error_.worst_block) && !std::isnan(error_.worst_block)) {  // the first NaN stays
        error_.worst_block = relative;
        error_.worst_row = row;
        error_.worst_column = static_cast<int64_t>(b) * block_.columns;
      }
      blocks_[b] = {};
    }
  }

  const MatrixValues& values_;
  const StoredMatrix& encoded_;
  const BlockShape block_;
  std::vector<Squares> blocks_;  // of the rows at hand
  Squares all_;
  EncodingError error_;
};

}  // namespace

EncodingError encoding_error(const MatrixValues& values, const StoredMatrix& encoded) {
  return Measure(values, encoded).run();
}

}  // namespace fulgurite
