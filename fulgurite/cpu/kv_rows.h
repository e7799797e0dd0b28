#pragma once
// Rows of DeepSeek-V4's kv caches, written as core's store_kv_row does, bit for bit.

#include <cstring>

#include "fulgurite/core/kv_row.h"
#include "fulgurite/cpu/kernels.h"

namespace fulgurite::cpu {

// `values`: the row, overwritten with what it becomes.
inline void write_kv_row(const Kernels& kernels, const KvRows& cache, int64_t sequence, int64_t index,
                         KvQuant quant, float* values) {
  const KvRow& row = cache.row;
  std::byte* const to = cache.at(sequence, index);
  for (int64_t first = 0; first < row.nope && quant == KvQuant::kE4m3; first += KvRow::kGroup) {
    const int64_t count = std::min(KvRow::kGroup, row.nope - first);
    uint8_t codes[KvRow::kGroup];
    const float scale = kernels.quantize_e4m3(values + first, count, ScaleRounding::kPow2, codes);
    if (row.form == LatentCache::kFp8) {
      const e8m0 exponent = *exact_e8m0(scale);
      std::memcpy(to + first, codes, static_cast<size_t>(count));
      std::memcpy(cache.scales_at(sequence, index) + first / KvRow::kGroup, &exponent, 1);
    } else {
      kernels.decode_e4m3(codes, count, scale, values + first);
    }
  }
  const int64_t first = row.form == LatentCache::kFp8 ? row.nope : 0;
  std::byte* const plain = row.form == LatentCache::kFp8 ? to + row.rope_offset() : to;
  if (row.form == LatentCache::kFp32)
    std::memcpy(plain, values, static_cast<size_t>(row.width()) * sizeof(float));
  else
    kernels.narrow_bf16(values + first, row.width() - first, reinterpret_cast<uint16_t*>(plain));
}

}  // namespace fulgurite::cpu
