// Products of bf16 (cuda/bf16_product.h) and the catalog's rows of Hopper against their references; times of
// DeepSeek-V4's linears.

#include "bench/cuda/indexer_probe_late.h"
#include "bench/cuda/linear_probe.h"
#include "fulgurite/cuda/bf16_product.h"
#include "fulgurite/cuda/coded_product.h"
#include "fulgurite/ops/linear/linear.h"
#include "fulgurite/ops/linear/linear_cuda_bf16_order.h"

namespace fulgurite::probe {
namespace {

using cuda::Bf16Product;
using cuda::CodedProduct;
using Tokens = std::vector<int>;

constexpr int kGuard = 3;  // rows behind the last, and columns, that stay as they were
const Tokens kAll = {1, 2, 8, 9, 16, 17, 32, 33, 63, 64, 65, 127, 129, 300, 512};

uint16_t bf16_of(float value) { return to_bf16(value).bits; }

Bf16Product product_of(const uint16_t* x, const uint16_t* weight, void* y, int tokens, int in, int out) {
  Bf16Product product;
  product.x = x;
  product.weight = weight;
  product.x_stride = product.weight_stride = in;
  product.y = y;
  product.y_stride = out;
  product.tokens = tokens;
  product.in = in;
  product.out = out;
  const SumOrder order = linear::hopper::bf16_order_of(in, out);
  product.parts = static_cast<int>(order.parts);
  return product;
}

template <class Product>
void launch(const Product& product) {
  MUST(cuda::launch_product(product, nullptr));
  MUST(cudaDeviceSynchronize());
}

// Results [tokens, groups, out], rows y_stride apart, among bytes that stay as they were.
template <class T>
size_t wrong_values(const Device<T>& y, int tokens, int64_t y_stride, int columns,
                    const std::vector<float>& expected) {
  const std::vector<T> found = y.download();
  size_t wrong = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const size_t t = i / y_stride, n = i % y_stride;
    if (t < size_t(tokens) && n < size_t(columns)) {
      const float value = expected[t * columns + n];
      if constexpr (sizeof(T) == 4)
        wrong += !same(found[i], value);
      else
        wrong += !same(found[i], bf16_of(value));
    } else {
      T untouched;
      std::memset(&untouched, 0xCD, sizeof(T));
      wrong += std::memcmp(&found[i], &untouched, sizeof(T)) != 0;
    }
  }
  return wrong;
}

void check_product(int out, int in, const Tokens& batches, bool odd) {
  const int most = *std::max_element(batches.begin(), batches.end());
  const int64_t x_stride = in + 8, y_stride = out + 8;
  std::vector<uint16_t> x = random_bf16(size_t(most) * x_stride, 5),
                        weight = random_bf16(size_t(out) * in, 6);
  if (odd) {
    spoil(x, x_stride, in, most);
    weight[size_t(in) * 5 + 7] = 0x7FC0;
    weight[size_t(in) * (out - 1)] = 0x7F80;
    weight[size_t(in) * (out - 2) + in - 1] = 0x0001;
  }
  const SumOrder order = linear::hopper::bf16_order_of(in, out);
  Bf16Linear problem{x.data(),
                     x_stride,
                     weight.data(),
                     most,
                     in,
                     out,
                     static_cast<int>(order.parts),
                     static_cast<int>(order.step)};
  std::vector<float> expected(size_t(most) * out);
  run_linear(problem, expected.data());
  Device<uint16_t> x_device(x), weight_device(weight);
  for (const int tokens : batches) {
    Device<float> wide(static_cast<size_t>((tokens + kGuard) * y_stride));
    Device<uint16_t> narrow(wide.count);
    for (const int processors : {132, 7}) {
      wide.poison();
      narrow.poison();
      Bf16Product product = product_of(x_device.data, weight_device.data, wide.data, tokens, in, out);
      product.x_stride = x_stride;
      product.y_stride = y_stride;
      product.is_f32 = true;
      product.processors = processors;
      launch(product);
      product.y = narrow.data;
      product.is_f32 = false;
      product.dependent = true;
      launch(product);
      const size_t of_f32 = wrong_values(wide, tokens, y_stride, out, expected),
                   of_bf16 = wrong_values(narrow, tokens, y_stride, out, expected);
      claim(of_f32 == 0 && of_bf16 == 0,
            text("product N=%d K=%d M=%d processors=%d odd=%d: %zu of f32, %zu of bf16 differ", out, in,
                 tokens, processors, odd, of_f32, of_bf16));
    }
  }
  if (odd || order.parts == 1) return;
  problem.parts = 1;
  problem.tokens = std::min(most, 16);
  std::vector<float> other(size_t(problem.tokens) * out);
  run_linear(problem, other.data());
  size_t differ = 0;
  for (size_t i = 0; i < other.size(); ++i) differ += !same(other[i], expected[i]);
  std::printf("product N=%d K=%d in %d parts: %zu of %zu differ in one part\n", out, in,
              static_cast<int>(order.parts), differ, other.size());
  claim(differ > other.size() / 20, "product: another order is told apart");
}

// Some rows of a large weight, which is made on the device: the last ones.
void check_large(int out, int in, const Tokens& batches, int rows) {
  const int most = *std::max_element(batches.begin(), batches.end()), first = out - rows;
  const std::vector<uint16_t> x = random_bf16(size_t(most) * in, 5);
  Device<uint16_t> x_device(x), weight(size_t(out) * in);
  fill(weight.data, weight.count, 9);
  std::vector<uint16_t> tail(size_t(rows) * in);
  MUST(cudaMemcpy(tail.data(), weight.data + size_t(first) * in, tail.size() * 2, cudaMemcpyDeviceToHost));
  std::vector<float> expected(size_t(most) * rows);
  run_linear(Bf16Linear{x.data(), in, tail.data(), most, in, rows}, expected.data());
  for (const int tokens : batches) {
    Device<float> y(size_t(tokens) * out);
    y.poison();
    Bf16Product product = product_of(x_device.data, weight.data, y.data, tokens, in, out);
    product.is_f32 = true;
    launch(product);
    const std::vector<float> found = y.download();
    size_t wrong = 0;
    for (int t = 0; t < tokens; ++t)
      for (int n = 0; n < rows; ++n)
        wrong += !same(found[size_t(t) * out + first + n], expected[size_t(t) * rows + n]);
    claim(wrong == 0 && product.parts == 1,
          text("product N=%d K=%d M=%d: %zu differ", out, in, tokens, wrong));
  }
}

void check_groups(int groups, int rows, int in, const Tokens& batches, bool odd) {
  const int most = *std::max_element(batches.begin(), batches.end());
  std::vector<uint16_t> x = random_bf16(size_t(most) * groups * in, 7);
  const std::vector<uint16_t> weight = random_bf16(size_t(groups) * rows * in, 8);
  if (odd) spoil(x, int64_t{groups} * in, groups * in, most);
  std::vector<uint16_t> expected(size_t(most) * groups * rows);
  run_heads({false, x.data(), weight.data(), most, groups, rows, 0, rows, in}, expected.data());
  Device<uint16_t> x_device(x), weight_device(weight);
  for (const int tokens : batches) {
    Device<uint16_t> y(size_t(tokens + kGuard) * groups * rows);
    for (const int processors : {132, 7}) {
      y.poison();
      Bf16Product product = product_of(x_device.data, weight_device.data, y.data, tokens, in, rows);
      product.groups = groups;
      product.parts = 1;
      product.x_stride = int64_t{groups} * in;
      product.x_group_stride = in;
      product.weight_group_stride = int64_t{rows} * in;
      product.y_stride = int64_t{groups} * rows;
      product.y_group_stride = rows;
      product.processors = processors;
      launch(product);
      const std::vector<uint16_t> found = y.download();
      size_t wrong = 0;
      for (size_t i = 0; i < found.size(); ++i)
        wrong += i < size_t(tokens) * groups * rows ? !same(found[i], expected[i]) : found[i] != 0xCDCD;
      claim(wrong == 0, text("groups=%d N=%d K=%d M=%d processors=%d odd=%d: %zu differ", groups, rows, in,
                             tokens, processors, odd, wrong));
    }
  }
}

// Codes of e4m3 of a normal distribution, and powers of two about 2^-13; odd: NaN codes, and the ends of the powers.
struct Coded {
  std::vector<uint8_t> codes, exponents;
  Coded(size_t count, bool odd) : codes(count), exponents(count / 128 / 128) {
    parallel(64, [&](int p) {
      for (size_t i = count * p / 64; i < count * (p + 1) / 64; ++i)
        codes[i] = to_e4m3(normal(i) * (i % 7 == 0 ? 0.01f : 100.0f)).bits;
    });
    for (size_t i = 0; i < exponents.size(); ++i) exponents[i] = static_cast<uint8_t>(112 + hash(i) % 5);
    if (!odd) return;
    codes[130] = 0x7F, codes[count - 1] = 0xFF;
    for (const auto& [at, power] : {std::pair{1, 0}, {2, 255}, {3, 254}, {4, 3}, {5, 120}})
      exponents[exponents.size() * at / 6] = static_cast<uint8_t>(power);
  }
};

CodedProduct coded_of(const uint16_t* x, const uint8_t* codes, const uint8_t* exponents, uint16_t* y,
                      int tokens, int groups, int rows, int in) {
  CodedProduct product;
  product.x = x;
  product.x_stride = int64_t{groups} * in;
  product.x_group_stride = in;
  product.codes = codes;
  product.codes_stride = in;
  product.exponents = exponents;
  product.exponents_stride = in / 128;
  product.y = y;
  product.y_stride = int64_t{groups} * rows;
  product.y_group_stride = rows;
  product.tokens = tokens;
  product.groups = groups;
  product.in = in;
  product.out = product.rows_per_group = rows;
  return product;
}

void check_codes(int groups, int rows, int in, const Tokens& batches, bool odd) {
  const int most = *std::max_element(batches.begin(), batches.end());
  std::vector<uint16_t> x = random_bf16(size_t(most) * groups * in, 7);
  const Coded weight(size_t(groups) * rows * in, odd);
  if (odd) spoil(x, int64_t{groups} * in, groups * in, most);
  std::vector<uint16_t> expected(size_t(most) * groups * rows);
  run_heads({false, x.data(), nullptr, most, groups, rows, 0, rows, in, weight.codes.data(),
             weight.exponents.data()},
            expected.data());
  Device<uint16_t> x_device(x);
  Device<uint8_t> codes(weight.codes), exponents(weight.exponents);
  for (const int tokens : batches) {
    Device<uint16_t> y(size_t(tokens + kGuard) * groups * rows);
    for (const int processors : {132, 7}) {
      y.poison();
      CodedProduct product =
          coded_of(x_device.data, codes.data, exponents.data, y.data, tokens, groups, rows, in);
      product.processors = processors;
      product.dependent = processors == 7;
      launch(product);
      const std::vector<uint16_t> found = y.download();
      size_t wrong = 0;
      for (size_t i = 0; i < found.size(); ++i)
        wrong += i < size_t(tokens) * groups * rows ? !same(found[i], expected[i]) : found[i] != 0xCDCD;
      claim(wrong == 0, text("codes groups=%d N=%d K=%d M=%d processors=%d odd=%d: %zu differ", groups, rows,
                             in, tokens, processors, odd, wrong));
    }
  }
}

void check_codes_repeated(int tokens, int times) {
  constexpr int kGroups = 8, kRows = 1024, kIn = 4096;
  const Coded weight(size_t{kGroups} * kRows * kIn, false);
  Device<uint8_t> codes(weight.codes), exponents(weight.exponents);
  Device<uint16_t> x(size_t(tokens) * kGroups * kIn), late(x.count), first(size_t(tokens) * kGroups * kRows),
      again(first.count);
  fill(x.data, x.count, 1);
  Device<unsigned> differ(1);
  MUST(cudaMemset(differ.data, 0, 4));
  CodedProduct product =
      coded_of(x.data, codes.data, exponents.data, first.data, tokens, kGroups, kRows, kIn);
  launch(product);
  product.y = again.data;
  for (int i = 0; i < times; ++i) {
    again.poison();
    product.processors = i % 3 == 0 ? 132 : i % 3 == 1 ? 66 : 7;
    product.dependent = i % 2 == 1;
    MUST(cuda::launch_product(product, nullptr));
    count_differences(reinterpret_cast<uint32_t*>(first.data), reinterpret_cast<uint32_t*>(again.data),
                      first.count / 2, differ.data);
  }
  claim(differ.download()[0] == 0, text("codes M=%d: %d launches agree", tokens, times));
  late.poison();
  again.poison();
  MUST(cudaDeviceSynchronize());
  product.x = late.data;
  product.processors = 132;
  product.dependent = true;
  write_late(late.data, x.data, x.count);
  launch(product);
  claim(first.download() == again.download(), text("codes M=%d wait for their predecessor", tokens));
}

void check_repeats(int out, int in, int tokens, int times) {
  Device<uint16_t> x(size_t(tokens) * in), weight(size_t(out) * in);
  fill(x.data, x.count, 1);
  fill(weight.data, weight.count, 2);
  Device<float> first(size_t(tokens) * out), again(first.count);
  Device<unsigned> differ(1);
  MUST(cudaMemset(differ.data, 0, 4));
  Bf16Product product = product_of(x.data, weight.data, first.data, tokens, in, out);
  product.is_f32 = true;
  launch(product);
  product.y = again.data;
  for (int i = 0; i < times; ++i) {
    again.poison();
    product.processors = i % 3 == 0 ? 132 : i % 3 == 1 ? 66 : 7;
    product.dependent = i % 2 == 1;
    MUST(cuda::launch_product(product, nullptr));
    count_differences(reinterpret_cast<uint32_t*>(first.data), reinterpret_cast<uint32_t*>(again.data),
                      first.count, differ.data);
  }
  claim(differ.download()[0] == 0, text("product N=%d K=%d M=%d: %d launches agree", out, in, tokens, times));
}

void check_dependence(int out, int in, int tokens) {
  Device<uint16_t> x(size_t(tokens) * in), late(x.count), weight(size_t(out) * in);
  fill(x.data, x.count, 1);
  fill(weight.data, weight.count, 2);
  late.poison();
  Device<float> expected(size_t(tokens) * out), found(expected.count);
  Bf16Product product = product_of(x.data, weight.data, expected.data, tokens, in, out);
  product.is_f32 = true;
  launch(product);
  product.x = late.data;
  product.y = found.data;
  product.dependent = true;
  write_late(late.data, x.data, x.count);
  launch(product);
  claim(expected.download() == found.download(), text("product M=%d waits for its predecessor", tokens));
}

// --- rows of the catalog ---

Setting setting_of() {
  Target target;
  target.kind = DeviceKind::kCuda;
  target.sm = 90;
  return {target, parse_numerics("serving").resolved(ActivationScale::kPow2, IndexQuant::kFp8)};
}

// A weight of e4m3 with scales of e8m0: in memory of the host, and the device's.
struct Powers {
  int out, in;
  std::vector<uint8_t> codes, scales;
  Powers(int out_, int in_)
      : out(out_), in(in_), codes(size_t(out) * in), scales(size_t((out + 127) / 128) * ((in + 127) / 128)) {
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = to_e4m3(normal(i) * 100.0f).bits;
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<uint8_t>(112 + hash(i) % 5);
  }
  PreparedMatrix matrix(const uint8_t* at_codes, const uint8_t* at_scales) const {
    BlockScaled blocks{
        View<const e4m3, 2>(reinterpret_cast<const e4m3*>(at_codes), {out, in}), {}, {128, 128}};
    blocks.format = ScaleFormat::kE8M0;
    blocks.exponents = {reinterpret_cast<const e8m0*>(at_scales), {(out + 127) / 128, (in + 127) / 128}};
    return {blocks, out, in};
  }
};

void check_linear_rows() {
  constexpr int kOut = 320, kIn = 640, kTokens = 70;
  const Powers powers(kOut, kIn);
  Device<uint8_t> codes(powers.codes), scales(powers.scales);
  const std::vector<uint16_t> x = random_bf16(size_t(kTokens) * kIn, 3);
  const std::vector<uint16_t> weight = random_bf16(size_t(kOut) * kIn, 4);
  Device<uint16_t> x_device(x), weight_device(weight);
  const auto view = [](const uint16_t* data, int rows, int columns) {
    return View<const bf16, 2>(reinterpret_cast<const bf16*>(data), {rows, columns});
  };
  const PreparedMatrix on_host[] = {powers.matrix(powers.codes.data(), powers.scales.data()),
                                    {view(weight.data(), kOut, kIn), kOut, kIn}};
  const PreparedMatrix on_device[] = {powers.matrix(codes.data, scales.data),
                                      {view(weight_device.data, kOut, kIn), kOut, kIn}};
  const linear::Implementation* const rows[] = {&linear::kCudaHopper, &linear::kCudaBf16};
  for (int i = 0; i < 2; ++i) {
    linear::Problem problem{setting_of(), kIn, kOut, format_of(on_host[i])};
    problem.largest_batch = kTokens;
    const Support refusal = rows[i]->supports(problem);
    if (refusal) std::printf("%s: %s\n", rows[i]->name, refusal->reason.c_str());
    claim(!refusal, "a row takes it");
    const linear::Problem stated = rows[i]->states(problem);
    Device<uint8_t> workspace(static_cast<size_t>(rows[i]->workspace_bytes(problem, 1)));
    Device<uint16_t> y(size_t(kTokens) * kOut);
    std::vector<uint16_t> expected(y.count);
    Lane lane;
    lane.workspace = {reinterpret_cast<std::byte*>(workspace.data), workspace.count};
    lane.waits = true;
    linear::kReference.run(stated,
                           {view(x.data(), kTokens, kIn), &on_host[i],
                            View<bf16, 2>(reinterpret_cast<bf16*>(expected.data()), {kTokens, kOut})},
                           {});
    rows[i]->run(stated,
                 {view(x_device.data, kTokens, kIn), &on_device[i],
                  View<bf16, 2>(reinterpret_cast<bf16*>(y.data), {kTokens, kOut})},
                 lane);
    claim(y.download() == expected, std::string("row ") + rows[i]->name);
  }
}

// As stored, in codes, or of bf16.
void check_head_row(int rows, int in, bool codes) {
  constexpr int kGroups = 2, kTokens = 70;
  const std::vector<uint16_t> x = random_bf16(size_t(kTokens) * kGroups * in, 3),
                              weight = random_bf16(size_t(kGroups) * rows * in, 4);
  const Powers powers(kGroups * rows, in);
  Device<uint8_t> codes_device(powers.codes), scales(powers.scales);
  Device<uint16_t> x_device(x), weight_device(weight), y(size_t(kTokens) * kGroups * rows);
  std::vector<uint16_t> expected(y.count);
  head_projection::Problem problem{
      setting_of(), head_projection::Direction::kToRows, kGroups, rows, 0, rows, in};
  problem.weight = {MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kE8M0};
  const auto& row = head_projection::kCudaHopper;
  claim(!row.supports(problem), "head_projection takes groups");
  problem = row.states(problem);
  claim(has_scales(problem.weight) == codes, "the form in which a weight is met");
  const auto run = [&](const auto& implementation, const uint16_t* from, const PreparedMatrix& matrix,
                       uint16_t* to) {
    Lane lane;
    lane.waits = true;
    implementation.run(problem,
                       {View<const bf16, 3>(reinterpret_cast<const bf16*>(from), {kTokens, kGroups, in}),
                        &matrix, View<bf16, 3>(reinterpret_cast<bf16*>(to), {kTokens, kGroups, rows})},
                       lane);
  };
  const auto plain = [&](const uint16_t* data) {
    return PreparedMatrix{View<const bf16, 2>(reinterpret_cast<const bf16*>(data), {kGroups * rows, in}),
                          kGroups * rows, in};
  };
  run(head_projection::kReference, x.data(),
      codes ? powers.matrix(powers.codes.data(), powers.scales.data()) : plain(weight.data()),
      expected.data());
  run(row, x_device.data, codes ? powers.matrix(codes_device.data, scales.data) : plain(weight_device.data),
      y.data);
  claim(y.download() == expected, text("row head_projection, groups of %d rows", rows));
}

// --- times ---

constexpr double kBytesPerUs = 3.112e6, kFlopsPerUs = 989e6, kFp8FlopsPerUs = 1979e6;
constexpr size_t kRotatedBytes = size_t{300} << 20;

void report(const char* what, int out, int in, int tokens, const Time& time, const Time& chained,
            double bytes, double flops, double rate) {
  const double floor = std::max(bytes / kBytesPerUs, flops / rate);
  std::printf("%-7s %6d %5d M=%-4d %8.2f (%+.2f, %+.2f)  dep. %8.2f  floor %8.2f  %4.2f TB/s %5.0f TFLOP/s\n",
              what, out, in, tokens, time.median, time.low - time.median, time.high - time.median,
              chained.median, floor, bytes / time.median * 1e-6, flops / time.median * 1e-6);
  std::fflush(stdout);
}

template <class Run>
void time_both(const char* what, int groups, int out, int in, int tokens, size_t sets, double bytes,
               double rate, const Run& run) {
  const int calls = static_cast<int>(std::max<size_t>(sets, tokens >= 1024 ? 4 : out > 100000 ? 6 : 48));
  const Time alone = time_graph(calls, [&](int i, cudaStream_t stream) { run(i, stream, false); });
  const Time chained = time_graph(calls, [&](int i, cudaStream_t stream) { run(i, stream, true); });
  report(what, groups * out, in, tokens, alone, chained, bytes, 2.0 * tokens * groups * out * in, rate);
}

void time_product(const char* what, int groups, int out, int in, int tokens, bool is_f32) {
  const size_t elements = size_t(groups) * out * in;
  const size_t sets = std::clamp<size_t>(kRotatedBytes / (2 * elements), 2, 64);
  static Device<uint16_t> weights(size_t{2} * 129280 * 7168);
  static bool filled = false;
  if (!filled) fill(weights.data, weights.count, 3), filled = true;
  Device<uint16_t> x(size_t(tokens) * groups * in);
  fill(x.data, x.count, 4);
  Device<uint8_t> y(size_t(tokens) * groups * out * (is_f32 ? 4 : 2));
  const double bytes = 2.0 * elements + 2.0 * x.count + double(y.count);
  time_both(what, groups, out, in, tokens, sets, bytes, kFlopsPerUs,
            [&](int i, cudaStream_t stream, bool dependent) {
              Bf16Product product =
                  product_of(x.data, weights.data + elements * (i % sets), y.data, tokens, in, out);
              product.is_f32 = is_f32;
              product.dependent = dependent;
              if (groups > 1) {
                product.groups = groups;
                product.parts = 1;
                product.x_stride = int64_t{groups} * in;
                product.x_group_stride = in;
                product.weight_group_stride = int64_t{out} * in;
                product.y_stride = int64_t{groups} * out;
                product.y_group_stride = out;
              }
              MUST(cuda::launch_product(product, stream));
            });
}

void time_codes(int groups, int tokens) {
  constexpr int kRows = 1024, kIn = 4096;
  const size_t elements = size_t(groups) * kRows * kIn, sets = std::max<size_t>(kRotatedBytes / elements, 2);
  static Device<uint8_t> codes(kRotatedBytes + (size_t{64} << 20)), exponents(size_t{1} << 16);
  MUST(cudaMemset(codes.data, 0x35, codes.count));
  MUST(cudaMemset(exponents.data, 118, exponents.count));
  Device<uint16_t> x(size_t(tokens) * groups * kIn), y(size_t(tokens) * groups * kRows);
  fill(x.data, x.count, 4);
  time_both("codes", groups, kRows, kIn, tokens, sets, double(elements) + 2.0 * x.count + 2.0 * y.count,
            kFlopsPerUs, [&](int i, cudaStream_t stream, bool dependent) {
              CodedProduct product = coded_of(x.data, codes.data + elements * (i % sets), exponents.data,
                                              y.data, tokens, groups, kRows, kIn);
              product.dependent = dependent;
              MUST(cuda::launch_product(product, stream));
            });
}

// From bf16 activations on: quantization and product.
void time_fp8(int out, int in, int tokens) {
  const size_t elements = size_t(out) * in;
  const size_t sets = std::clamp<size_t>(kRotatedBytes / elements, 2, 64);
  Device<uint8_t> weights(elements * sets), workspace(linear::hopper::workspace_bytes(tokens, in)),
      exponents(size_t{1} << 16);
  MUST(cudaMemset(weights.data, 0x35, weights.count));
  MUST(cudaMemset(exponents.data, 118, exponents.count));
  Device<uint16_t> x(size_t(tokens) * in), y(size_t(tokens) * out);
  fill(x.data, x.count, 4);
  const double bytes = double(elements) + 2.0 * x.count + 2.0 * y.count;
  time_both("e8m0", 1, out, in, tokens, sets, bytes, kFp8FlopsPerUs,
            [&](int i, cudaStream_t stream, bool dependent) {
              auto params = linear_params(x.data, weights.data + elements * (i % sets), nullptr, y.data,
                                          workspace.data, tokens, in, out);
              params.exponents = exponents.data;
              params.dependent = dependent;
              linear::hopper::launch(params, stream);
            });
}

}  // namespace

