#include "fulgurite/cpu/sum_tile.h"

#include <cstring>

namespace fulgurite::cpu {

void store_sums(const Kernels& kernels, const float* sums, int64_t lanes, const Tensor<2>& y,
                int64_t first_column) {
  const int64_t stride = tile_lanes(y.extent[0]);
  for (int64_t t = 0; t < y.extent[0]; ++t) {
    const float* const from = sums + t * stride;
    if (y.dtype == DType::kBF16)
      kernels.narrow_bf16(from, lanes, reinterpret_cast<uint16_t*>(&y.as<bf16>()(t, first_column)));
    else
      std::memcpy(&y.as<float>()(t, first_column), from, static_cast<size_t>(lanes) * sizeof(float));
  }
}

}  // namespace fulgurite::cpu
