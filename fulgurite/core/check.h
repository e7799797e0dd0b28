#pragma once
// The clauses of an operation's contract, one call a tensor: Check("linear").tensor("x", args.x, {tokens,
// in}). A clause that does not hold throws Error{kRequest} with both sides; one that holds allocates nothing.

#include <array>
#include <cstdint>
#include <span>

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/numerics.h"

namespace fulgurite {

// What activations are stored as.
inline DType activation_type(const Numerics& numerics) {
  if (numerics.activation == Activation::kFp32) return DType::kF32;
  return numerics.activation == Activation::kFp16 ? DType::kF16 : DType::kBF16;
}

// Whether a contract's values may be looked at: a GPU's memory is not the host's. There the session has checked
// what came from outside.
inline bool reads_values(const Setting& setting) { return setting.target.kind == DeviceKind::kCpu; }

class Check {
 public:
  explicit Check(const char* operation) : operation_(operation) {}

  // The extents agree and the last dimension is contiguous.
  template <class T, int Rank>
  const Check& tensor(const char* name, const View<T, Rank>& view, std::array<int64_t, Rank> expected) const {
    clause(name, view.extent, view.stride, expected);
    return *this;
  }
  // And the elements are of the type that the plan says.
  template <class Byte, int Rank>
  const Check& tensor(const char* name, const AnyView<Byte, Rank>& view, DType type,
                      std::array<int64_t, Rank> expected) const {
    clause(name, view.extent, view.stride, expected);
    type_clause(name, view.dtype, type);
    return *this;
  }
  // `value` is in [low, high].
  const Check& range(const char* name, int64_t value, int64_t low, int64_t high) const;

 private:
  void clause(const char* name, std::span<const int64_t> extent, std::span<const int64_t> stride,
              std::span<const int64_t> expected) const;
  void type_clause(const char* name, DType found, DType expected) const;
  const char* operation_;
};

}  // namespace fulgurite
