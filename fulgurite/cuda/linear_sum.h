#pragma once
// One output of a linear, as ops/linear/linear.h defines it: what the generic rows of linear and experts share.

#include <cmath>

#include "fulgurite/core/quantize.h"
#include "fulgurite/cuda/generic.h"
#include "fulgurite/cuda/matrix.h"

namespace fulgurite::cuda {

// Rows of activations, quantized in groups of 128 columns.
struct CodedRows {
  int64_t rows = 0, columns = 0;
  e4m3* codes = nullptr;    // [rows, columns]
  float* scales = nullptr;  // [rows, groups()]

  FULGURITE_HOST_DEVICE int64_t groups() const { return (columns + kActivationGroup - 1) / kActivationGroup; }
};

inline CodedRows coded_rows(Scratch& scratch, int64_t rows, int64_t columns) {
  CodedRows coded{rows, columns};
  coded.codes = scratch.take<e4m3>(rows * columns);
  coded.scales = scratch.take<float>(rows * coded.groups());
  return coded;
}

// Index: a row's group.
struct QuantizeGroups {
  ConstTensor<2> x;
  ScaleRounding rounding;
  CodedRows to;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t row = index / to.groups(), first = index % to.groups() * kActivationGroup;
    const int64_t count = least(kActivationGroup, to.columns - first);
    float values[kActivationGroup];
    for (int64_t i = 0; i < count; ++i) values[i] = load(x, row, first + i);
    to.scales[index] =
        quantize_e4m3({values, static_cast<size_t>(count)}, rounding, to.codes + row * to.columns + first);
  }
};

// The fp8 linear: partial sums of `group` columns, each promoted.
FULGURITE_HOST_DEVICE inline float sum_of_codes(const CodedRows& x, int64_t row, const Matrix& weight,
                                                int64_t n, int64_t group) {
  const e4m3* const codes = x.codes + row * x.columns;
  const float* const scales = x.scales + row * x.groups();
  float acc = 0.0f;
  for (int64_t first = 0; first < x.columns; first += group) {
    double partial = 0.0;
    for (int64_t i = first; i < std::min(x.columns, first + group); ++i)
      partial += static_cast<double>(to_float(codes[i])) * static_cast<double>(weight.code(n, i));
    acc =
        std::fma(static_cast<float>(partial), scales[first / kActivationGroup] * weight.scale(n, first), acc);
  }
  return acc;
}

FULGURITE_HOST_DEVICE inline float sum_of_products(const ConstTensor<2>& x, int64_t row, const Matrix& weight,
                                                   int64_t n, WeightReading reading) {
  double sum = 0.0;
  for (int64_t i = 0; i < x.extent[1]; ++i)
    sum += static_cast<double>(load(x, row, i)) * weight.read(reading, n, i);
  return static_cast<float>(sum);
}

}  // namespace fulgurite::cuda
