#pragma once
// Inputs for the operations' tests and benchmarks: seeded, and hard on purpose. A buffer owns its elements;
// its view is what an operation gets. (Tests and benchmarks only; no operation includes this.)

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fulgurite/core/element.h"
#include "fulgurite/core/matrix.h"
#include "fulgurite/core/random.h"

namespace fulgurite::inputs {

// What the values look like.
enum class Values {
  kNormal,      // N(0, 1)
  kOutliers,    // N(0, 1), one in 64 times 1000
  kDenormal,    // around 1e-40, with zeros of both signs
  kConstant,    // all equal: ties
  kCancelling,  // pairs of large values of opposite sign
};
inline constexpr Values kAllValues[] = {Values::kNormal, Values::kOutliers, Values::kDenormal,
                                        Values::kConstant, Values::kCancelling};
std::string name(Values values);

template <int Rank>
struct Buffer {
  std::vector<float> elements;
  View<float, Rank> view;
};

Buffer<1> make(Random& random, Values values, int64_t n);
Buffer<2> make(Random& random, Values values, int64_t rows, int64_t columns);
Buffer<3> make(Random& random, Values values, int64_t a, int64_t b, int64_t c);

// A tensor of any element type that owns its bytes; those beyond it belong to nobody.
template <int Rank>
struct TensorBuffer {
  std::shared_ptr<std::vector<std::byte>> bytes;
  Tensor<Rank> view;

  // Its elements as fp32, in row-major order: contiguous tensors of f32, bf16 and fp16.
  std::vector<float> values() const {
    std::vector<float> out;
    int64_t count = 1;
    for (const int64_t n : view.extent) count *= n;
    for (int64_t i = 0; i < count; ++i) {
      const Tensor<1> flat = View<float, 1>(reinterpret_cast<float*>(view.data), {count});
      Tensor<1> typed = flat;
      typed.dtype = view.dtype;
      out.push_back(load(typed, i));
    }
    return out;
  }
};

// Contiguous, all bytes 0x5A: what an operation must overwrite.
template <int Rank>
TensorBuffer<Rank> unwritten(DType dtype, std::array<int64_t, Rank> extent) {
  TensorBuffer<Rank> buffer;
  const View<std::byte, Rank> shape(nullptr, extent);
  buffer.bytes = std::make_shared<std::vector<std::byte>>(static_cast<size_t>(shape.size() * bits(dtype) / 8),
                                                          std::byte{0x5A});
  buffer.view.data = buffer.bytes->data();
  buffer.view.dtype = dtype;
  buffer.view.extent = shape.extent;
  buffer.view.stride = shape.stride;
  return buffer;
}

// Drawn as make() does and rounded to dtype (f32, bf16 or fp16).
TensorBuffer<1> make_tensor(Random& random, Values values, DType dtype, std::array<int64_t, 1> extent);
TensorBuffer<2> make_tensor(Random& random, Values values, DType dtype, std::array<int64_t, 2> extent);
TensorBuffer<3> make_tensor(Random& random, Values values, DType dtype, std::array<int64_t, 3> extent);

// A prepared weight that owns its bytes. Blocks may be partial; their scales differ block by block, powers of
// two or not.
enum class Scales { kPow2, kAny };
struct Weight {
  PreparedMatrix matrix;
  std::shared_ptr<std::vector<std::byte>> data;
  std::shared_ptr<std::vector<float>> scales;
};
Weight make_weight(Random& random, int64_t out, int64_t in, const MatrixFormat& format,
                   Scales scales = Scales::kAny);

// The formats that a test of a weight-reading operation runs over.
std::vector<MatrixFormat> all_formats();

}  // namespace fulgurite::inputs
