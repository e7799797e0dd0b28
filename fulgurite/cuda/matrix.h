#pragma once
// A prepared matrix as kernels are handed it: by value, its form a number. Elements as core/matrix.h defines
// them.

#include "fulgurite/core/element.h"
#include "fulgurite/core/matrix.h"

namespace fulgurite::cuda {

class Matrix {
 public:
  Matrix() = default;
  explicit Matrix(const PreparedMatrix& matrix) : form_(format_of(matrix).form) {
    std::visit([this](const auto& m) { take(m); }, matrix.as);
  }

  // code * scale, exactly.
  FULGURITE_HOST_DEVICE double exact(int64_t row, int64_t column) const {
    if (form_ == MatrixForm::kF32) return f32_(row, column);
    if (form_ == MatrixForm::kBF16) return to_float(bf16_(row, column));
    double value = static_cast<double>(code(row, column)) * static_cast<double>(group_scale(row, column));
    if (form_ == MatrixForm::kNvfp4) value *= static_cast<double>(global_[0]);
    return value;
  }
  FULGURITE_HOST_DEVICE double read(WeightReading reading, int64_t row, int64_t column) const {
    const double value = exact(row, column);
    return reading == WeightReading::kExact ? value : static_cast<double>(to_float(to_bf16(value)));
  }

  FULGURITE_HOST_DEVICE float code(int64_t row, int64_t column) const {
    if (form_ == MatrixForm::kE4M3Blocks) return to_float(codes_(row, column));
    return to_float(unpack(pairs_(row, column / 2), column));
  }
  // Of the group of an element; NVFP4's times the tensor's.
  FULGURITE_HOST_DEVICE float scale(int64_t row, int64_t column) const {
    const float scale = group_scale(row, column);
    return form_ == MatrixForm::kNvfp4 ? scale * global_[0] : scale;
  }

 private:
  FULGURITE_HOST_DEVICE float group_scale(int64_t row, int64_t column) const {
    if (form_ == MatrixForm::kMxfp4) return to_float(exponents_(row, column / 32));
    if (form_ == MatrixForm::kNvfp4) return to_float(fp8_scales_(row, column / 16));
    const int64_t r = row / block_.rows, c = column / block_.columns;
    return exponents_ ? to_float(exponents_(r, c)) : scales_(r, c);
  }

  void take(const View<const float, 2>& m) { f32_ = m; }
  void take(const View<const bf16, 2>& m) { bf16_ = m; }
  void take(const BlockScaled& m) {
    codes_ = m.data;
    block_ = m.block;
    if (m.format == ScaleFormat::kE8M0)
      exponents_ = m.exponents;
    else
      scales_ = m.scale;
  }
  void take(const Mxfp4& m) {
    pairs_ = m.data;
    exponents_ = m.scale;
  }
  void take(const Nvfp4& m) {
    pairs_ = m.data;
    fp8_scales_ = m.scale;
    global_ = m.global.data;
  }

  MatrixForm form_ = MatrixForm::kF32;
  BlockShape block_{1, 1};
  View<const float, 2> f32_, scales_;
  View<const bf16, 2> bf16_;
  View<const e4m3, 2> codes_, fp8_scales_;
  View<const e2m1x2, 2> pairs_;
  View<const e8m0, 2> exponents_;
  const float* global_ = nullptr;
};

}  // namespace fulgurite::cuda
