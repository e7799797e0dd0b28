#include "fulgurite/ops/latent_prepare/latent_row.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "fulgurite/core/element.h"
#include "fulgurite/core/quantize.h"

namespace fulgurite::latent_prepare {
namespace {

// fp32 or bf16 values at `at`.
void write(LatentCache form, std::span<const float> values, std::byte* at) {
  for (const float value : values) {
    const bf16 narrow = to_bf16(value);
    if (form == LatentCache::kFp32)
      std::memcpy(at, &value, sizeof value);
    else
      std::memcpy(at, &narrow, sizeof narrow);
    at += form == LatentCache::kFp32 ? sizeof value : sizeof narrow;
  }
}

void write_quantized(const LatentRow& form, std::span<const float> latent, std::byte* row) {
  for (int64_t group = 0; group < form.groups(); ++group) {
    const int64_t first = group * LatentRow::kGroup, count = std::min(LatentRow::kGroup, form.latent - first);
    const auto values = latent.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
    const float scale = quantize_e4m3(values, ScaleRounding::kPow2, reinterpret_cast<e4m3*>(row + first));
    std::memcpy(row + form.scales_offset() + group * 4, &scale, sizeof scale);
  }
}

}  // namespace

void store_row(const LatentRows& cache, TokenPlace place, const ConstTensor<1>& values) {
  std::vector<float> all;
  for (int64_t i = 0; i < values.extent[0]; ++i) all.push_back(load(values, i));
  const auto latent = std::span(all).first(static_cast<size_t>(cache.row.latent));
  std::byte* const row = cache.at(place);
  if (cache.row.form == LatentCache::kFp8)
    write_quantized(cache.row, latent, row);
  else
    write(cache.row.form, latent, row);
  write(cache.row.form, std::span(all).subspan(latent.size()), row + cache.row.rope_offset());
}

}  // namespace fulgurite::latent_prepare
