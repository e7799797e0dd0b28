// largest_logits on Hopper, timed: a greedy choice and the largest of DeepSeek-V3.2's vocabulary; and the product of cuBLASLt
// beside ours: bits, whether it repeats itself, times.

#include <chrono>

#include "bench/cuda/probe_kit.h"
#include "fulgurite/cuda/cublaslt.h"
#include "fulgurite/ops/largest_logits/largest_logits.h"
#include "fulgurite/ops/linear/linear_cuda_hopper_kernels.h"

namespace fulgurite::probe {
namespace {

namespace fp8 = linear::hopper;

void time_choices() {
  constexpr int64_t kVocabulary = 129280;
  for (const int64_t rows : {1, 8, 64})
    for (const int64_t count : {1, 1024}) {
      Device<float> logits(size_t(rows * kVocabulary)), values(size_t(rows * count));
      Device<int32_t> ids(size_t(rows * count)), numbers(static_cast<size_t>(rows));
      Device<double> temperatures(std::vector<double>(size_t(rows), count == 1 ? 0.0 : 0.7)),
          totals(static_cast<size_t>(rows));
      fill(logits.data, logits.count, 3);
      largest_logits::Problem problem{
          {{DeviceKind::kCuda, Isa::kPortable, 90}, {}}, kVocabulary, count, rows};
      const largest_logits::Args args{
          {logits.data, {rows, kVocabulary}}, {temperatures.data, {rows}}, {ids.data, {rows, count}},
          {values.data, {rows, count}},       {totals.data, {rows}},       {numbers.data, {rows}}};
      Device<std::byte> workspace(size_t(largest_logits::kCuda.workspace_bytes(problem, 1)));
      for (const auto* row : {&largest_logits::kCudaHopper, &largest_logits::kCuda}) {
        if (row == &largest_logits::kCuda && rows > 1) continue;
        const Time time = time_graph(20, [&](int, cudaStream_t stream) {
          row->run(problem, args, {1, nullptr, {workspace.data, workspace.count}, stream, false});
        });
        std::printf("largest_logits %s: %d of %d, %d rows: %.2f us (%.2f, %.2f)\n", row->name, int(count),
                    int(kVocabulary), int(rows), time.median, time.low, time.high);
      }
    }
}

__global__ void fill_weights(uint32_t* data, size_t count) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x)
    data[i] = (hash(i) & 0x9F9F9F9Fu) + 0x28282828u;
}

struct Shape {
  int in, out;
};

// What both sides multiply.
struct Operands {
  Shape shape;
  int tokens, padded, sets;
  Device<uint16_t> x, ours, theirs;
  Device<uint8_t> weight;
  Device<float> scale, x_scale;
  Device<uint8_t> workspace, library;
  Operands(Shape s, int m)
      : shape(s),
        tokens(m),
        padded((m + 3) / 4 * 4),
        sets(std::clamp(int((size_t{300} << 20) / (size_t(s.in) * s.out)), 2, 64)),
        x(size_t(padded) * s.in),
        ours(size_t(padded) * s.out),
        theirs(size_t(padded) * s.out),
        weight(size_t(s.in) * s.out * sets),
        scale(size_t((s.out + 127) / 128) * ((s.in + 127) / 128)),
        x_scale(size_t(padded) * ((s.in + 127) / 128)),
        workspace(size_t(fp8::workspace_bytes(padded, s.in))),
        library(size_t(cuda::kCublasltWorkspace)) {
    fill(x.data, x.count, 7);
    fill_weights<<<2048, 256>>>(reinterpret_cast<uint32_t*>(weight.data), weight.count / 4);
    std::vector<float> scales(scale.count);
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = 0.01f + 0.001f * float(hash(i) % 97);
    scale.upload(scales);
  }
  fp8::Params params(int set) {
    fp8::Params params;
    params.x = x.data;
    params.x_stride = params.weight_stride = shape.in;
    params.weight = weight.data + size_t(set) * shape.in * shape.out;
    params.scale = scale.data;
    params.scale_stride = (shape.in + 127) / 128;
    params.y = ours.data;
    params.y_stride = shape.out;
    params.workspace = workspace.data;
    params.tokens = padded;
    params.in = shape.in;
    params.out = shape.out;
    return params;
  }
  cuda::Fp8Shape of(int m) const { return {shape.in, shape.out, m}; }
  cuda::Fp8Product product(int set) {
    return {fp8::coded(params(0)).codes,
            weight.data + size_t(set) * shape.in * shape.out,
            x_scale.data,
            scale.data,
            theirs.data,
            shape.in,
            shape.out,
            library.data};
  }
  void quantize(cudaStream_t stream) {
    const fp8::Params p = params(0);
    fp8::launch_quantization(p, stream);
    const fp8::Coded c = fp8::coded(p);
    MUST(cudaMemcpy2DAsync(x_scale.data, size_t(padded) * 4, c.scales, size_t(c.scale_stride) * 4,
                           size_t(padded) * 4, size_t(shape.in / 128), cudaMemcpyDeviceToDevice, stream));
  }
};

