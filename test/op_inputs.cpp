#include "test/op_inputs.h"

#include <cmath>
#include <cstring>
#include <span>

namespace fulgurite::inputs {
namespace {

float draw(Random& random, Values values, int64_t i) {
  switch (values) {
    case Values::kNormal:
      return static_cast<float>(random.normal());
    case Values::kOutliers:
      return static_cast<float>(random.normal() * (random.below(64) == 0 ? 1000.0 : 1.0));
    case Values::kDenormal:
      return random.below(4) == 0 ? (random.below(2) == 0 ? 0.0f : -0.0f)
                                  : static_cast<float>(random.normal() * 1e-40);
    case Values::kConstant:
      return 0.5f;
    case Values::kCancelling:
      return static_cast<float>((i % 2 == 0 ? 1.0 : -1.0) * (4096.0 + random.normal()));
  }
  FULGURITE_ASSERT(false, "values {}", static_cast<int>(values));
}

std::vector<float> fill(Random& random, Values values, int64_t n) {
  std::vector<float> elements(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) elements[static_cast<size_t>(i)] = draw(random, values, i);
  return elements;
}

// A code of any value but NaN.
e4m3 draw_code(Random& random) {
  const auto bits = static_cast<uint8_t>(random.below(256));
  return {(bits & 0x7F) == 0x7F ? static_cast<uint8_t>(bits ^ 1) : bits};
}

}  // namespace

std::string name(Values values) {
  static const char* const kNames[] = {"normal", "outliers", "denormal", "constant", "cancelling"};
  return kNames[static_cast<int>(values)];
}

Buffer<1> make(Random& random, Values values, int64_t n) {
  Buffer<1> buffer{fill(random, values, n), {}};
  buffer.view = {buffer.elements.data(), {n}};
  return buffer;
}

Buffer<2> make(Random& random, Values values, int64_t rows, int64_t columns) {
  Buffer<2> buffer{fill(random, values, rows * columns), {}};
  buffer.view = {buffer.elements.data(), {rows, columns}};
  return buffer;
}

Buffer<3> make(Random& random, Values values, int64_t a, int64_t b, int64_t c) {
  Buffer<3> buffer{fill(random, values, a * b * c), {}};
  buffer.view = {buffer.elements.data(), {a, b, c}};
  return buffer;
}

namespace {

template <int Rank>
TensorBuffer<Rank> drawn(Random& random, Values values, DType dtype, std::array<int64_t, Rank> extent) {
  TensorBuffer<Rank> buffer = unwritten<Rank>(dtype, extent);
  Tensor<1> flat;
  flat.data = buffer.view.data;
  flat.dtype = dtype;
  flat.extent = {View<std::byte, Rank>(nullptr, extent).size()};
  flat.stride = {1};
  for (int64_t i = 0; i < flat.extent[0]; ++i) store(flat, draw(random, values, i), i);
  return buffer;
}

}  // namespace

TensorBuffer<1> make_tensor(Random& random, Values values, DType dtype, std::array<int64_t, 1> extent) {
  return drawn<1>(random, values, dtype, extent);
}
TensorBuffer<2> make_tensor(Random& random, Values values, DType dtype, std::array<int64_t, 2> extent) {
  return drawn<2>(random, values, dtype, extent);
}
TensorBuffer<3> make_tensor(Random& random, Values values, DType dtype, std::array<int64_t, 3> extent) {
  return drawn<3>(random, values, dtype, extent);
}

namespace {

// Any codes, behind them the scales: near 2^-7, of NVFP4 in both factors.
MatrixData make_fp4(Random& random, int64_t out, int64_t in, const MatrixFormat& format,
                    std::span<std::byte> memory) {
  const int64_t codes = out * in / 2, columns = in / format.block.columns;
  auto* const at = reinterpret_cast<uint8_t*>(memory.data());
  for (int64_t i = 0; i < codes; ++i) at[i] = static_cast<uint8_t>(random.below(256));
  const bool mx = format.form == MatrixForm::kMxfp4;
  for (int64_t i = 0; i < out * columns; ++i)
    at[codes + i] =
        mx ? static_cast<uint8_t>(117 + random.below(6)) : static_cast<uint8_t>(1 + random.below(64));
  const View<const e2m1x2, 2> data(reinterpret_cast<const e2m1x2*>(at), {out, in / 2});
  const std::array<int64_t, 2> shape{out, columns};
  if (mx) return Mxfp4{data, {reinterpret_cast<const e8m0*>(at + codes), shape}};
  static constexpr float kGlobal = 0.0123f;
  return Nvfp4{data, {reinterpret_cast<const e4m3*>(at + codes), shape}, {&kGlobal, {1}}};
}

}  // namespace

Weight make_weight(Random& random, int64_t out, int64_t in, const MatrixFormat& format, Scales scales) {
  Weight weight;
  weight.data = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(out * in * 4));
  weight.matrix.out = out;
  weight.matrix.in = in;
  if (format.form == MatrixForm::kF32) {
    auto* const at = reinterpret_cast<float*>(weight.data->data());
    for (int64_t i = 0; i < out * in; ++i) at[i] = static_cast<float>(random.normal());
    weight.matrix.as = View<const float, 2>(at, {out, in});
  } else if (format.form == MatrixForm::kBF16) {
    auto* const at = reinterpret_cast<bf16*>(weight.data->data());
    for (int64_t i = 0; i < out * in; ++i) at[i] = to_bf16(static_cast<float>(random.normal()));
    weight.matrix.as = View<const bf16, 2>(at, {out, in});
  } else if (is_fp4(format)) {
    weight.matrix.as = make_fp4(random, out, in, format, *weight.data);
  } else {
    auto* const at = reinterpret_cast<e4m3*>(weight.data->data());
    for (int64_t i = 0; i < out * in; ++i) at[i] = draw_code(random);
    const int64_t rows = (out + format.block.rows - 1) / format.block.rows;
    const int64_t columns = (in + format.block.columns - 1) / format.block.columns;
    weight.scales = std::make_shared<std::vector<float>>(static_cast<size_t>(rows * columns));
    for (float& scale : *weight.scales) {
      const double power = std::exp2(static_cast<double>(random.below(6)) - 10.0);
      scale = static_cast<float>(scales == Scales::kPow2 ? power : power * random.uniform(1.0, 2.0));
    }
    weight.matrix.as =
        BlockScaled{View<const e4m3, 2>(at, {out, in}),
                    View<const float, 2>(weight.scales->data(), {rows, columns}), format.block, format.scale};
  }
  return weight;
}

std::vector<MatrixFormat> all_formats() {
  return {{MatrixForm::kF32, {}, ScaleFormat::kF32},
          {MatrixForm::kBF16, {}, ScaleFormat::kF32},
          {MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32},
          {MatrixForm::kE4M3Blocks, {32, 48}, ScaleFormat::kF32}};
}

}  // namespace fulgurite::inputs
