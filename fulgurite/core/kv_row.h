#pragma once
// The rows of DeepSeek-V4's kv caches (the window's ring and the compressed entries): `nope` values, then
// `rope` rotated ones. Rows stand in blocks of 64:
//   fp32  64 rows of [nope + rope] f32                     bf16  64 rows of [nope + rope] bf16
//   fp8   64 rows of [nope] e4m3 | [rope] bf16, then the rows' scales, an e8m0 for 64 values of nope, padded
//         to 8 bytes a row; the block padded to a multiple of the row. 448 + 64: 576 and 8 bytes, a block
//         37440
// Rows are multiples of 4 bytes. The fp8 form is FlashMLA's of DeepSeek-V4; it needs kv_quant = e4m3.

#include <algorithm>
#include <cstring>
#include <span>

#include "fulgurite/core/bf16.h"
#include "fulgurite/core/host_device.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/quantize.h"
#include "fulgurite/core/view.h"

namespace fulgurite {

struct KvRow {
  LatentCache form = LatentCache::kFp32;
  int64_t nope = 448;
  int64_t rope = 64;
  bool operator==(const KvRow&) const = default;

  static constexpr int64_t kGroup = 64;      // values of nope that share a scale
  static constexpr int64_t kBlockRows = 64;  // rows of a block

  FULGURITE_HOST_DEVICE int64_t width() const { return nope + rope; }
  FULGURITE_HOST_DEVICE int64_t groups() const { return (nope + kGroup - 1) / kGroup; }
  FULGURITE_HOST_DEVICE int64_t element_bytes() const {
    return form == LatentCache::kFp32 ? 4 : 2;
  }  // of what is no code
  FULGURITE_HOST_DEVICE int64_t rope_offset() const {
    return form == LatentCache::kFp8 ? (nope + 3) / 4 * 4 : nope * element_bytes();
  }
  FULGURITE_HOST_DEVICE int64_t bytes() const {
    return (rope_offset() + rope * element_bytes() + 3) / 4 * 4;
  }  // without scales
  FULGURITE_HOST_DEVICE int64_t scale_bytes() const {
    return form == LatentCache::kFp8 ? (groups() + 7) / 8 * 8 : 0;
  }
  FULGURITE_HOST_DEVICE int64_t scales_offset() const { return kBlockRows * bytes(); }  // in a block
  FULGURITE_HOST_DEVICE int64_t block_bytes() const {
    const int64_t used = kBlockRows * (bytes() + scale_bytes());
    return (used + bytes() - 1) / bytes() * bytes();
  }
  FULGURITE_HOST_DEVICE static int64_t blocks(int64_t rows) { return (rows + kBlockRows - 1) / kBlockRows; }
  // Of a cache: all its sequences' blocks.
  int64_t cache_bytes(int64_t sequences, int64_t rows) const {
    return sequences * blocks(rows) * block_bytes();
  }

  // Value i as attention reads it; `scales` are the row's (fp8 alone). With kv_quant = e4m3 exact in bf16.
  FULGURITE_HOST_DEVICE float value(const std::byte* row, const std::byte* scales, int64_t i) const {
    if (form == LatentCache::kFp32) return read<float>(row + 4 * i);
    if (form == LatentCache::kBf16) return to_float(read<bf16>(row + 2 * i));
    if (i >= nope) return to_float(read<bf16>(row + rope_offset() + 2 * (i - nope)));
    return to_float(e4m3{std::to_integer<uint8_t>(row[i])}) *
           to_float(e8m0{std::to_integer<uint8_t>(scales[i / kGroup])});
  }

  template <class T>
  FULGURITE_HOST_DEVICE static T read(const std::byte* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }
};

// The rows that a plan's numerics ask for, and why they may not be had.
inline KvRow kv_row(const Numerics& numerics, int64_t nope, int64_t rope) {
  return {numerics.latent_cache, nope, rope};
}
inline Support takes_kv_row(const Numerics& numerics) {
  const Support listed = first_refusal(
      {takes(numerics.latent_cache, {LatentCache::kFp32, LatentCache::kBf16, LatentCache::kFp8}),
       takes(numerics.kv_quant, {KvQuant::kNone, KvQuant::kE4m3})});
  if (listed || numerics.latent_cache != LatentCache::kFp8 || numerics.kv_quant == KvQuant::kE4m3)
    return listed;
  return Refusal{"kv_quant = none, latent_cache = fp8 takes e4m3"};
}

// A cache of `sequences` times blocks(rows) blocks; row r of a sequence is row r % 64 of its block r / 64.
template <class Byte>
struct KvCacheView {
  KvRow row;
  View<Byte, 3> blocks;  // [sequences, KvRow::blocks(rows), row.block_bytes()], the last contiguous