double value_of(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

void compare(Shape shape, int tokens) {
  Operands o(shape, tokens);
  if (!cuda::choose_cublaslt(o.of(o.padded))) {
    std::printf("cuBLASLt: no algorithm for %d of %d x %d\n", o.padded, shape.out, shape.in);
    return;
  }
  o.quantize(nullptr);
  fp8::launch_product(o.params(0), nullptr, false);
  const auto run = [&](int set, cudaStream_t stream) {
    cuda::run_cublaslt(o.of(o.padded), o.of(o.padded), o.product(set), stream);
  };
  run(0, nullptr);
  MUST(cudaDeviceSynchronize());
  const std::vector<uint16_t> ours = o.ours.download(), theirs = o.theirs.download();
  size_t differ = 0;
  double most = 0.0, off = 0.0, norm = 0.0;
  for (size_t i = 0; i < ours.size(); ++i) {
    const double a = value_of(ours[i]), b = value_of(theirs[i]);
    differ += ours[i] != theirs[i];
    off += (a - b) * (a - b);
    norm += a * a;
    most = std::max(most, std::abs(a - b));
  }
  size_t changed = 0;
  for (int again = 0; again < 200; ++again) {
    run(0, nullptr);
    if (again % 20 != 19) continue;
    const std::vector<uint16_t> now = o.theirs.download();
    for (size_t i = 0; i < now.size(); ++i) changed += now[i] != theirs[i];
  }
  const int calls = std::max(o.sets, tokens >= 1024 ? 8 : 48);
  const Time library = time_graph(calls, [&](int i, cudaStream_t stream) { run(i % o.sets, stream); });
  const Time product = time_graph(
      calls, [&](int i, cudaStream_t stream) { fp8::launch_product(o.params(i % o.sets), stream, false); });
  std::printf(
      "fp8 %d x %d, M = %d: cuBLASLt %.2f us (%.2f, %.2f), ours %.2f (%.2f, %.2f); %zu of %zu differ from "
      "ours, "
      "relative L2 %.2e, most %.2e; %zu changed in 200 runs\n",
      shape.out, shape.in, tokens, library.median, library.low, library.high, product.median, product.low,
      product.high, differ, ours.size(), std::sqrt(off / norm), most, changed);
  std::fflush(stdout);
}

// One token at a time, with the algorithm of many: are its bits the same?
void compare_counts(Shape shape) {
  Operands o(shape, 64);
  if (!cuda::choose_cublaslt(o.of(64))) return;
  o.quantize(nullptr);
  cuda::run_cublaslt(o.of(64), o.of(64), o.product(0), nullptr);
  MUST(cudaDeviceSynchronize());
  const std::vector<uint16_t> all = o.theirs.download();
  std::vector<float> some;
  const std::vector<float> scales = o.x_scale.download();
  for (int b = 0; b < shape.in / 128; ++b)
    for (int t = 0; t < 4; ++t) some.push_back(scales[size_t(b) * 64 + t]);
  Device<float> four(some);
  o.theirs.poison();
  cuda::Fp8Product product = o.product(0);
  product.x_scale = four.data;
  try {
    cuda::run_cublaslt(o.of(64), o.of(4), product, nullptr);
    MUST(cudaDeviceSynchronize());
    const std::vector<uint16_t> part = o.theirs.download();
    size_t differ = 0;
    for (size_t i = 0; i < size_t(4) * shape.out; ++i) differ += part[i] != all[i];
    std::printf("fp8 %d x %d: 4 tokens with the algorithm of 64: %zu differ\n", shape.out, shape.in, differ);
  } catch (const std::exception& error) {
    std::printf("fp8 %d x %d: 4 tokens with the algorithm of 64: %s\n", shape.out, shape.in, error.what());
  }
}

}  // namespace

void run_choice_probe() {
  time_choices();
  const auto start = std::chrono::steady_clock::now();
  std::printf("cuBLASLt %d, found in %.1f ms\n", cuda::cublaslt_version(),
              std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  std::fflush(stdout);
  if (cuda::cublaslt_version() == 0) return;
  for (const Shape shape :
       {Shape{512, 256}, Shape{256, 256}, Shape{16384, 7168}, Shape{1536, 24576}, Shape{7168, 2112}})
    for (const int tokens : {1, 64, 100, 4096})
      if (shape.in > 512 ? tokens != 100 : tokens < 4096) try {
          compare(shape, tokens);
        } catch (const std::exception& error) {
          std::printf("fp8 %d x %d, M = %d: %s\n", shape.out, shape.in, tokens, error.what());
        }
  compare_counts({16384, 7168});
  compare_counts({1536, 24576});
}

}  // namespace fulgurite::probe

int main() { fulgurite::probe::run_choice_probe(); }
