#pragma once
// How a token's rows lie in the caches. A cache is a fact of the plan; these views are what operations get.

#include <bit>
#include <cstring>

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/cache_pages.h"
#include "fulgurite/core/host_device.h"
#include "fulgurite/core/numerics.h"
#include "fulgurite/core/token_place.h"

namespace fulgurite {

// A row of the latent cache, `latent` normed values and `rope` rotated ones:
//   fp32  [latent + rope] f32                            bf16  [latent + rope] bf16
//   fp8   [latent] e4m3 | [groups of 128] f32 scales | [rope] bf16      656 bytes for 512 + 64
// Offsets are multiples of 4, and so are rows.
struct LatentRow {
  LatentCache form = LatentCache::kFp32;
  int64_t latent = 0;
  int64_t rope = 0;
  bool operator==(const LatentRow&) const = default;

  static constexpr int64_t kGroup = 128;
  FULGURITE_HOST_DEVICE int64_t groups() const { return (latent + kGroup - 1) / kGroup; }
  FULGURITE_HOST_DEVICE int64_t element_bytes() const {
    return form == LatentCache::kFp32 ? 4 : 2;
  }                                                                                     // of what is no code
  FULGURITE_HOST_DEVICE int64_t scales_offset() const { return (latent + 3) / 4 * 4; }  // fp8 alone
  FULGURITE_HOST_DEVICE int64_t rope_offset() const {
    return form == LatentCache::kFp8 ? scales_offset() + groups() * 4 : latent * element_bytes();
  }
  FULGURITE_HOST_DEVICE int64_t bytes() const { return (rope_offset() + rope * element_bytes() + 3) / 4 * 4; }

  // Values as attention reads them.
  FULGURITE_HOST_DEVICE float latent_value(const std::byte* row, int64_t i) const {
    if (form != LatentCache::kFp8) return plain(row, i);
    return to_float(e4m3{std::to_integer<uint8_t>(row[i])}) *
           read<float>(row + scales_offset() + i / kGroup * 4);
  }
  FULGURITE_HOST_DEVICE float rope_value(const std::byte* row, int64_t i) const {
    return plain(row + rope_offset(), i);
  }

  template <class T>
  FULGURITE_HOST_DEVICE static T read(const std::byte* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
  }

 private:
  FULGURITE_HOST_DEVICE float plain(const std::byte* at, int64_t i) const {
    return element_bytes() == 4 ? read<float>(at + 4 * i) : to_float(read<bf16>(at + 2 * i));
  }
};

template <class Byte>
struct LatentCacheView {
  LatentRow row;
  View<Byte, 3> rows;  // [sequences, context, row.bytes()], or of pages (core/cache_pages.h)
  CachePages pages{};

  FULGURITE_HOST_DEVICE Byte* at(int64_t sequence, int64_t position) const {
    const CachePages::Place place = pages.place(sequence, position);
    return rows[place.part][place.row].data;
  }
  FULGURITE_HOST_DEVICE Byte* at(TokenPlace place) const { return at(place.sequence, place.position); }
  operator LatentCacheView<const std::byte>() const requires(!std::is_const_v<Byte>) {
    return {row, rows, pages};
  }
};
using LatentRows = LatentCacheView<std::byte>;
using ConstLatentRows = LatentCacheView<const std::byte>;

// What the indexer's queries and keys are made of: index_quant none: bf16, fp32 where the activation is fp32;
// fp8: e4m3 with a scale a vector; fp4: bf16, the dequantized values.
inline DType index_operand(const Numerics& numerics) {
  FULGURITE_ASSERT(numerics.index_quant != IndexQuant::kFamily, "index_quant = {} is not resolved",
                   value_name(numerics.index_quant));
  if (numerics.index_quant == IndexQuant::kFp8) return DType::kF8_E4M3;
  if (numerics.index_quant == IndexQuant::kFp4) return DType::kBF16;
  return numerics.activation == Activation::kFp32 ? DType::kF32 : DType::kBF16;
}

// The indexer's keys: rows of f32, bf16 or e4m3, and for e4m3 a scale each (no data otherwise). A page of e4m3 is
// its tokens' codes, then their scales: 8,448 bytes for 64 keys of 128.
template <class Byte, class Float>
struct IndexCacheView {
  AnyView<Byte, 3> keys;  // [sequences, context, head_dim], or of pages
  View<Float, 2> scales;  // [sequences, context]
  CachePages pages{};

  FULGURITE_HOST_DEVICE AnyView<Byte, 1> key(int64_t sequence, int64_t position) const {
    const CachePages::Place place = pages.place(sequence, position);
    return keys[place.part][place.row];
  }
  FULGURITE_HOST_DEVICE Float& scale(int64_t sequence, int64_t position) const {
    const CachePages::Place place = pages.place(sequence, position);
    return scales(place.part, place.row);
  }
  operator IndexCacheView<const std::byte, const float>() const requires(!std::is_const_v<Byte>) {
    return {keys, scales, pages};
  }
};
using IndexKeys = IndexCacheView<std::byte, float>;
using ConstIndexKeys = IndexCacheView<const std::byte, const float>;

}  // namespace fulgurite
