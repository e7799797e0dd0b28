// The fp8 linear and head_projection against their references.

#include "bench/cuda/indexer_probe_late.h"
#include "bench/cuda/linear_probe.h"
#include "fulgurite/core/fp8.h"

namespace fulgurite::probe {

void spoil(std::vector<uint16_t>& x, int64_t stride, int in, int tokens) {
  for (int t = 0; t < tokens; ++t) {
    const auto at = [&](int i) -> uint16_t& { return x[size_t(t) * stride + i % in]; };
    if (t % 8 == 1) at(t * 7) = 0x7FC0;
    if (t % 8 == 2) at(t * 5) = 0xFF80;
    for (int i = 0; i < in; ++i) {
      if (t % 8 == 3) at(i) = static_cast<uint16_t>((i & 1) << 15);
      if (t % 8 == 4) at(i) &= 0x807F;
      if (t % 8 == 5 && i % 3 == 0) at(i) |= 0x7000;
      if (t % 8 == 6) at(i) = static_cast<uint16_t>((at(i) & 0x80FF) | 0x3800);  // below the smallest amax
    }
  }
}

namespace {

namespace fp8 = linear::hopper;
namespace absorbed = head_projection::hopper;

// e4m3 weights with scales that are no powers of two.
struct Weights {
  int in, out;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  Weights(int in_, int out_, uint64_t seed)
      : in(in_), out(out_), codes(size_t(in) * out), scales(size_t((in + 127) / 128) * ((out + 127) / 128)) {
    const int pieces = 64;
    parallel(pieces, [&](int p) {
      for (size_t i = codes.size() * p / pieces; i < codes.size() * (p + 1) / pieces; ++i)
        codes[i] = to_e4m3(normal(seed * 0x100000000ull + i) * 100.0f).bits;
    });
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = (0.5f + std::fabs(normal(seed * 77 + i))) * 3e-4f;
  }
};

// The second half of K takes away what the first adds: what is left are roundings, which tell orders apart.
void cancel(std::vector<uint16_t>& x, int64_t stride, Weights& weights, int tokens) {
  const int half = weights.in / 2, groups = weights.in / 128;
  for (int t = 0; t < tokens; ++t)
    for (int i = 0; i < half; ++i) x[t * stride + half + i] = x[t * stride + i] ^ 0x8000;
  for (int n = 0; n < weights.out; ++n)
    std::copy_n(weights.codes.begin() + int64_t{n} * weights.in, half,
                weights.codes.begin() + int64_t{n} * weights.in + half);
  for (int b = 0; b < (weights.out + 127) / 128; ++b)
    std::copy_n(weights.scales.begin() + b * groups, groups / 2,
                weights.scales.begin() + b * groups + groups / 2);
}

struct Case {
  int in, out;
  Tokens batches;
  bool odd = false;
  ScaleRounding rounding = ScaleRounding::kPow2;
  int first = 0, count = 0;  // of the rows that are compared; none: all
  bool cancels = false;
  bool powers = false;  // scales of e8m0
};

size_t wrong_rows(const Device<uint16_t>& y, const Case& c, int64_t stride, int tokens,
                  const std::vector<uint16_t>& expected) {
  const std::vector<uint16_t> found = y.download();
  size_t wrong = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const int t = static_cast<int>(i / stride), n = static_cast<int>(i % stride);
    if (t >= tokens || n >= c.out) {
      wrong += found[i] != 0xCDCD;
    } else if (n >= c.first && n < c.first + c.count) {
      wrong += !same(found[i], expected[size_t(t) * c.count + n - c.first]);
    }
  }
  return wrong;
}

void check_linear(Case c) {
  if (c.count == 0) c.count = c.out;
  const int most = *std::max_element(c.batches.begin(), c.batches.end());
  const int64_t x_stride = c.in + 8, y_stride = c.out + 8;
  Weights weights(c.in, c.out, 11 + c.in);
  std::vector<uint16_t> x = random_bf16(size_t(most) * x_stride, 5);
  if (c.odd) {
    spoil(x, x_stride, c.in, most);
    weights.codes[size_t(c.in) * 5 + 7] = 0x7F;
    weights.codes[size_t(c.in) * (c.out - 1)] = 0xFF;
  }
  if (c.cancels) cancel(x, x_stride, weights, most);
  std::vector<uint8_t> powers;
  if (c.powers)
    for (size_t i = 0; i < weights.scales.size(); ++i)
      powers.push_back(static_cast<uint8_t>(112 + hash(i) % 5));
  if (c.powers && c.odd) powers.front() = 0xFF, powers.back() = 0, powers[powers.size() / 2] = 0xFE;
  Fp8Linear problem{x.data(),
                    x_stride,
                    weights.codes.data(),
                    weights.scales.data(),
                    c.powers ? powers.data() : nullptr,
                    most,
                    c.in,
                    c.out,
                    c.rounding,
                    fp8::parts_of(c.in, c.out)};
  std::vector<uint16_t> expected(size_t(most) * c.count);
  run_linear(problem, c.first, c.count, expected.data());
  Device<uint16_t> x_device(x);
  Device<uint8_t> codes(weights.codes), workspace(fp8::workspace_bytes(most, c.in));
  Device<float> scales(weights.scales);
  Device<uint8_t> exponents(powers);
  for (const int tokens : c.batches) {
    Device<uint16_t> y(static_cast<size_t>((tokens + kGuard) * y_stride));
    for (const int processors : {132, 66, 7}) {
      fp8::Params params =
          linear_params(x_device.data, codes.data, scales.data, y.data, workspace.data, tokens, c.in, c.out);
      if (c.powers) params.scale = nullptr, params.exponents = exponents.data;
      params.x_stride = x_stride;
      params.y_stride = y_stride;
      params.rounding = c.rounding;
      params.processors = processors;
      params.dependent = processors == 66;
      y.poison();
      workspace.poison();
      if (processors == 7) {
        fp8::launch_quantization(params, nullptr);
        fp8::launch_product(params, nullptr);
      } else {
        fp8::launch(params, nullptr);
      }
      MUST(cudaDeviceSynchronize());
      const size_t wrong = wrong_rows(y, c, y_stride, tokens, expected);
      claim(wrong == 0, text("linear N=%d K=%d M=%d processors=%d odd=%d rounding=%d: %zu differ", c.out,
                             c.in, tokens, processors, c.odd, static_cast<int>(c.rounding), wrong));
    }
  }
  if (c.odd) return;
  problem.tokens = std::min(most, 16);
  expected.resize(size_t(problem.tokens) * c.count);
  if (!c.cancels) {
    const double error = error_of_linear(problem, c.first, c.count, expected.data());
    std::printf("N=%d K=%d: error against exact sums, rounded to bf16: %.2e\n", c.out, c.in, error);
    return claim(error <= 4e-3, "linear: error");
  }
  std::vector<uint16_t> other(expected.size());
  problem.parts = problem.parts == 1 ? 2 : 1;
  run_linear(problem, c.first, c.count, other.data());
  size_t differ = 0;
  for (size_t i = 0; i < expected.size(); ++i) differ += !same(expected[i], other[i]);
  std::printf("N=%d K=%d of %d parts: %zu of %zu differ in another order\n", c.out, c.in,
              fp8::parts_of(c.in, c.out), differ, expected.size());
  claim(differ > expected.size() / 4, "linear: another order is told apart");
}

void check_repeats(int in, int out, int tokens, int times) {
  const Weights weights(in, out, 3);
  Device<uint8_t> codes(weights.codes), workspace(fp8::workspace_bytes(tokens, in));
  Device<float> scales(weights.scales);
  Device<uint16_t> x(size_t(tokens) * in), first(size_t(tokens) * out), again(first.count);
  fill(x.data, x.count, 78);
  Device<unsigned> differ(1);
  MUST(cudaMemset(differ.data, 0, 4));
  fp8::Params params =
      linear_params(x.data, codes.data, scales.data, first.data, workspace.data, tokens, in, out);
  fp8::launch(params, nullptr);
  params.y = again.data;
  for (int i = 0; i < times; ++i) {
    again.poison();
    params.processors = i % 3 == 0 ? 132 : i % 3 == 1 ? 66 : 7;
    params.dependent = i % 2 == 1;
    fp8::launch(params, nullptr);
    count_differences(reinterpret_cast<uint32_t*>(first.data), reinterpret_cast<uint32_t*>(again.data),
                      first.count / 2, differ.data);
  }
  claim(differ.download()[0] == 0, text("linear N=%d K=%d M=%d: %d launches agree", out, in, tokens, times));
}

void check_dependence(int in, int out, int tokens) {
  const Weights weights(in, out, 3);
  Device<uint8_t> codes(weights.codes), workspace(fp8::workspace_bytes(tokens, in));
  Device<float> scales(weights.scales);
  Device<uint16_t> x(size_t(tokens) * in), late(x.count), expected(size_t(tokens) * out),
      found(expected.count);
  fill(x.data, x.count, 79);
  fp8::Params params =
      linear_params(x.data, codes.data, scales.data, expected.data, workspace.data, tokens, in, out);
  fp8::launch(params, nullptr);
  late.poison();
  MUST(cudaDeviceSynchronize());
  params.x = late.data;
  params.y = found.data;
  params.dependent = true;
  write_late(late.data, x.data, x.count);
  fp8::launch(params, nullptr);
  MUST(cudaDeviceSynchronize());
  claim(expected.download() == found.download(), text("linear M=%d waits for its predecessor", tokens));
}

// --- head_projection ---

void check_head(bool from_rows, int rows, int heads, int latent, const Tokens& batches, bool odd) {
  const int most = *std::max_element(batches.begin(), batches.end());
  const int in = from_rows ? rows : latent, out = from_rows ? latent : rows;
  std::vector<uint16_t> x = random_bf16(size_t(most) * heads * in, 5);
  absorbed::Params params = head_params(from_rows, rows, nullptr, nullptr, nullptr, most, heads, latent);
  std::vector<uint16_t> weight = random_bf16(size_t(heads) * params.rows_per_head * latent, 6);
  if (odd) spoil(x, int64_t{heads} * in, heads * in, most);
  std::vector<uint16_t> expected(size_t(most) * heads * out);
  run_heads(
      {from_rows, x.data(), weight.data(), most, heads, params.rows_per_head, params.first_row, rows, latent},
      expected.data());
  Device<uint16_t> x_device(x), weight_device(weight);
  for (const int tokens : batches) {
    Device<uint16_t> y(size_t(tokens + kGuard) * heads * out);
    y.poison();
    params = head_params(from_rows, rows, x_device.data, weight_device.data, y.data, tokens, heads, latent);
    params.dependent = tokens % 2 == 1;
    absorbed::launch(params, nullptr);
    MUST(cudaDeviceSynchronize());
    const std::vector<uint16_t> found = y.download();
    size_t wrong = 0;
    for (size_t i = 0; i < found.size(); ++i)
      wrong += i < size_t(tokens) * heads * out ? !same(found[i], expected[i]) : found[i] != 0xCDCD;
    claim(wrong == 0, text("heads from_rows=%d rows=%d heads=%d latent=%d M=%d odd=%d: %zu of %zu differ",
                           from_rows, rows, heads, latent, tokens, odd, wrong, found.size()));
  }
}

void check_head_repeats(bool from_rows, int tokens, int times) {
  Device<uint16_t> x(size_t(tokens) * 128 * 512), weight(size_t(128) * 256 * 512), first(x.count),
      again(x.count);
  fill(x.data, x.count, 1);
  fill(weight.data, weight.count, 2);
  Device<unsigned> differ(1);
  MUST(cudaMemset(differ.data, 0, 4));
  const size_t count = size_t(tokens) * 128 * (from_rows ? 512 : 128);
  for (int i = 0; i <= times; ++i) {
    Device<uint16_t>& to = i == 0 ? first : again;
    to.poison();
    absorbed::Params params = head_params(from_rows, 128, x.data, weight.data, to.data, tokens, 128, 512);
    params.dependent = i % 2 == 1;
    absorbed::launch(params, nullptr);
    if (i > 0)
      count_differences(reinterpret_cast<uint32_t*>(first.data), reinterpret_cast<uint32_t*>(again.data),
                        count / 2, differ.data);
  }
  claim(differ.download()[0] == 0,
        text("heads from_rows=%d M=%d: %d launches agree", from_rows, tokens, times));
}

}  // namespace

