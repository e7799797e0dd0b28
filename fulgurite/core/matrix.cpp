#include "fulgurite/core/matrix.h"

namespace fulgurite {
namespace {

MatrixFormat format_of(const MatrixData& data) {
  if (std::holds_alternative<View<const float, 2>>(data)) return {MatrixForm::kF32, {}, ScaleFormat::kF32};
  if (std::holds_alternative<View<const bf16, 2>>(data)) return {MatrixForm::kBF16, {}, ScaleFormat::kF32};
  const BlockScaled& blocks = std::get<BlockScaled>(data);
  return {MatrixForm::kE4M3Blocks, blocks.block, blocks.format};
}

}  // namespace

std::string describe(const MatrixFormat& format) {
  switch (format.form) {
    case MatrixForm::kF32:
      return "f32";
    case MatrixForm::kBF16:
      return "bf16";
    case MatrixForm::kE4M3Blocks:
      return fmt::format("e4m3 {}x{}, scales f32", format.block.rows, format.block.columns);
  }
  FULGURITE_ASSERT(false, "matrix form {}", static_cast<int>(format.form));
}

MatrixFormat format_of(const StoredMatrix& matrix) { return format_of(matrix.as); }
MatrixFormat format_of(const PreparedMatrix& matrix) { return format_of(matrix.as); }

double exact_element(const PreparedMatrix& matrix, int64_t row, int64_t column) {
  if (const auto* f32 = std::get_if<View<const float, 2>>(&matrix.as)) return (*f32)(row, column);
  if (const auto* half = std::get_if<View<const bf16, 2>>(&matrix.as)) return to_float((*half)(row, column));
  const BlockScaled& blocks = std::get<BlockScaled>(matrix.as);
  const double code = to_float(blocks.data(row, column));
  return code * static_cast<double>(blocks.scale(row / blocks.block.rows, column / blocks.block.columns));
}

double element(const PreparedMatrix& matrix, WeightReading reading, int64_t row, int64_t column) {
  const double exact = exact_element(matrix, row, column);
  return reading == WeightReading::kExact ? exact : to_float(to_bf16(exact));
}

}  // namespace fulgurite
