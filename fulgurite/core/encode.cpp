#include "fulgurite/core/encode.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <span>

#include "fulgurite/core/error.h"

namespace fulgurite {
namespace {

constexpr float kPerE4m3 = static_cast<float>(1.0 / 448.0);
constexpr float kPerE2m1 = static_cast<float>(1.0 / 6.0);
constexpr float kSmallestScale = 0x1p-126f;
constexpr float kSmallestFp4Amax = 0x1.8p-124f;  // 6 * 2^-126

// Elements written one after the other; `count` bytes in all.
class Bytes {
 public:
  explicit Bytes(int64_t count) : bytes_(static_cast<size_t>(count)) {}
  template <class T>
  void add(T element) {
    std::memcpy(bytes_.data() + at_, &element, sizeof element);
    at_ += sizeof element;
  }
  std::vector<std::byte> take() {
    FULGURITE_ASSERT(at_ == bytes_.size(), "{} bytes written of {}", at_, bytes_.size());
    return std::move(bytes_);
  }

 private:
  std::vector<std::byte> bytes_;
  size_t at_ = 0;
};

// Some rows of the matrix as fp32.
class Rows {
 public:
  explicit Rows(const MatrixValues& values) : values_(values), exact_(static_cast<size_t>(values.in)) {}

  void read(int64_t first, int64_t count) {
    rows_.resize(static_cast<size_t>(count * values_.in));
    for (int64_t r = 0; r < count; ++r) {
      values_.row(first + r, exact_.data());
      std::ranges::transform(exact_, rows_.begin() + r * values_.in,
                             [](double value) { return static_cast<float>(value); });
    }
  }
  std::span<const float> part(int64_t row, int64_t first, int64_t count) const {
    return std::span(rows_).subspan(static_cast<size_t>(row * values_.in + first),
                                    static_cast<size_t>(count));
  }