void check_linears(bool fast) {
  const Tokens few = {0, 1, 3, 8, 9, 16, 17, 33, 63, 65, 128},
               all = {1, 3, 12, 17, 63, 64, 65, 127, 130, 257, 300};
  for (const ScaleRounding rounding : {ScaleRounding::kPow2, ScaleRounding::kNone, ScaleRounding::kDivided})
    check_linear({512, 576, all, false, rounding});
  check_linear({512, 576, few, true});
  check_linear({1536, 264, all, true, ScaleRounding::kNone});
  check_linear({144, 72, all, true});
  check_linear({2304, 3200, all, true});  // two parts
  check_linear({256, 6272, all, true});   // one
  report_checks("small linears");
  if (!fast) {
    check_linear({7168, 2112, all});
    check_linear({7168, 576, few, true});
    check_linear({7168, 2112, {1, 16, 64, 130}, false, ScaleRounding::kPow2, 0, 0, true});
    check_linear({1536, 8192, {1, 16, 64, 130}, false, ScaleRounding::kPow2, 0, 512, true});
    check_linear({7168, 1536, {1, 64, 130}});
    check_linear({1536, 8192, all, false, ScaleRounding::kPow2, 7168, 1024});
    check_linear(
        {1536, 24576, {1, 16, 17, 64, 65, 128, 513, 1100}, false, ScaleRounding::kPow2, 24576 - 640, 640});
    check_linear({16384, 7168, {1, 16, 64, 130, 300}, false, ScaleRounding::kPow2, 7168 - 384, 384});
    check_linear({2048, 7168, {1, 64, 129, 4096 + 37}, false, ScaleRounding::kNone, 0, 256});
    report_checks("linears at size");
  }
  for (const int tokens : {3, 16, 60, 200}) check_dependence(7168, 2112, tokens);
  for (const int tokens : {3, 60, 300}) check_dependence(1536, 8192, tokens);
  if (fast) return;
  for (const int tokens : {1, 16, 64, 300}) check_repeats(7168, 2112, tokens, 1000);
  for (const int tokens : {1, 64, 300}) check_repeats(1536, 8192, tokens, 1000);
  check_repeats(16384, 7168, 64, 1000);
  report_checks("linears");
}

