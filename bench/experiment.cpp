#include "bench/experiment.h"

#include <algorithm>
#include <cmath>

#include "fulgurite/core/element.h"

namespace fulgurite::bench {

Deviation deviation(const Tensor<2>& made, const std::vector<double>& exact) {
  double difference = 0.0, norm = 0.0, largest = 0.0;
  for (int64_t t = 0; t < made.extent[0]; ++t) {
    for (int64_t i = 0; i < made.extent[1]; ++i) {
      const double expected = exact[static_cast<size_t>(t * made.extent[1] + i)];
      const double off = std::abs(load(made, t, i) - expected);
      difference += off * off;
      norm += expected * expected;
      largest = std::max(largest, off);
    }
  }
  return {std::sqrt(difference / norm), largest / std::sqrt(norm / static_cast<double>(exact.size()))};
}

Weight made_weight(EncodedMatrix bytes, const MatrixFormat& format, int64_t out, int64_t in) {
  Weight weight{std::move(bytes), {{}, out, in}};
  weight.matrix.as = view_of(weight.bytes, format, out, in).as;
  return weight;
}

MatrixValues drawn_values(std::vector<double>& memory, Random& random, int64_t out, int64_t in) {
  memory.resize(static_cast<size_t>(out * in));
  for (double& value : memory) value = 0.02 * random.normal();
  return {out, in,
          [&memory, in](int64_t row, double* to) { std::copy_n(memory.begin() + row * in, in, to); }};
}

Tensor<2> drawn_activations(Arena& arena, int64_t tokens, int64_t hidden) {
  Random& random = arena.random();
  const Tensor<2> x = arena.drawn<2>(DType::kBF16, {tokens, hidden});
  for (int64_t i = 0; i < hidden; ++i) {
    const double gain = std::exp(0.5 * random.normal()) * (random.below(256) == 0 ? 20.0 : 1.0);
    for (int64_t t = 0; t < tokens; ++t) store(x, static_cast<float>(gain * load(x, t, i)), t, i);
  }
  return x;
}

}  // namespace fulgurite::bench
