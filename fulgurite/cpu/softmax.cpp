#include "fulgurite/cpu/softmax.h"

#include <bit>
#include <limits>

namespace fulgurite::cpu {
namespace {

constexpr int64_t kLanes = 16;

// x = n ln 2 + r, |r| <= ln 2 / 2; a polynomial of exp(r); times 2^n in two steps, so that the result
// underflows gradually. Constants: Cephes expf (S. Moshier).
inline float exponential(float x) {
  constexpr float kRound = 0x1.8p23f;  // adding it rounds to an integer, which stands in the low bits
  x = x < -104.0f ? -104.0f : x;       // exp(-104) rounds to zero
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float sum = 1.9875691500e-4f;
  sum = sum * r + 1.3981999507e-3f;
  sum = sum * r + 8.3334519073e-3f;
  sum = sum * r + 4.1665795894e-2f;
  sum = sum * r + 1.6666665459e-1f;
  sum = sum * r + 5.0000001201e-1f;
  sum = (sum * (r * r) + r) + 1.0f;
  const uint32_t power = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(kRound);
  const uint32_t half = static_cast<uint32_t>(static_cast<int32_t>(power) >> 1);
  const float first = std::bit_cast<float>((half + 127u) << 23);
  const float second = std::bit_cast<float>((power - half + 127u) << 23);
  return (sum * first) * second;
}

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
