#include "bench/arena.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fulgurite::bench {
namespace {

// Eight random codes at a time; where the seven low bits are all set (NaN), the lowest is cleared.
void fill_codes(Random& random, std::span<std::byte> bytes) {
  constexpr uint64_t kLow7 = 0x7F7F7F7F7F7F7F7F, kOnes = 0x0101010101010101;
  for (size_t i = 0; i < bytes.size(); i += 8) {
    uint64_t codes = random.bits();
    codes &= ~((((codes & kLow7) + kOnes) >> 7) & kOnes);
    std::memcpy(bytes.data() + i, &codes, std::min<size_t>(8, bytes.size() - i));
  }
}

// Four bf16 weights at a time: any sign and fraction, magnitudes in [2^-15, 2^-7).
void fill_bf16_weights(Random& random, std::span<std::byte> bytes) {
  for (size_t i = 0; i < bytes.size(); i += 8) {
    const uint64_t values = (random.bits() & 0x83FF83FF83FF83FF) | 0x3800380038003800;
    std::memcpy(bytes.data() + i, &values, std::min<size_t>(8, bytes.size() - i));
  }
}

// The sum of four uniform numbers has a bell's shape; made of one draw.
float bell(Random& random) {
  constexpr double kDeviation = 37837.2;  // of the sum of four numbers of 16 bits
  const uint64_t r = random.bits();
  const auto sum =
      static_cast<double>((r & 0xFFFF) + ((r >> 16) & 0xFFFF) + ((r >> 32) & 0xFFFF) + (r >> 48));
  return static_cast<float>((sum - 2.0 * 65535.0) / kDeviation);
}

template <class T, class Draw>
void fill_each(std::span<std::byte> bytes, const Draw& draw) {
  for (size_t i = 0; i + sizeof(T) <= bytes.size(); i += sizeof(T)) {
    const T value = draw();
    std::memcpy(bytes.data() + i, &value, sizeof value);
  }
}

float power_of_two(Random& random, int64_t lowest, int64_t count) {
  return std::ldexp(1.0f, static_cast<int>(lowest + random.below(count)));
}

int64_t blocks(int64_t n, int64_t block) { return (n + block - 1) / block; }

// The first two extents of a cache's view.
std::array<int64_t, 2> extent_of(const CachePages& pages, int64_t sequences, int64_t context) {
  if (pages.tokens == 0) return {sequences, context};
  return {pages.table.size(), pages.tokens};
}

int64_t scale_bytes(DType dtype) { return dtype == DType::kF8_E4M3 ? sizeof(float) : 0; }
int64_t key_page_bytes(DType dtype, const CachePages& pages, int64_t head_dim) {
  return pages.tokens * (head_dim * bits(dtype) / 8 + scale_bytes(dtype));
}

// Each page of the pool is its keys, then their scales.
IndexKeys keys_in_pages(std::byte* pool, DType dtype, const CachePages& pages, int64_t head_dim) {
  const int64_t page = key_page_bytes(dtype, pages, head_dim), key = head_dim * bits(dtype) / 8;
  IndexKeys keys;
  keys.pages = pages;
  keys.keys.data = pool;
  keys.keys.dtype = dtype;
  keys.keys.extent = {pages.table.size(), pages.tokens, head_dim};
  keys.keys.stride = {page * 8 / bits(dtype), head_dim, 1};
  if (scale_bytes(dtype) > 0)
    keys.scales = {reinterpret_cast<float*>(pool + pages.tokens * key),
                   {pages.table.size(), pages.tokens},
                   {page / scale_bytes(dtype), 1}};
  return keys;
}

}  // namespace

int64_t matrix_bytes(int64_t out, int64_t in, const MatrixFormat& format) {
  if (format.form == MatrixForm::kF32) return out * in * 4;
  if (format.form == MatrixForm::kBF16) return out * in * 2;
  if (format.form == MatrixForm::kMxfp4) return out * in / 2 + out * in / 32;
  const int64_t scale = format.scale == ScaleFormat::kE8M0 ? 1 : 4;
  return out * in + blocks(out, format.block.rows) * blocks(in, format.block.columns) * scale;
}

std::span<std::byte> Arena::bytes(int64_t count, Pages pages) {
  buffers_.emplace_back(std::max<int64_t>(count, 1), pages);
  regions_.push_back({buffers_.back().bytes(), Kind::kInput});
  return buffers_.back().bytes().first(static_cast<size_t>(count));
}

void Arena::fill(DType dtype, std::span<std::byte> bytes) {
  if (dtype == DType::kF8_E4M3) return fill_codes(random_, bytes);
  if (dtype == DType::kBF16) return fill_each<bf16>(bytes, [&] { return to_bf16(bell(random_)); });
  if (dtype == DType::kF16) return fill_each<fp16>(bytes, [&] { return to_fp16(bell(random_)); });
  fill_each<float>(bytes, [&] { return bell(random_); });
}

