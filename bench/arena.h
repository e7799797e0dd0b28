#pragma once
// The memory of a case's operands: made fast, seeded, and of magnitudes as a model has them. Everything lives
// as long as the arena.

#include <cstring>
#include <deque>
#include <memory>
#include <span>
#include <type_traits>
#include <vector>

#include "fulgurite/core/cache_layout.h"
#include "fulgurite/core/host_buffer.h"
#include "fulgurite/core/kv_row.h"
#include "fulgurite/core/matrix.h"
#include "fulgurite/core/random.h"
#include "fulgurite/core/token_place.h"
#include "fulgurite/ops/rotary/rotary.h"
#include "fulgurite/ops/rotary/rotary_table.h"

namespace fulgurite::bench {

inline constexpr MatrixFormat kBf16Matrix{MatrixForm::kBF16, {}, ScaleFormat::kF32};
inline constexpr MatrixFormat kFp8Matrix{MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32};

// Bytes of a matrix in that format: what reading it once costs.
int64_t matrix_bytes(int64_t out, int64_t in, const MatrixFormat& format);

class Arena {
 public:
  // What it holds: numbers that are read, numbers that an operation writes, or objects that point into it.
  enum class Kind { kInput, kOutput, kObjects };
  struct Region {
    std::span<std::byte> bytes;
    Kind kind = Kind::kInput;
  };
  const std::vector<Region>& regions() const { return regions_; }

  Random& random() { return random_; }

  std::span<std::byte> bytes(int64_t count, Pages pages = Pages::kLarge);

  // For an output: bytes that no operation writes by chance.
  template <int Rank>
  Tensor<Rank> unwritten(DType dtype, std::array<int64_t, Rank> extent) {
    Tensor<Rank> tensor = shaped<Rank>(dtype, extent);
    regions_.back().kind = Kind::kOutput;
    std::memset(tensor.data, 0x5A, static_cast<size_t>(bytes_of(tensor)));
    return tensor;
  }
  // Values around 0 with deviation 1, rounded to dtype; e4m3: random codes.
  template <int Rank>
  Tensor<Rank> drawn(DType dtype, std::array<int64_t, Rank> extent) {
    Tensor<Rank> tensor = shaped<Rank>(dtype, extent);
    fill(dtype, {tensor.data, static_cast<size_t>(bytes_of(tensor))});
    return tensor;
  }
  template <int Rank>
  View<float, Rank> floats(std::array<int64_t, Rank> extent) {
    return drawn<Rank>(DType::kF32, extent).template as<float>();
  }
  // `count` floats in [low, high).
  View<float, 1> vector(int64_t count, double low, double high);

  // What operands point to besides numbers.
  template <class T>
  std::span<T> objects(int64_t count) {
    static_assert(std::is_trivially_copyable_v<T>);
    const std::span<std::byte> memory = bytes(count * static_cast<int64_t>(sizeof(T)), Pages::kSmall);
    regions_.back().kind = Kind::kObjects;
    T* const first = reinterpret_cast<T*>(memory.data());
    std::uninitialized_value_construct_n(first, count);
    return {first, static_cast<size_t>(count)};
  }
  template <class T>
  T* object(const T& value) {
    T& kept = objects<T>(1).front();
    kept = value;
    return &kept;
  }

  PreparedMatrix matrix(int64_t out, int64_t in, const MatrixFormat& format);
  // Drawn as it is stored, then in the form that a row reads: bf16(code * scale), where that is another.
  PreparedMatrix matrix(int64_t out, int64_t in, const MatrixFormat& stored, const MatrixFormat& read);

  // A pool with a page for every kPageTokens of each sequence, dealt out at random.
  CachePages pages(int64_t sequences, int64_t context);
  // Of caches below: without pages a sequence's rows lie together.
  LatentRows latent_cache(const LatentRow& row, int64_t sequences, int64_t context,
                          const CachePages& pages = {});
  KvRows kv_cache(const KvRow& row, int64_t sequences, int64_t rows);
  IndexKeys index_keys(DType dtype, int64_t sequences, int64_t context, int64_t head_dim,
                       const CachePages& pages = {});
  // The same for an output.
  LatentRows unwritten_latents(const LatentRow& row, int64_t sequences, int64_t context,
                               const CachePages& pages);
  IndexKeys unwritten_keys(DType dtype, int64_t sequences, int64_t context, int64_t head_dim,
                           const CachePages& pages);
  View<TokenPlace, 1> places(std::span<const TokenPlace> places);
  rotary::Table rotary_table(const rotary::Frequencies& frequencies, int64_t positions);

  template <int Rank>
  static int64_t bytes_of(const Tensor<Rank>& tensor) {
    return View<std::byte, Rank>(nullptr, tensor.extent).size() * tensor.element_bytes();
  }

 private:
  template <int Rank>
  Tensor<Rank> shaped(DType dtype, std::array<int64_t, Rank> extent) {
    const View<std::byte, Rank> shape(nullptr, extent);
    Tensor<Rank> tensor;
    tensor.data = bytes(shape.size() * bits(dtype) / 8).data();
    tensor.dtype = dtype;
    tensor.extent = shape.extent;
    tensor.stride = shape.stride;
    return tensor;
  }
  void fill(DType dtype, std::span<std::byte> bytes);
  View<e8m0, 2> exponents(int64_t rows, int64_t columns, int64_t lowest, int64_t count);
  PreparedMatrix mxfp4(int64_t out, int64_t in);

  Random random_{20260131};
  std::deque<HostBuffer> buffers_;
  std::vector<Region> regions_;  // of each buffer
};

// Rows [first, first + count) of a matrix; first is a multiple of its block's rows.
PreparedMatrix rows_of(const PreparedMatrix& matrix, int64_t first, int64_t count);

}  // namespace fulgurite::bench