// DeepSeek-V4's, Flash and Pro, with scales of e8m0.
void check_powers() {
  const Tokens batches = {1, 2, 8, 16, 17, 63, 64, 65, 129, 512}, few = {1, 16, 64, 129};
  const auto shape = [](int out, int in, const Tokens& tokens, int first, int count) {
    check_linear({in, out, tokens, false, ScaleRounding::kPow2, first, count, false, true});
  };
  check_linear({512, 576, batches, false, ScaleRounding::kPow2, 0, 0, false, true});
  check_linear({512, 576, batches, true, ScaleRounding::kPow2, 0, 0, false, true});
  check_linear({1536, 264, batches, true, ScaleRounding::kNone, 0, 0, false, true});
  check_linear(
      {5120, 6272, few, true, ScaleRounding::kPow2, 6272 - 256, 256, false, true});  // 40 scales a row
  report_checks("e8m0, small");
  shape(1024, 4096, batches, 0, 256);
  shape(512, 4096, batches, 0, 256);
  shape(32768, 1024, batches, 32768 - 384, 384);
  shape(8192, 1024, batches, 8192 - 384, 384);
  shape(4096, 8192, few, 4096 - 256, 256);
  shape(1536, 7168, few, 1536 - 256, 256);
  shape(65536, 1536, few, 65536 - 256, 256);
  shape(512, 7168, few, 256, 256);
  shape(7168, 16384, few, 7168 - 256, 256);
  report_checks("e8m0, DeepSeek-V4");
}

