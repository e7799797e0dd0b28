#include "fulgurite/cpu/softmax.h"

#include <limits>

#include "fulgurite/cpu/exponential.h"

namespace fulgurite::cpu {
namespace {

constexpr int64_t kLanes = 16;

float largest(const float* scores, int64_t count) {
  float result = -std::numeric_limits<float>::infinity();
  for (int64_t j = 0; j < count; ++j) result = scores[j] > result ? scores[j] : result;
  return result;
}

float sum_of_lanes(const float* lane) {
  float half[8], quarter[4];
  for (int i = 0; i < 8; ++i) half[i] = lane[i] + lane[i + 8];
  for (int i = 0; i < 4; ++i) quarter[i] = half[i] + half[i + 4];
  return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

}  // namespace

float exp_not_positive(float x) { return exponential(x); }

float softmax(float* scores, int64_t count) {
  const float top = largest(scores, count);
  float lane[kLanes] = {};
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) {
    for (int64_t i = 0; i < kLanes; ++i) {
      scores[j + i] = exponential(scores[j + i] - top);
      lane[i] += scores[j + i];
    }
  }
  for (int64_t i = 0; j + i < count; ++i) {
    scores[j + i] = exponential(scores[j + i] - top);
    lane[i] += scores[j + i];
  }
  return sum_of_lanes(lane);
}

}  // namespace fulgurite::cpu
