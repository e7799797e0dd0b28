#pragma once
// Results that are wrong on purpose: an audit that takes one of them proves nothing.

#include <cmath>
#include <vector>

#include "fulgurite/audit/report.h"
#include "test/op_test.h"

namespace fulgurite::test {

// Of a row of right results: its largest value moved; a NaN; its largest value swapped with the next.
enum class Spoil { kMoved, kNaN, kSwapped };

inline int64_t index_of_largest(const Tensor<1>& row) {
  int64_t largest = 0;
  for (int64_t i = 0; i < row.extent[0]; ++i)
    if (std::abs(load(row, i)) > std::abs(load(row, largest))) largest = i;
  return largest;
}

// A moved value is off by two to four steps of bf16, or as many of 2^-14 where the row is f32.
inline void spoil(const Tensor<1>& row, Spoil how) {
  const int64_t at = index_of_largest(row), next = (at + 1) % row.extent[0];
  const float value = load(row, at), beside = load(row, next);
  if (how == Spoil::kMoved) store(row, value * (row.dtype == DType::kF32 ? 1 + 0x1p-12f : 1 + 0x1p-6f), at);
  if (how == Spoil::kNaN) store(row, std::nanf(""), at);
  if (how != Spoil::kSwapped) return;
  store(row, beside, at);
  store(row, value, next);
}

// `right`, after which the row of an output that row(args) names is spoiled.
template <const auto& right, auto row, Spoil how>
auto spoiled() {
  auto wrong = right;
  wrong.run = [](const auto& problem, const auto& args, const Lane& lane) {
    right.run(problem, args, lane);
    spoil(row(args), how);
  };
  return wrong;
}
template <const auto& right, auto row>
auto every_spoiled() {
  return std::vector{spoiled<right, row, Spoil::kMoved>(), spoiled<right, row, Spoil::kNaN>(),
                     spoiled<right, row, Spoil::kSwapped>()};
}

// Output `which` is rejected, and no other.
inline testing::AssertionResult rejects(const audit::OpReport& report, size_t which) {
  for (size_t i = 0; i < report.outputs.size(); ++i)
    if (report.outputs[i].difference.within() == (i == which))
      return testing::AssertionFailure() << describe(report);
  return testing::AssertionSuccess();
}

}  // namespace fulgurite::test
