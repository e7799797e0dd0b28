#pragma once
// What the tests of the operations share: running an implementation with the workspace that it asked for, and
// judging its result against the reference's.

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "fulgurite/audit/compare.h"
#include "fulgurite/core/check.h"
#include "fulgurite/core/error.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/cpu/kernels.h"
#include "fulgurite/cpu/thread_pool.h"
#include "test/op_inputs.h"

namespace fulgurite::test {

inline Setting fp32_setting(Isa isa = cpu::best_isa()) { return {{DeviceKind::kCpu, isa}, Numerics::fp32()}; }

// The preset serving as the planner hands it to operations of DeepSeek-V3.2.
inline Setting serving_setting(Isa isa = cpu::best_isa()) {
  return {{DeviceKind::kCpu, isa}, Numerics::serving().resolved(ActivationScale::kPow2, IndexQuant::kFp8)};
}

// serving with fp16 between operations.
inline Setting fp16_setting(Isa isa = cpu::best_isa()) {
  Setting setting = serving_setting(isa);
  setting.numerics.activation = Activation::kFp16;
  return setting;
}

// The preset whose activations are of this type.
inline Setting setting_of(DType activation, Isa isa = cpu::best_isa()) {
  if (activation == DType::kF16) return fp16_setting(isa);
  return activation == DType::kBF16 ? serving_setting(isa) : fp32_setting(isa);
}

// Every instruction set that this machine has.
inline std::vector<Isa> machine_isas() {
  std::vector<Isa> isas;
  for (int i = 0; i <= static_cast<int>(cpu::best_isa()); ++i) isas.push_back(static_cast<Isa>(i));
  return isas;
}

// Memory of exactly so many bytes: a sanitizer sees the first byte beyond.
class ExactBytes {
 public:
  explicit ExactBytes(int64_t bytes) : size_(static_cast<size_t>(bytes)) {
    if (posix_memalign(&data_, 64, size_) != 0) std::abort();
  }
  ExactBytes(const ExactBytes&) = delete;
  ExactBytes& operator=(const ExactBytes&) = delete;
  ~ExactBytes() { std::free(data_); }
  std::span<std::byte> bytes() const { return {static_cast<std::byte*>(data_), size_}; }

 private:
  void* data_ = nullptr;
  size_t size_;
};

template <class Problem, class Args>
void run(const Implementation<Problem, Args>& implementation, const Problem& problem, const Args& args,
         int threads = 1) {
  const Support refusal = implementation.supports(problem);
  ASSERT_FALSE(refusal) << implementation.name << ": " << refusal->reason;
  const ExactBytes workspace(implementation.workspace_bytes(problem, threads));
  cpu::ThreadPool workers(threads);
  implementation.run(problem, args, {threads, &workers, workspace.bytes()});
}

// Why the implementation refuses the problem; "" if it takes it.
template <class Problem, class Args>
std::string refusal(const Implementation<Problem, Args>& implementation, const Problem& problem) {
  const Support support = implementation.supports(problem);
  return support ? support->reason : "";
}

inline testing::AssertionResult agrees(std::span<const float> actual, std::span<const float> expected,
                                       std::span<const double> bound) {
  const audit::Difference difference = audit::compare(actual, expected, bound);
  if (difference.within()) return testing::AssertionSuccess();
  return testing::AssertionFailure() << audit::describe(difference);
}

// Bit for bit.
inline testing::AssertionResult identical(std::span<const float> a, std::span<const float> b) {
  if (a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size_bytes()) == 0))
    return testing::AssertionSuccess();
  return testing::AssertionFailure() << "the bits differ";
}

// The message of the Error that `body` throws; empty if it throws none.
template <class Body>
std::string message_of(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace fulgurite::test
