// Products of bf16 (cuda/bf16_product.h) against their references.

#include "bench/cuda/indexer_probe_late.h"
#include "bench/cuda/linear_probe.h"
#include "fulgurite/ops/linear/linear_cuda_bf16_order.h"

namespace fulgurite::probe {
namespace {

using cuda::Bf16Product;

uint16_t bf16_of(float value) { return to_bf16(value).bits; }

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
      Bf16Product product =
          groups_of(product_of(x_device.data, weight_device.data, y.data, tokens, in, rows), groups);
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
  check_large(129280, 4096, {1, 16, 17, 64, 65}, 192);
  check_large(129280, 7168, {1, 8, 64, 130}, 192);
  report_checks("heads of a model");
  for (const int tokens : {1, 16, 64, 300}) check_repeats(64, 4096, tokens, 1002);
  for (const int tokens : {1, 40, 300}) check_repeats(3080, 448, tokens, 1002);
  for (const int tokens : {1, 64, 300}) check_repeats(8192, 512, tokens, 1002);
  for (const int tokens : {1, 60, 200})
    check_dependence(64, 4096, tokens), check_dependence(8192, 512, tokens);
  report_checks("products, repeated");
}

void run_small_products() {
  for (const auto& [out, in] : {std::pair{72, 136}, {264, 1032}, {320, 1536}, {3080, 448}})
    check_product(out, in, {1, 17, 65, 129}, false);
  check_groups(3, 136, 200, {1, 40, 129}, false);
}

}  // namespace fulgurite::probe