  operator KvCacheView<const std::byte>() const requires(!std::is_const_v<Byte>) { return {row, blocks}; }
  FULGURITE_HOST_DEVICE explicit operator bool() const { return static_cast<bool>(blocks); }

  FULGURITE_HOST_DEVICE Byte* at(int64_t sequence, int64_t index) const {
    return block(sequence, index) + index % KvRow::kBlockRows * row.bytes();
  }
  FULGURITE_HOST_DEVICE Byte* scales_at(int64_t sequence, int64_t index) const {  // fp8 alone
    return block(sequence, index) + row.scales_offset() + index % KvRow::kBlockRows * row.scale_bytes();
  }
  FULGURITE_HOST_DEVICE float value(int64_t sequence, int64_t index, int64_t i) const {
    return row.value(at(sequence, index), scales_at(sequence, index), i);
  }

 private:
  FULGURITE_HOST_DEVICE Byte* block(int64_t sequence, int64_t index) const {
    return blocks.data + sequence * blocks.stride[0] + index / KvRow::kBlockRows * blocks.stride[1];
  }
};
using KvRows = KvCacheView<std::byte>;
using ConstKvRows = KvCacheView<const std::byte>;

// values[0, count) of one group through the quantizer: its codes, and what they are worth.
struct KvGroup {
  e4m3 codes[KvRow::kGroup];
  e8m0 scale;
  FULGURITE_HOST_DEVICE float value(int64_t i) const { return to_float(codes[i]) * to_float(scale); }
};
FULGURITE_HOST_DEVICE inline KvGroup quantize_kv(std::span<const float> values) {
  KvGroup group;
  group.scale = *exact_e8m0(quantize_e4m3(values, ScaleRounding::kPow2, group.codes));
  return group;
}

// Writes row `index` of a sequence: row.width() values, rotated and rounded as activations are. The first
// `nope` go through kv_quant, groups of 64 (the quantizer, dequantized again); then all are stored in the
// cache's form. What references write with; cpu/kv_rows.h does the same in haste.
FULGURITE_HOST_DEVICE inline void store_kv_row(const KvRows& cache, int64_t sequence, int64_t index,
                                               std::span<const float> values, KvQuant quant) {
  const KvRow& row = cache.row;
  std::byte* const to = cache.at(sequence, index);
  const auto put = [&](int64_t i, float value) {
    const bf16 narrow = to_bf16(value);
    if (row.form == LatentCache::kFp32)
      std::memcpy(to + 4 * i, &value, sizeof value);
    else if (row.form == LatentCache::kBf16)
      std::memcpy(to + 2 * i, &narrow, sizeof narrow);
    else
      std::memcpy(to + row.rope_offset() + 2 * (i - row.nope), &narrow, sizeof narrow);
  };
  for (int64_t i = quant == KvQuant::kNone ? 0 : row.nope; i < row.width(); ++i)
    put(i, values[static_cast<size_t>(i)]);
  if (quant == KvQuant::kNone) return;
  for (int64_t first = 0; first < row.nope; first += KvRow::kGroup) {
    const int64_t count = std::min(int64_t{KvRow::kGroup}, row.nope - first);
    const KvGroup group = quantize_kv(values.subspan(static_cast<size_t>(first), static_cast<size_t>(count)));
    if (row.form != LatentCache::kFp8) {
      for (int64_t i = 0; i < count; ++i) put(first + i, group.value(i));
      continue;
    }
    std::memcpy(to + first, group.codes, static_cast<size_t>(count));
    std::memcpy(cache.scales_at(sequence, index) + first / KvRow::kGroup, &group.scale, 1);
  }
}

}  // namespace fulgurite