void check_products() {
  for (const bool odd : {false, true}) {
    check_product(64, 4096, kAll, odd);   // 8 parts
    check_product(72, 136, kAll, odd);    // K of no whole box, N one over a tile
    check_product(264, 1032, kAll, odd);  // tiles, the last part short
    check_product(1544, 712, kAll, odd);  // 4 parts
    check_product(320, 1536, kAll, odd);  // 8, in tiles too
    check_product(3080, 448, kAll, odd);  // 2
    check_product(6280, 264, kAll, odd);  // 1
  }
  report_checks("products");
  for (const bool odd : {false, true}) check_groups(3, 136, 200, kAll, odd);
  check_groups(8, 1024, 4096, {1, 17, 65}, false);
  check_groups(16, 512, 1024, {2, 64, 300}, true);
  report_checks("groups");
  for (const bool odd : {false, true}) check_codes(3, 384, 640, kAll, odd);
  for (const bool odd : {false, true}) check_codes(8, 1024, 4096, {1, 17, 65, 129}, odd);
  check_codes(16, 1024, 4096, {2}, true);
  check_codes(1, 512, 8448, {1, 128, 300}, false);  // 66 scales a row
  for (const int tokens : {1, 16, 64, 100, 300}) check_codes_repeated(tokens, 200);
  report_checks("groups of codes");
  check_large(129280, 4096, {1, 16, 17, 64, 65}, 192);
  check_large(129280, 7168, {1, 8, 64, 130}, 192);
  report_checks("heads of a model");
  for (const int tokens : {1, 16, 64, 300}) check_repeats(64, 4096, tokens, 300);
  for (const int tokens : {1, 40, 300}) check_repeats(3080, 448, tokens, 300);
  for (const int tokens : {1, 64, 300}) check_repeats(8192, 512, tokens, 200);
  for (const int tokens : {1, 60, 200})
    check_dependence(64, 4096, tokens), check_dependence(8192, 512, tokens);
  report_checks("products, repeated");
}

