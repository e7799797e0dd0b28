#include "fulgurite/core/matrix.h"

#include <array>

namespace fulgurite {
namespace {

template <class... Ts>
struct overloaded : Ts... {
  using Ts::operator()...;
};
template <class... Ts>
overloaded(Ts...) -> overloaded<Ts...>;  // clang below 17 does not deduce it

constexpr int64_t kMxfp4Group = 32;
constexpr int64_t kNvfp4Group = 16;

MatrixFormat format_of(const MatrixData& data) {
  return std::visit(
      overloaded{[](const View<const float, 2>&) {
                   return MatrixFormat{MatrixForm::kF32, {}, ScaleFormat::kF32};
                 },
                 [](const View<const bf16, 2>&) {
                   return MatrixFormat{MatrixForm::kBF16, {}, ScaleFormat::kF32};
                 },
                 [](const BlockScaled& m) {
                   return MatrixFormat{MatrixForm::kE4M3Blocks, m.block, m.format};
                 },
                 [](const Mxfp4&) {
                   return MatrixFormat{MatrixForm::kMxfp4, {1, kMxfp4Group}, ScaleFormat::kE8M0};
                 },
                 [](const Nvfp4&) {
                   return MatrixFormat{MatrixForm::kNvfp4, {1, kNvfp4Group}, ScaleFormat::kE4M3};
                 }},
      data);
}

double value(const View<const float, 2>& m, int64_t row, int64_t column) { return m(row, column); }
double value(const View<const bf16, 2>& m, int64_t row, int64_t column) { return to_float(m(row, column)); }
double value(const BlockScaled& m, int64_t row, int64_t column) {
  const double code = to_float(m.data(row, column));
  return code * static_cast<double>(m.scale_at(row, column));
}
double value(const Mxfp4& m, int64_t row, int64_t column) {
  const double code = to_float(unpack(m.data(row, column / 2), column));
  return code * static_cast<double>(to_float(m.scale(row, column / kMxfp4Group)));
}
double value(const Nvfp4& m, int64_t row, int64_t column) {
  const double code = to_float(unpack(m.data(row, column / 2), column));
  const double scale = to_float(m.scale(row, column / kNvfp4Group));
  return code * scale * static_cast<double>(m.global(0));
}

double exact_element(const MatrixData& data, int64_t row, int64_t column) {
  return std::visit([&](const auto& m) { return value(m, row, column); }, data);
}

std::string describe(const BlockShape& block) {
  if (block == BlockShape{kWhole, kWhole}) return "per tensor";
  if (block == BlockShape{1, kWhole}) return "per channel";
  return fmt::format("{}x{}", block.rows, block.columns);
}

template <class T>
View<const T, 2> some_rows(const View<const T, 2>& view, int64_t first, int64_t count) {
  return view ? view.slice(0, first, count) : view;
}

}  // namespace

std::string describe(const MatrixFormat& format) {
  static constexpr std::array<std::string_view, 4> kLayouts{"", " column-major", " packed in int32",
                                                            " in tiles"};
  const auto layout = static_cast<size_t>(format.layout);
  const std::string_view placed = layout < kLayouts.size() ? kLayouts[layout] : " in an unknown layout";
  switch (format.form) {
    case MatrixForm::kF32:
      return "f32";
    case MatrixForm::kBF16:
      return "bf16";
    case MatrixForm::kE4M3Blocks:
      return fmt::format("e4m3 {}, scales {}{}", describe(format.block),
                         format.scale == ScaleFormat::kE8M0 ? "e8m0" : "f32", placed);
    case MatrixForm::kMxfp4:
      return fmt::format("e2m1 {}, scales e8m0{}", describe(format.block), placed);
    case MatrixForm::kNvfp4:
      return fmt::format("e2m1 {}, scales e4m3 x f32", describe(format.block));
  }
  FULGURITE_ASSERT(false, "matrix form {}", static_cast<int>(format.form));
}

MatrixFormat format_of(const StoredMatrix& matrix) { return format_of(matrix.as); }
MatrixFormat format_of(const PreparedMatrix& matrix) {
  MatrixFormat format = format_of(matrix.as);
  if (matrix.packed != nullptr) format.layout = ScaleLayout::kPacked;
  return format;
}

StoredMatrix rows_of(const StoredMatrix& matrix, int64_t first, int64_t count) {
  const auto part = overloaded{
      [&](const auto& m) -> MatrixData { return some_rows(m, first, count); },
      [&](const BlockScaled& m) -> MatrixData {
        if (m.block.rows == kWhole)
          return BlockScaled{some_rows(m.data, first, count), m.scale, m.block, m.format, m.exponents};
        FULGURITE_ASSERT(first % m.block.rows == 0, "row {} is inside a block of {}", first, m.block.rows);
        const int64_t block = first / m.block.rows, blocks = (count + m.block.rows - 1) / m.block.rows;
        return BlockScaled{some_rows(m.data, first, count), some_rows(m.scale, block, blocks), m.block,
                           m.format, some_rows(m.exponents, block, blocks)};
      },
      [&](const Mxfp4& m) -> MatrixData {
        return Mxfp4{some_rows(m.data, first, count), some_rows(m.scale, first, count)};
      },
      [&](const Nvfp4& m) -> MatrixData {
        return Nvfp4{some_rows(m.data, first, count), some_rows(m.scale, first, count), m.global};
      }};
  return {std::visit(part, matrix.as), count, matrix.in};
}

float code_of(const MatrixData& matrix, int64_t row, int64_t column) {
  if (const auto* const blocks = std::get_if<BlockScaled>(&matrix))
    return to_float(blocks->data(row, column));
  const auto pair = [&](const auto& m) { return to_float(unpack(m.data(row, column / 2), column)); };
  if (const auto* const groups = std::get_if<Mxfp4>(&matrix)) return pair(*groups);
  return pair(std::get<Nvfp4>(matrix));
}

float scale_of(const MatrixData& matrix, int64_t row, int64_t column) {
  if (const auto* const blocks = std::get_if<BlockScaled>(&matrix)) return blocks->scale_at(row, column);
  if (const auto* const groups = std::get_if<Mxfp4>(&matrix))
    return to_float(groups->scale(row, column / kMxfp4Group));
  const Nvfp4& groups = std::get<Nvfp4>(matrix);
  return to_float(groups.scale(row, column / kNvfp4Group)) * groups.global(0);
}

double exact_element(const PreparedMatrix& matrix, int64_t row, int64_t column) {
  return exact_element(matrix.as, row, column);
}
double exact_element(const StoredMatrix& matrix, int64_t row, int64_t column) {
  return exact_element(matrix.as, row, column);
}

void exact_row(const StoredMatrix& matrix, int64_t row, double* out) {
  std::visit(
      [&](const auto& m) {
        for (int64_t i = 0; i < matrix.in; ++i) out[i] = value(m, row, i);
      },
      matrix.as);
}

void decode(const PreparedMatrix& matrix, int64_t row, int64_t first, int64_t count, float* out) {
  std::visit(
      [&](const auto& m) {
        for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(value(m, row, first + i));
      },
      matrix.as);
}

double element(const PreparedMatrix& matrix, WeightReading reading, int64_t row, int64_t column) {
  const double exact = exact_element(matrix, row, column);
  return reading == WeightReading::kExact ? exact : to_float(to_bf16(exact));
}

}  // namespace fulgurite
