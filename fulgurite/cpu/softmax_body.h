// The softmax of a tile of scores, heads as lanes, and what rescales and ends its weighted sums. Part of
// kernels_body.h. No #pragma once: it is a body.

#include <cstdint>
#include <cstring>
#include <limits>

namespace {

typedef int32_t Integers __attribute__((vector_size(kRegisterBytes)));

// exponential.h's, bit for bit, of x <= 0: in vectors, since the compiler makes none of its choices.
inline Floats exponential_not_positive(Floats x) {
  constexpr float kRound = 0x1.8p23f;
  x = x < -104.0f ? Floats{} - 104.0f : x;
  const Floats shifted = x * 1.44269504f + kRound;
  const Floats n = shifted - kRound;
  const Floats r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Floats sum = r * 1.9875691500e-4f + 1.3981999507e-3f;
  sum = sum * r + 8.3334519073e-3f;
  sum = sum * r + 4.1665795894e-2f;
  sum = sum * r + 1.6666665459e-1f;
  sum = sum * r + 5.0000001201e-1f;
  sum = (sum * (r * r) + r) + 1.0f;
  const Integers power = same_bits<Integers>(shifted) - same_bits<int32_t>(kRound);
  const Integers half = power >> 1;
  const Floats first = same_bits<Floats>((half + 127) << 23);
  const Floats second = same_bits<Floats>((power - half + 127) << 23);
  return (sum * first) * second;
}

// exp(x - largest); -infinity weighs nothing, beside a largest of -infinity too.
inline Floats weight_of(Floats x, Floats largest) {
  const Floats weight = exponential_not_positive(x - largest);
  return x == -std::numeric_limits<float>::infinity() ? Floats{} : weight;
}

using fulgurite::cpu::RunningSoftmax;
using fulgurite::cpu::ScoreTile;

// One register's worth of the sixteen heads: lanes [lane, lane + kWidth).
inline void softmax_lanes(const ScoreTile& tile, const RunningSoftmax& state, int64_t lane) {
  const auto score = [&](int64_t j) { return load(tile.scores + j * tile.stride + lane) * tile.scale; };
  const Floats before = load(state.largest + lane);
  Floats largest = before;
  for (int64_t j = 0; j < tile.keys; ++j) {
    const Floats s = score(j);
    largest = s > largest ? s : largest;
  }
  Floats sum = {};
  const auto weigh = [&](int64_t j) {
    const Floats weight = weight_of(score(j), largest);
    const Words rounded = nearest_bf16(words(weight));
    sum = sum + (tile.rounded_denominator ? floats(rounded << 16) : weight);
    return rounded;
  };
  for (int64_t j = 0; j < tile.keys; j += 2) {
    const Words first = weigh(j), second = j + 1 < tile.keys ? weigh(j + 1) : Words{};
    const Words pair = first | second << 16;
    std::memcpy(tile.p + j / 2 * tile.p_stride + lane, &pair, sizeof pair);
  }
  store(state.largest + lane, largest);
  store(state.rescale + lane, weight_of(before, largest));
  float sums[kWidth];
  std::memcpy(sums, &sum, sizeof sums);
  for (int64_t l = 0; l < kWidth; ++l)
    state.denominator[lane + l] =
        __builtin_fmaf(state.denominator[lane + l], state.rescale[lane + l], sums[l]);
}

void softmax_tile(const ScoreTile& tile, const RunningSoftmax& state) {
  for (int64_t lane = 0; lane < kPanel; lane += kWidth) softmax_lanes(tile, state, lane);
}

void largest_scores(const ScoreTile& tile, float* largest) {
  for (int64_t lane = 0; lane < kPanel; lane += kWidth) {
    Floats found = load(largest + lane);
    for (int64_t j = 0; j < tile.keys; ++j) {
      const Floats s = load(tile.scores + j * tile.stride + lane) * tile.scale;
      found = s > found ? s : found;
    }
    store(largest + lane, found);
  }
}

// One register's worth of channels; `read` gets those at a slot's value or gate.
template <class Read>
inline Floats pool_lanes(const fulgurite::cpu::Window& window, int64_t channel, const Read& read) {
  const auto gate = [&](int64_t s) { return read(window.slots[s] + window.gate + channel); };
  Floats largest = Floats{} - std::numeric_limits<float>::infinity();
  for (int64_t s = 0; s < window.count; ++s) {
    const Floats g = gate(s);
    largest = g > largest ? g : largest;
  }
  Floats weights = {}, sum = {};
  for (int64_t s = 0; s < window.count; ++s) {
    const Floats p = exponential_not_positive(gate(s) - largest);
    weights = weights + p;
    sum = sum + p * read(window.slots[s] + channel);
  }
  return sum / weights;
}

void pool(const fulgurite::cpu::Window& window, int64_t channels, float* out) {
  int64_t c = 0;
  for (; c + kWidth <= channels; c += kWidth) store(out + c, pool_lanes(window, c, load));
  if (c == channels) return;
  const size_t bytes = static_cast<size_t>(channels - c) * sizeof(float);
  const Floats last = pool_lanes(window, c, [&](const float* from) {
    float some[kWidth] = {};
    std::memcpy(some, from, bytes);
    return load(some);
  });
  std::memcpy(out + c, &last, bytes);
}

void multiply(float* values, float factor, int64_t count) {
  for (int64_t i = 0; i < count; ++i) values[i] = values[i] * factor;
}

void multiply_add(const float* factors, const float* addends, int64_t count, float* values) {
  for (int64_t i = 0; i < count; ++i) values[i] = __builtin_fmaf(values[i], factors[i], addends[i]);
}

void divide_to_bf16(const float* values, float divisor, int64_t count, uint16_t* out) {
  convert_all(values, count, out, [&](Words bits) { return nearest_bf16(words(floats(bits) / divisor)); });
}

}  // namespace
