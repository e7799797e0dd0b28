#pragma once
// Rows of logits that are hard to choose from, and the outputs of a call, in memory of any kind.

#include <limits>
#include <vector>

#include "fulgurite/audit/tensors.h"
#include "fulgurite/core/random.h"
#include "fulgurite/ops/largest_logits/largest_logits_audit.h"
#include "fulgurite/ops/largest_logits/largest_logits_cases.h"

namespace fulgurite::largest_logits {

enum class Kind { kDrawn, kFewValues, kOneValue, kExtremes, kNaN };
inline constexpr std::array kKinds{Kind::kDrawn, Kind::kFewValues, Kind::kOneValue, Kind::kExtremes,
                                   Kind::kNaN};

inline float drawn(Random& random, Kind kind) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(),
                  kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kSome[] = {0.0f,   -0.0f,   kInfinity, -kInfinity, kNan, -kNan,
                             1e-42f, -1e-42f, 3e38f,     -3e38f,     1.0f};
  switch (kind) {
    case Kind::kFewValues:
      return static_cast<float>(random.below(5)) - 2.0f;
    case Kind::kOneValue:
      return -1.5f;
    case Kind::kExtremes:
      return kSome[random.below(std::size(kSome))];
    case Kind::kNaN:
      return kNan;
    case Kind::kDrawn:
      break;
  }
  return static_cast<float>(4.0 * random.normal());
}

// A call and its operands, contiguous but for a gap behind each row of logits.
class Call {
 public:
  Call(const Case& shape, Kind kind, double temperature, uint64_t seed, const Target& target)
      : logits_(bytes(shape.rows * (shape.vocabulary + 3), 4)),
        outputs_{bytes(shape.rows, 8), bytes(shape.rows * shape.count, 4), bytes(shape.rows * shape.count, 4),
                 bytes(shape.rows, 8), bytes(shape.rows, 4)} {
    problem.setting.target = target;
    problem.vocabulary = shape.vocabulary;
    problem.most = shape.count;
    problem.largest_rows = shape.rows;
    auto* const logits = reinterpret_cast<float*>(logits_.data());
    Random random(seed);
    for (int64_t i = 0; i < shape.rows * (shape.vocabulary + 3); ++i) logits[i] = drawn(random, kind);
    auto* const temperatures = reinterpret_cast<double*>(outputs_[0].data());
    for (int64_t row = 0; row < shape.rows; ++row) temperatures[row] = row == 1 ? 0.0 : temperature;
    args.logits = {logits, {shape.rows, shape.vocabulary}, {shape.vocabulary + 3, 1}};
    args.temperatures = {temperatures, {shape.rows}};
    args.ids = {reinterpret_cast<int32_t*>(outputs_[1].data()), {shape.rows, shape.count}};
    args.values = {reinterpret_cast<float*>(outputs_[2].data()), {shape.rows, shape.count}};
    args.totals = {reinterpret_cast<double*>(outputs_[3].data()), {shape.rows}};
    args.numbers = {reinterpret_cast<int32_t*>(outputs_[4].data()), {shape.rows}};
  }

  Problem problem;
  Args args;

 private:
  static audit::TensorBytes bytes(int64_t count, int64_t size) {
    return audit::TensorBytes(std::max<int64_t>(count, 1) * size);
  }

  audit::TensorBytes logits_;
  audit::TensorBytes outputs_[5];
};

}  // namespace fulgurite::largest_logits