void run_small_products() {
  for (const auto& [out, in] : {std::pair{72, 136}, {264, 1032}, {320, 1536}, {3080, 448}})
    check_product(out, in, {1, 17, 65, 129}, false);
  check_groups(3, 136, 200, {1, 40, 129}, false);
  check_codes(3, 384, 640, {1, 17, 64, 100, 300}, false);
}

void check_rows() {
  check_linear_rows();
  check_head_row(64, 320, false);
  check_head_row(384, 256, true);
  report_checks("rows");
}

void time_v4(bool many) {
  const std::pair<int, int> linears[] = {{1024, 4096}, {32768, 1024}, {512, 4096},   {8192, 1024},
                                         {4096, 8192}, {1536, 7168},  {65536, 1536}, {512, 7168},
                                         {8192, 1536}, {7168, 16384}};
  const Tokens few = {1, 8, 16, 32, 64}, more = {128, 256, 1024, 4096};
  for (const int groups : {8, 16})
    for (const int tokens : many ? more : few) time_codes(groups, tokens);
  for (const int groups : {8, 16})
    for (const int tokens : many ? more : few) time_product("o_a", groups, 1024, 4096, tokens, false);
  for (const int tokens : many ? more : few) time_product("gate", 1, 64, 4096, tokens, true);
  for (const int tokens : many ? more : few) time_product("gate", 1, 64, 7168, tokens, true);
  for (const int tokens : many ? more : few) time_product("head", 1, 129280, 4096, tokens, true);
  for (const int tokens : many ? more : few) time_product("head", 1, 129280, 7168, tokens, true);
  for (const int tokens : many ? more : few) time_product("bf16", 1, 7168, 7168, tokens, false);
  for (const auto& [out, in] : linears)
    for (const int tokens : many ? more : few) time_fp8(out, in, tokens);
}

}  // namespace fulgurite::probe