View<float, 1> Arena::vector(int64_t count, double low, double high) {
  const std::span<std::byte> memory = bytes(count * 4);
  fill_each<float>(memory, [&] { return static_cast<float>(random_.uniform(low, high)); });
  return {reinterpret_cast<float*>(memory.data()), {count}};
}

// Powers of two from 2^lowest on, in a byte each.
View<e8m0, 2> Arena::exponents(int64_t rows, int64_t columns, int64_t lowest, int64_t count) {
  const std::span<std::byte> memory = bytes(rows * columns, Pages::kSmall);
  for (std::byte& exponent : memory) exponent = static_cast<std::byte>(127 + lowest + random_.below(count));
  return {reinterpret_cast<e8m0*>(memory.data()), {rows, columns}};
}

// Any byte is two codes; theirs have a deviation near 3.
PreparedMatrix Arena::mxfp4(int64_t out, int64_t in) {
  const std::span<std::byte> codes = bytes(out * in / 2, Pages::kSmall);
  for (size_t i = 0; i < codes.size(); i += 8) {
    const uint64_t drawn = random_.bits();
    std::memcpy(codes.data() + i, &drawn, std::min<size_t>(8, codes.size() - i));
  }
  const View<const e2m1x2, 2> data(reinterpret_cast<const e2m1x2*>(codes.data()), {out, in / 2});
  return {Mxfp4{data, exponents(out, in / 32, -10, 4)}, out, in};
}

// Small pages: those of a checkpoint's file are.
PreparedMatrix Arena::matrix(int64_t out, int64_t in, const MatrixFormat& format) {
  PreparedMatrix matrix{{}, out, in};
  if (format.form == MatrixForm::kBF16) {
    const std::span<std::byte> memory = bytes(out * in * 2, Pages::kSmall);
    fill_bf16_weights(random_, memory);
    matrix.as = View<const bf16, 2>(reinterpret_cast<const bf16*>(memory.data()), {out, in});
    return matrix;
  }
  if (format.form == MatrixForm::kF32) {
    const std::span<std::byte> memory = bytes(out * in * 4, Pages::kSmall);
    fill_each<float>(memory, [&] { return 0.02f * bell(random_); });
    matrix.as = View<const float, 2>(reinterpret_cast<const float*>(memory.data()), {out, in});
    return matrix;
  }
  if (format.form == MatrixForm::kMxfp4) return mxfp4(out, in);
  FULGURITE_ASSERT(format.form == MatrixForm::kE4M3Blocks, "no such weight is made: {}", describe(format));
  const std::span<std::byte> memory = bytes(out * in, Pages::kSmall);
  fill_codes(random_, memory);
  const int64_t rows = blocks(out, format.block.rows), columns = blocks(in, format.block.columns);
  const View<const e4m3, 2> data(reinterpret_cast<const e4m3*>(memory.data()), {out, in});
  if (format.scale == ScaleFormat::kE8M0) {
    matrix.as = BlockScaled{data, {}, format.block, format.scale, exponents(rows, columns, -15, 4)};
    return matrix;
  }
  const std::span<std::byte> scales = bytes(rows * columns * 4, Pages::kSmall);
  // Random codes have a deviation near 100.
  fill_each<float>(scales, [&] { return power_of_two(random_, -15, 4); });
  matrix.as =
      BlockScaled{data, View<const float, 2>(reinterpret_cast<const float*>(scales.data()), {rows, columns}),
                  format.block, format.scale};
  return matrix;
}

PreparedMatrix Arena::matrix(int64_t out, int64_t in, const MatrixFormat& stored, const MatrixFormat& read) {
  const PreparedMatrix matrix = this->matrix(out, in, stored);
  if (read == stored) return matrix;
  FULGURITE_ASSERT(read.form == MatrixForm::kBF16, "no weight is read as {}", describe(read));
  const View<bf16, 2> values(reinterpret_cast<bf16*>(bytes(out * in * 2, Pages::kSmall).data()), {out, in});
  for (int64_t r = 0; r < out; ++r)
    for (int64_t c = 0; c < in; ++c)
      values(r, c) = to_bf16(static_cast<float>(element(matrix, WeightReading::kBf16, r, c)));
  return {View<const bf16, 2>(values), out, in};
}

CachePages Arena::pages(int64_t sequences, int64_t context) {
  const int64_t of_a_sequence = pages_of(context, kPageTokens), count = sequences * of_a_sequence;
  auto* const table = reinterpret_cast<int32_t*>(bytes(count * 4, Pages::kSmall).data());
  std::iota(table, table + count, 0);
  for (int64_t i = count - 1; i > 0; --i) std::swap(table[i], table[random_.below(i + 1)]);
  return {kPageTokens, {table, {sequences, of_a_sequence}}};
}