 private:
  const MatrixValues& values_;
  std::vector<double> exact_;
  std::vector<float> rows_;
};

// The larger of amax and all magnitudes; NaN where any value is NaN or infinite.
float largest_magnitude(float amax, std::span<const float> x) {
  for (const float value : x) {
    if (!std::isfinite(value) || std::isnan(amax)) return NAN;
    amax = std::max(amax, std::fabs(value));
  }
  return amax;
}

void add_scale(Bytes& scales, float scale, ScaleFormat format) {
  if (format == ScaleFormat::kF32) return scales.add(scale);
  const std::optional<e8m0> exponent = exact_e8m0(scale);
  FULGURITE_ASSERT(exponent.has_value(), "a scale of {} is no power of two", scale);
  scales.add(*exponent);
}

void add_codes(Bytes& data, std::span<const float> x, float scale) {
  for (size_t i = 0; i + 1 < x.size(); i += 2)
    data.add(pack(to_e2m1(x[i] / scale), to_e2m1(x[i + 1] / scale)));
}

template <class T>
View<const T, 2> view(const std::vector<std::byte>& bytes, int64_t rows, int64_t columns) {
  FULGURITE_ASSERT(bytes.size() == static_cast<size_t>(rows * columns) * sizeof(T), "{} bytes of [{}, {}]",
                   bytes.size(), rows, columns);
  return {reinterpret_cast<const T*>(bytes.data()), {rows, columns}};
}

float finite_magnitude(std::span<const float> x) {
  const float amax = largest_magnitude(0.0f, x);
  if (std::isnan(amax)) fail(ErrorKind::kModel, "NaN or infinity has no fp4 code");
  return amax;
}

}  // namespace

StoredMatrix view_of(const EncodedMatrix& encoded, const MatrixFormat& format, int64_t out, int64_t in) {
  const int64_t rows = has_scales(format) ? (out + format.block.rows - 1) / format.block.rows : 0;
  const int64_t columns = has_scales(format) ? (in + format.block.columns - 1) / format.block.columns : 0;
  const auto scales = [&]<class T>(T) { return view<T>(encoded.scale, rows, columns); };
  switch (format.form) {
    case MatrixForm::kF32:
      return {view<float>(encoded.data, out, in), out, in};
    case MatrixForm::kBF16:
      return {view<bf16>(encoded.data, out, in), out, in};
    case MatrixForm::kE4M3Blocks: {
      BlockScaled blocks{view<e4m3>(encoded.data, out, in), {}, format.block, format.scale, {}};
      if (format.scale == ScaleFormat::kE8M0)
        blocks.exponents = scales(e8m0{});
      else
        blocks.scale = scales(float{});
      return {blocks, out, in};
    }
    case MatrixForm::kMxfp4:
      return {Mxfp4{view<e2m1x2>(encoded.data, out, in / 2), scales(e8m0{})}, out, in};
    case MatrixForm::kNvfp4:
      return {Nvfp4{view<e2m1x2>(encoded.data, out, in / 2),
                    scales(e4m3{}),
                    {reinterpret_cast<const float*>(encoded.global.data()), {1}}},
              out, in};
  }
  FULGURITE_ASSERT(false, "matrix form {}", static_cast<int>(format.form));
}

float weight_scale(float amax, ScaleRounding rounding) {
  if (amax == 0.0f) return 1.0f;
  const float scale = std::max(amax * kPerE4m3, kSmallestScale);
  return rounding == ScaleRounding::kPow2 ? round_up_to_pow2(scale) : scale;
}

EncodedMatrix encode_bf16(const MatrixValues& values) {
  Bytes data(values.out * values.in * 2);
  std::vector<double> row(static_cast<size_t>(values.in));
  for (int64_t r = 0; r < values.out; ++r) {
    values.row(r, row.data());
    for (const double value : row) data.add(to_bf16(value));
  }
  return {data.take(), {}, {}};
}

EncodedMatrix encode_e4m3(const MatrixValues& values, BlockShape block, ScaleFormat format,
                          ScaleRounding rounding) {
  const int64_t blocks = (values.in + block.columns - 1) / block.columns;
  const int64_t block_rows = (values.out + block.rows - 1) / block.rows;
  Bytes data(values.out * values.in), scales(block_rows * blocks * (format == ScaleFormat::kF32 ? 4 : 1));
  Rows rows(values);
  std::vector<float> row_scales(static_cast<size_t>(blocks));
  for (int64_t first = 0; first < values.out; first += block.rows) {
    const int64_t count = std::min(block.rows, values.out - first);
    rows.read(first, count);
    const auto part = [&](int64_t row, int64_t b) {
      return rows.part(row, b * block.columns, std::min(block.columns, values.in - b * block.columns));
    };
    std::vector<bool> finite(static_cast<size_t>(blocks));
    for (int64_t b = 0; b < blocks; ++b) {
      float amax = 0.0f;
      for (int64_t r = 0; r < count; ++r) amax = largest_magnitude(amax, part(r, b));
      const auto at = static_cast<size_t>(b);
      finite[at] = !std::isnan(amax);
      row_scales[at] = finite[at] ? weight_scale(amax, rounding) : 1.0f;
      add_scale(scales, row_scales[at], format);
    }
    for (int64_t r = 0; r < count; ++r)
      for (int64_t b = 0; b < blocks; ++b)
        for (const float value : part(r, b)) {
          const auto at = static_cast<size_t>(b);
          data.add(finite[at] ? to_e4m3(value / row_scales[at]) : e4m3{0x7F});
        }
  }
  return {data.take(), scales.take(), {}};
}

EncodedMatrix encode_mxfp4(const MatrixValues& values) {
  constexpr int64_t kGroup = 32;
  Bytes data(values.out * values.in / 2), scales(values.out * values.in / kGroup);
  Rows rows(values);
  for (int64_t r = 0; r < values.out; ++r) {
    rows.read(r, 1);
    for (int64_t i = 0; i < values.in; i += kGroup) {
      const std::span<const float> group = rows.part(0, i, kGroup);
      const float amax = finite_magnitude(group);
      const float scale = round_up_to_pow2(std::max(amax, kSmallestFp4Amax) * kPerE2m1);
      add_scale(scales, scale, ScaleFormat::kE8M0);
      add_codes(data, group, scale);
    }
  }
  return {data.take(), scales.take(), {}};
}

EncodedMatrix encode_nvfp4(const MatrixValues& values) {
  constexpr int64_t kGroup = 16;
  Rows rows(values);
  float largest = 0.0f;
  for (int64_t r = 0; r < values.out; ++r) {
    rows.read(r, 1);
    largest = std::max(largest, finite_magnitude(rows.part(0, 0, values.in)));
  }
  const float global =
      largest == 0.0f ? 1.0f : std::max(largest / (kLargestE4m3 * kLargestE2m1), kSmallestScale);
  Bytes data(values.out * values.in / 2), scales(values.out * values.in / kGroup), global_bytes(4);
  global_bytes.add(global);
  for (int64_t r = 0; r < values.out; ++r) {
    rows.read(r, 1);
    for (int64_t i = 0; i < values.in; i += kGroup) {
      const std::span<const float> group = rows.part(0, i, kGroup);
      const e4m3 scale = to_e4m3(finite_magnitude(group) / kLargestE2m1 / global);
      scales.add(scale);
      const float step = to_float(scale) * global;
      add_codes(data, group, step == 0.0f ? 1.0f : step);
    }
  }
  return {data.take(), scales.take(), global_bytes.take()};
}

}  // namespace fulgurite
