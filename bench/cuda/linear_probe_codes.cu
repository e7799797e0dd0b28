// Products of codes (cuda/coded_product.h), and the rows of the catalog for DeepSeek-V4, against their references.

#include "bench/cuda/indexer_probe_late.h"
#include "bench/cuda/linear_probe.h"
#include "fulgurite/ops/linear/linear.h"

namespace fulgurite::probe {
namespace {

using cuda::CodedProduct;

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

void check_group_codes(int groups, int rows, int in, const Tokens& batches, bool odd) {
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

}  // namespace

void check_codes() {
  for (const bool odd : {false, true}) check_group_codes(3, 384, 640, kAll, odd);
  for (const bool odd : {false, true}) check_group_codes(8, 1024, 4096, {1, 17, 65, 129}, odd);
  check_group_codes(16, 1024, 4096, {2}, true);
  check_group_codes(1, 512, 8448, {1, 128, 300}, false);  // 66 scales a row
  for (const int tokens : {1, 16, 64, 100, 300}) check_codes_repeated(tokens, 200);
  report_checks("groups of codes");
}

void run_small_codes() { check_group_codes(3, 384, 640, {1, 17, 64, 100, 300}, false); }

void check_rows() {
  check_linear_rows();
  check_head_row(64, 320, false);
  check_head_row(384, 256, true);
  report_checks("rows");
}

}  // namespace fulgurite::probe