LatentRows Arena::latent_cache(const LatentRow& row, int64_t sequences, int64_t context,
                               const CachePages& pages) {
  const auto [parts, rows] = extent_of(pages, sequences, context);
  const int64_t count = parts * rows;
  const std::span<std::byte> memory = bytes(count * row.bytes());
  LatentRows cache{row, View<std::byte, 3>(memory.data(), {parts, rows, row.bytes()}), pages};
  if (row.form == LatentCache::kFp32) {
    fill(DType::kF32, memory);
  } else if (row.form == LatentCache::kBf16) {
    fill(DType::kBF16, memory);
  } else {
    fill_codes(random_, memory);
    for (int64_t i = 0; i < count; ++i) {
      std::byte* const at = memory.data() + i * row.bytes();
      fill_each<float>({at + row.scales_offset(), static_cast<size_t>(row.groups() * 4)},
                       [&] { return power_of_two(random_, -9, 3); });
      fill(DType::kBF16, {at + row.rope_offset(), static_cast<size_t>(row.rope * 2)});
    }
  }
  return cache;
}

KvRows Arena::kv_cache(const KvRow& row, int64_t sequences, int64_t rows) {
  const int64_t blocks = KvRow::blocks(rows);
  const std::span<std::byte> memory = bytes(sequences * blocks * row.block_bytes());
  const KvRows cache{row, View<std::byte, 3>(memory.data(), {sequences, blocks, row.block_bytes()})};
  if (row.form != LatentCache::kFp8) {
    fill(row.form == LatentCache::kFp32 ? DType::kF32 : DType::kBF16, memory);
    return cache;
  }
  fill_codes(random_, memory);
  for (int64_t s = 0; s < sequences; ++s)
    for (int64_t r = 0; r < rows; ++r) {
      fill(DType::kBF16, {cache.at(s, r) + row.rope_offset(), static_cast<size_t>(row.rope * 2)});
      std::byte* const scales = cache.scales_at(s, r);
      for (int64_t i = 0; i < row.scale_bytes(); ++i)
        scales[i] = static_cast<std::byte>(118 + random_.below(3));
    }
  return cache;
}

IndexKeys Arena::index_keys(DType dtype, int64_t sequences, int64_t context, int64_t head_dim,
                            const CachePages& pages) {
  IndexKeys keys;
  if (pages.tokens > 0) {
    const std::span<std::byte> pool = bytes(pages.table.size() * key_page_bytes(dtype, pages, head_dim));
    fill(dtype, pool);
    keys = keys_in_pages(pool.data(), dtype, pages, head_dim);
    for (int64_t page = 0; keys.scales && page < pages.table.size(); ++page)
      for (int64_t row = 0; row < pages.tokens; ++row)
        keys.scales(page, row) = static_cast<float>(random_.uniform(0x1p-9, 0x1p-7));
    return keys;
  }
  keys.keys = drawn<3>(dtype, {sequences, context, head_dim});
  if (dtype == DType::kF8_E4M3)
    keys.scales = View<float, 2>(vector(sequences * context, 0x1p-9, 0x1p-7).data, {sequences, context});
  return keys;
}

LatentRows Arena::unwritten_latents(const LatentRow& row, int64_t sequences, int64_t context,
                                    const CachePages& pages) {
  const auto [parts, rows] = extent_of(pages, sequences, context);
  const Tensor<3> memory = unwritten<3>(DType::kU8, {parts, rows, row.bytes()});
  return {row, View<std::byte, 3>(memory.data, memory.extent), pages};
}

IndexKeys Arena::unwritten_keys(DType dtype, int64_t sequences, int64_t context, int64_t head_dim,
                                const CachePages& pages) {
  if (pages.tokens > 0) {
    const int64_t page = key_page_bytes(dtype, pages, head_dim);
    return keys_in_pages(unwritten<2>(DType::kU8, {pages.table.size(), page}).data, dtype, pages, head_dim);
  }
  IndexKeys keys;
  keys.keys = unwritten<3>(dtype, {sequences, context, head_dim});
  if (scale_bytes(dtype) > 0) keys.scales = unwritten<2>(DType::kF32, {sequences, context}).as<float>();
  return keys;
}

View<TokenPlace, 1> Arena::places(std::span<const TokenPlace> places) {
  const std::span<std::byte> memory = bytes(static_cast<int64_t>(places.size_bytes()));
  std::memcpy(memory.data(), places.data(), places.size_bytes());
  return {reinterpret_cast<TokenPlace*>(memory.data()), {static_cast<int64_t>(places.size())}};
}

rotary::Table Arena::rotary_table(const rotary::Frequencies& frequencies, int64_t positions) {
  const View<float, 2> cosine = floats<2>({positions, frequencies.dim / 2}),
                       sine = floats<2>({positions, frequencies.dim / 2});
  rotary::fill_table(frequencies, cosine, sine);
  return {cosine, sine};
}

PreparedMatrix rows_of(const PreparedMatrix& matrix, int64_t first, int64_t count) {
  const StoredMatrix part = fulgurite::rows_of(StoredMatrix{matrix.as, matrix.out, matrix.in}, first, count);
  return {part.as, part.out, part.in};
}

}  // namespace fulgurite::bench
