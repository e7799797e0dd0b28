#include "fulgurite/cpu/matmul.h"

#include <algorithm>

#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"

namespace fulgurite::cpu {
namespace {

void read_blocks(const Kernels& kernels, const BlockScaled& weight, WeightReading reading, int64_t row,
                 int64_t first, int64_t count, float* out) {
  const auto* const codes = reinterpret_cast<const uint8_t*>(weight.data[row].data) + first;
  const int64_t block = weight.block.columns;
  uint16_t narrow[kRowTile];
  for (int64_t i = 0, width = 0; i < count; i += width) {
    width = std::min({count - i, block - (first + i) % block, kRowTile});
    const float scale = weight.scale_at(row, first + i);
    if (reading == WeightReading::kExact) {
      kernels.decode_e4m3(codes + i, width, scale, out + i);
    } else {
      kernels.widen_e4m3(codes + i, width, scale, narrow);
      kernels.decode_bf16(narrow, width, out + i);
    }
  }
}

}  // namespace

Rows fp32_rows(const Kernels& kernels, const ConstTensor<2>& x, float* widened) {
  const int64_t rows = x.extent[0], columns = x.extent[1];
  if (x.dtype == DType::kF32) return {x.as<float>().data, x.stride[0], rows};
  for (int64_t t = 0; t < rows; ++t) as_floats(kernels, x[t], 0, columns, widened + t * columns);
  return {widened, columns, rows};
}

int64_t matmul_scratch(int64_t in) { return kWeightTile * ((in + 15) / 16 * 16); }

void read_weight(const Kernels& kernels, const PreparedMatrix& weight, WeightReading reading, int64_t row,
                 int64_t first, int64_t count, float* out) {
  if (const auto* f32 = std::get_if<View<const float, 2>>(&weight.as)) {
    std::copy_n((*f32)[row].data + first, count, out);
    if (reading == WeightReading::kBf16) kernels.round_bf16(out, count);
  } else if (const auto* half = std::get_if<View<const bf16, 2>>(&weight.as)) {
    kernels.decode_bf16(reinterpret_cast<const uint16_t*>((*half)[row].data) + first, count, out);
  } else if (const auto* blocks = std::get_if<BlockScaled>(&weight.as)) {
    read_blocks(kernels, *blocks, reading, row, first, count, out);
  } else if (reading == WeightReading::kExact) {
    decode(weight, row, first, count, out);
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(element(weight, reading, row, first + i));
  }
}

Rows weight_rows(const Kernels& kernels, const PreparedMatrix& weight, int64_t first, int64_t count,
                 float* scratch, WeightReading reading) {
  FULGURITE_ASSERT(count <= kWeightTile, "{} rows, at most {}", count, kWeightTile);
  const auto* const f32 = std::get_if<View<const float, 2>>(&weight.as);
  if (f32 != nullptr && reading == WeightReading::kExact)
    return {f32->data + first * f32->stride[0], f32->stride[0], count};
  const int64_t stride = matmul_scratch(weight.in) / kWeightTile;
  for (int64_t r = 0; r < count; ++r)
    read_weight(kernels, weight, reading, first + r, 0, weight.in, scratch + r * stride);
  return {scratch, stride, count};
}

void matmul(const Kernels& kernels, const Lane& lane, const Product& product, float* scratch) {
  const int64_t tiles = (product.count + kWeightTile - 1) / kWeightTile;
  const int64_t in = product.weight->in;
  if (product.x.count == 0) return;
  parallel_for(lane, tiles, [&](int64_t begin, int64_t end, int thread) {
    float* const own = scratch + thread * matmul_scratch(in);
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t n = tile * kWeightTile;
      const int64_t count = std::min(kWeightTile, product.count - n);
      const Rows w = weight_rows(kernels, *product.weight, product.first + n, count, own, product.reading);
      kernels.dot_rows(product.x, w, in, product.y + n, product.y_stride);
    }
  });
}

}  // namespace fulgurite::cpu