void check_heads(bool fast) {
  const Tokens all = {0, 1, 3, 8, 9, 17, 33, 64, 65, 128, 130, 300};
  for (const bool from_rows : {true, false}) {
    check_head(from_rows, 128, 5, 512, all, false);
    check_head(from_rows, 128, 3, 512, all, true);
    check_head(from_rows, 128, 2, 64, {1, 130}, false);
    check_head(from_rows, from_rows ? 192 : 256, 3, 512, all, true);
    if (fast) continue;
    check_head(from_rows, 128, 128, 512, {1, 32, 128}, false);
    for (const int tokens : {1, 32, 128}) check_head_repeats(from_rows, tokens, 1000);
  }
  report_checks("heads");
}

void run_small() {
  for (const int tokens : {1, 16, 30, 64, 100, 200}) {
    for (const auto& [in, out] : {std::pair{1536, 264}, {256, 6272}, {512, 3200}}) {
      const Weights weights(in, out, 3);
      Device<uint8_t> codes(weights.codes), workspace(fp8::workspace_bytes(tokens, in));
      Device<float> scales(weights.scales);
      Device<uint16_t> x(size_t(tokens) * in), y(size_t(tokens) * out);
      fill(x.data, x.count, 78);
      fp8::Params params =
          linear_params(x.data, codes.data, scales.data, y.data, workspace.data, tokens, in, out);
      params.processors = 7;
      fp8::launch(params, nullptr);
      MUST(cudaDeviceSynchronize());
    }
  }
  for (const bool from_rows : {true, false}) {
    check_head(from_rows, 128, 2, 512, {1, 16, 30, 64, 150}, false);
    check_head(from_rows, from_rows ? 192 : 256, 2, 512, {1, 150}, false);
  }
}

}  // namespace fulgurite::probe
