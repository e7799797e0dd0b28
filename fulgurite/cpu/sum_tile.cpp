#include "fulgurite/cpu/sum_tile.h"

#include "fulgurite/cpu/rows.h"

namespace fulgurite::cpu {

void store_sums(const Kernels& kernels, const float* sums, int64_t lanes, const Tensor<2>& y,
                int64_t first_column) {
  const int64_t stride = tile_lanes(y.extent[0]);
  for (int64_t t = 0; t < y.extent[0]; ++t) {
    const float* const from = sums + t * stride;
    write_floats(kernels, from, first_column, lanes, y[t]);
  }
}

}  // namespace fulgurite::cpu
