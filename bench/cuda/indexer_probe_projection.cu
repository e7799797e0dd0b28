// indexer_projection's kernels against its reference.

#include <chrono>

#include "bench/cuda/indexer_probe.h"
#include "bench/cuda/indexer_probe_late.h"
#include "fulgurite/ops/indexer_projection/indexer_projection_cuda.h"

namespace fulgurite::probe {
namespace {

namespace projection = indexer_projection::cuda;

struct Weights {
  int hidden, heads;
  bool keys;
  std::vector<uint16_t> wk, w;
  Device<uint16_t> wk_device, w_device;
  Weights(int hidden_, int heads_, bool keys_, uint64_t seed)
      : hidden(hidden_),
        heads(heads_),
        keys(keys_),
        wk(random_bf16(keys ? size_t{128} * hidden : 0, seed)),
        w(random_bf16(size_t(heads) * hidden, seed + 1)),
        wk_device(wk),
        w_device(w) {}
};

struct Outputs {
  static constexpr int kGuard = 3;
  int64_t k_stride, gate_stride;
  Device<uint16_t> k;
  Device<float> gate;
  Outputs(int tokens, int heads)
      : k_stride(136),
        gate_stride(heads + 3),
        k(static_cast<size_t>((tokens + kGuard) * k_stride)),
        gate(static_cast<size_t>((tokens + kGuard) * gate_stride)) {}
};

projection::Params params_of(const Weights& weights, const uint16_t* x, int64_t x_stride, int tokens,
                             const Outputs& out) {
  projection::Params params;
  params.x = x;
  params.x_stride = x_stride;
  params.wk = weights.keys ? weights.wk_device.data : nullptr;
  params.wk_stride = params.w_stride = weights.hidden;
  params.w = weights.w_device.data;
  params.k = out.k.data;
  params.k_stride = out.k_stride;
  params.gate = out.gate.data;
  params.gate_stride = out.gate_stride;
  params.tokens = tokens;
  params.hidden = weights.hidden;
  params.heads = weights.heads;
  return params;
}

// Differences from the reference's first rows; what must not be written counts too.
size_t differences(const Weights& weights, const Outputs& out, int tokens, const std::vector<uint16_t>& k,
                   const std::vector<float>& gate, int first_row = 0) {
  const auto k_found = out.k.download();
  const auto gate_found = out.gate.download();
  size_t wrong = 0;
  uint32_t poison_bits = 0xCDCDCDCD;
  float poison;
  std::memcpy(&poison, &poison_bits, 4);
  for (size_t i = 0; i < k_found.size(); ++i) {
    const int t = static_cast<int>(i / out.k_stride), d = static_cast<int>(i % out.k_stride);
    const bool written = weights.keys && t < tokens && d < 128;
    if (written && t < first_row) continue;
    wrong += written ? !same(k_found[i], k[size_t(t - first_row) * 128 + d]) : k_found[i] != 0xCDCD;
  }
  for (size_t i = 0; i < gate_found.size(); ++i) {
    const int t = static_cast<int>(i / out.gate_stride), h = static_cast<int>(i % out.gate_stride);
    const bool written = t < tokens && h < weights.heads;
    if (written && t < first_row) continue;
    wrong += written ? !same(gate_found[i], gate[size_t(t - first_row) * weights.heads + h])
                     : std::memcmp(&gate_found[i], &poison, 4) != 0;
  }
  return wrong;
}

// Denormals, NaN, infinities and zeros of both signs in rows of their own.
void spoil(std::vector<uint16_t>& x, int64_t stride, int hidden, int tokens) {
  const auto at = [&](int t, int i) -> uint16_t& { return x[size_t(t) * stride + i % hidden]; };
  for (int t = 0; t < tokens; ++t) {
    switch (t % 8) {
      case 1:
        at(t, t * 7) = 0x7FC0;
        break;  // NaN
      case 2:
        at(t, t * 5) = 0x7F80;
        break;  // infinity
      case 3:
        at(t, 1) = 0x7F80, at(t, hidden - 1) = 0xFF80;
        break;  // both
      case 4:
        for (int i = 0; i < hidden; ++i) at(t, i) = (i & 1) << 15;
        break;  // zeros
      case 5:
        for (int i = 0; i < hidden; ++i) at(t, i) &= 0x807F;
        break;  // denormals
      case 6:
        for (int i = 0; i < hidden; i += 3) at(t, i) |= 0x7000;
        break;  // large
      default:
        break;
    }
  }
}

void check_projection(int hidden, int heads, bool keys, std::vector<int> batches, bool odd = false,
                      bool round_gate = false, int extra_stride = 0) {
  const int most = *std::max_element(batches.begin(), batches.end());
  const Weights weights(hidden, heads, keys, 11 + hidden);
  const int64_t stride = hidden + extra_stride;
  std::vector<uint16_t> x = random_bf16(size_t(most) * stride, 5);
  if (odd) spoil(x, stride, hidden, most);
  std::vector<uint16_t> k(size_t(most) * 128);
  std::vector<float> gate(size_t(most) * heads);
  const Projection problem{
      x.data(),  keys ? weights.wk.data() : nullptr, weights.w.data(), stride, most, hidden, heads,
      round_gate};
  project(problem, projection::kParts, k.data(), gate.data());
  Device<uint16_t> x_device(x);
  for (const int tokens : batches) {
    Outputs out(tokens, heads);
    for (const int processors : {132, 66, 7}) {
      projection::Params params = params_of(weights, x_device.data, stride, tokens, out);
      params.round_gate = round_gate;
      params.processors = processors;
      params.dependent = processors == 66;
      out.k.poison();
      out.gate.poison();
      projection::launch(params, nullptr);
      MUST(cudaDeviceSynchronize());
      const size_t wrong = differences(weights, out, tokens, k, gate);
      claim(wrong == 0, text("projection K=%d heads=%d keys=%d M=%d processors=%d odd=%d: %zu differ", hidden,
                             heads, keys, tokens, processors, odd, wrong));
    }
    if (odd || tokens == 0 || tokens != most) continue;
    std::vector<uint16_t> other = x;  // must be seen: one bit of one value
    other[size_t(tokens / 2) * stride + hidden / 3] ^= 0x40;
    Device<uint16_t> other_device(other);
    projection::Params params = params_of(weights, other_device.data, stride, tokens, out);
    params.round_gate = round_gate;
    out.k.poison();
    out.gate.poison();
    projection::launch(params, nullptr);
    const size_t wrong = differences(weights, out, tokens, k, gate);
    claim(wrong > 0 && wrong <= size_t(heads + 128),
          text("projection K=%d: a wrong bit gave %zu differences", hidden, wrong));
  }
}

// At the real size: prefixes of one batch, an order that is not the kernel's, the distance from the exact
// sum.
void check_projection_at_size(bool keys, int most, const std::vector<int>& batches) {
  const int hidden = 7168, heads = 64;
  const Weights weights(hidden, heads, keys, 3);
  const std::vector<uint16_t> x = random_bf16(size_t(most) * hidden, 9);
  std::vector<uint16_t> k(size_t(most) * 128);
  std::vector<float> gate(size_t(most) * heads);
  Projection problem{x.data(), keys ? weights.wk.data() : nullptr, weights.w.data(), hidden, most, hidden,
                     heads};
  const auto begin = std::chrono::steady_clock::now();
  project(problem, projection::kParts, k.data(), gate.data());
  std::printf("reference of %d tokens: %.2f s\n", most,
              std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  Device<uint16_t> x_device(x);
  for (const int tokens : batches) {
    Outputs out(tokens, heads);
    out.k.poison();
    out.gate.poison();
    projection::launch(params_of(weights, x_device.data, hidden, tokens, out), nullptr);
    MUST(cudaDeviceSynchronize());
    const size_t wrong = differences(weights, out, tokens, k, gate);
    claim(wrong == 0, text("projection at size keys=%d M=%d: %zu differ", keys, tokens, wrong));
  }
  problem.tokens = std::min(most, 32);
  std::vector<float> other(size_t(most) * heads);
  project(problem, 8, k.data(), other.data());
  size_t differ = 0;
  double error = 0.0, norm = 0.0;
  for (int t = 0; t < problem.tokens; ++t) {
    for (int h = 0; h < heads; ++h) {
      double sum;
      project_exactly(problem, t, h, sum);
      const double found = gate[size_t(t) * heads + h];
      error += (found - sum) * (found - sum);
      norm += sum * sum;
      differ += !same(gate[size_t(t) * heads + h], other[size_t(t) * heads + h]);
    }
  }
  std::printf("keys=%d: error against double %.2e; %zu of %d differ from an order of 8 parts\n", keys,
              std::sqrt(error / norm), differ, problem.tokens * heads);
  claim(std::sqrt(error / norm) <= 4e-6, "projection: error");
  claim(differ > size_t(problem.tokens * heads) / 2, "projection: another order is told apart");
}

void check_large_projection(bool keys, int tokens) {
  const int hidden = 7168, heads = 64, last = 48;
  const Weights weights(hidden, heads, keys, 3);
  Device<uint16_t> x(size_t(tokens) * hidden);
  fill(x.data, x.count, 77);
  std::vector<uint16_t> rows(size_t(last) * hidden);
  MUST(cudaMemcpy(rows.data(), x.data + size_t(tokens - last) * hidden, rows.size() * 2,
                  cudaMemcpyDeviceToHost));
  std::vector<uint16_t> k(size_t(last) * 128);
  std::vector<float> gate(size_t(last) * heads);
  project({rows.data(), keys ? weights.wk.data() : nullptr, weights.w.data(), hidden, last, hidden, heads},
          projection::kParts, k.data(), gate.data());
  Outputs out(tokens, heads);
  out.k.poison();
  out.gate.poison();
  projection::launch(params_of(weights, x.data, hidden, tokens, out), nullptr);
  MUST(cudaDeviceSynchronize());
  const size_t wrong = differences(weights, out, tokens, k, gate, tokens - last);
  claim(wrong == 0, text("projection, last rows of M=%d keys=%d: %zu differ", tokens, keys, wrong));
}

void check_projection_repeats(bool keys, int tokens, int times) {
  const int hidden = 7168, heads = 64;
  const Weights weights(hidden, heads, keys, 21);
  Device<uint16_t> x(size_t(tokens) * hidden);
  fill(x.data, x.count, 78);
  Outputs first(tokens, heads), again(tokens, heads);
  first.k.poison();
  first.gate.poison();
  projection::launch(params_of(weights, x.data, hidden, tokens, first), nullptr);
  Device<unsigned> differ(1);
  MUST(cudaMemset(differ.data, 0, 4));
  for (int i = 0; i < times; ++i) {
    again.k.poison();
    again.gate.poison();
    projection::Params params = params_of(weights, x.data, hidden, tokens, again);
    params.processors = i % 3 == 0 ? 132 : i % 3 == 1 ? 66 : 7;
    params.dependent = i % 2 == 1;
    projection::launch(params, nullptr);
    count_differences(reinterpret_cast<uint32_t*>(first.k.data), reinterpret_cast<uint32_t*>(again.k.data),
                      first.k.count / 2, differ.data);
    count_differences(reinterpret_cast<uint32_t*>(first.gate.data),
                      reinterpret_cast<uint32_t*>(again.gate.data), first.gate.count, differ.data);
  }
  claim(differ.download()[0] == 0, text("projection keys=%d M=%d: %d launches agree", keys, tokens, times));
}

void check_dependence(int tokens) {
  const Weights weights(7168, 64, true, 21);
  Device<uint16_t> x(size_t(tokens) * 7168), late(x.count);
  fill(x.data, x.count, 79);
  Outputs expected(tokens, 64), found(tokens, 64);
  for (Outputs* out : {&expected, &found}) {
    out->k.poison();
    out->gate.poison();
  }
  projection::launch(params_of(weights, x.data, 7168, tokens, expected), nullptr);
  late.poison();
  MUST(cudaDeviceSynchronize());
  projection::Params params = params_of(weights, late.data, 7168, tokens, found);
  params.dependent = true;
  write_late(late.data, x.data, x.count);
  projection::launch(params, nullptr);
  MUST(cudaDeviceSynchronize());
  claim(expected.k.download() == found.k.download() && expected.gate.download() == found.gate.download(),
        text("projection M=%d waits for its predecessor", tokens));
}

}  // namespace

void check_projections(bool fast) {
  const std::vector<int> few = {0, 1, 7, 8, 9, 16}, all = {0, 1, 7, 16, 17, 63, 64, 65, 129, 257, 300};
  for (const int hidden : {16, 48, 256, 384, 720}) {
    for (const bool keys : {false, true}) {
      check_projection(hidden, 64, keys, few);
      check_projection(hidden, 8, keys, all, false, false, 8);
      check_projection(hidden, 13, keys, all, true);
    }
  }
  report_checks("small projections");
  if (!fast) {
    check_projection(6144, 32, true, {1, 16, 17, 129, 300}, true, true);
    check_projection(7200, 64, true, {3, 40, 300});
    check_projection(7200, 64, false, {3, 40, 300});
    report_checks("6144, 7200");
    check_projection_at_size(false, 1100, {1, 2, 8, 9, 16, 17, 64, 65, 128, 129, 256, 512, 513, 1024, 1100});
    check_projection_at_size(true, 700, {1, 8, 16, 17, 64, 65, 128, 192, 193, 256, 257, 512, 576, 577, 700});
    check_large_projection(false, 8192);
    check_large_projection(false, 2048 + 37);
    check_large_projection(false, 1500);
    check_large_projection(false, 3000);
    check_large_projection(true, 1500);
    check_large_projection(true, 4096);
    check_large_projection(true, 5000);
    report_checks("projections at size");
  }
  for (const int tokens : {3, 16, 60, 500}) check_dependence(tokens);
  if (fast) return;
  for (const bool keys : {false, true})
    for (const int tokens : {1, 16, 64, 512, 3000}) check_projection_repeats(keys, tokens, 1002);
  report_checks("projections");
}

void run_small_projections() {
  for (const int tokens : {1, 16, 17, 100, 200, 300}) {
    for (const bool keys : {false, true}) {
      const Weights weights(7168, 64, keys, 21);
      Device<uint16_t> x(size_t(tokens) * 7168);
      fill(x.data, x.count, 79);
      Outputs out(tokens, 64);
      projection::Params params = params_of(weights, x.data, 7168, tokens, out);
      params.processors = 7;
      projection::launch(params, nullptr);
      MUST(cudaDeviceSynchronize());
    }
  }
}

}  // namespace fulgurite::probe
