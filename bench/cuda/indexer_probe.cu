// Holds the indexer's kernels against the library's references, bit for bit, and times them.
//   probe check [fast] | probe time [processors] | probe small (for memory checkers)
// Times are of CUDA graphs of many calls whose operands are others each time (more than 200 MB of them), so weights
// come from memory; a time includes one edge between kernels.

#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "bench/cuda/indexer_probe_reference.h"
#include "fulgurite/cuda/dependent_launch.h"
#include "fulgurite/cuda/number.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare_cuda.h"
#include "fulgurite/ops/indexer_projection/indexer_projection_cuda.h"

namespace {

namespace probe = fulgurite::probe;
namespace projection = fulgurite::indexer_projection::cuda;
namespace preparation = fulgurite::indexer_prepare::cuda;

void must(cudaError_t error, int line) {
  if (error == cudaSuccess) return;
  std::printf("FATAL line %d: %s\n", line, cudaGetErrorString(error));
  std::exit(2);
}
#define MUST(call) must(call, __LINE__)

int failures = 0, checks = 0;
void claim(bool holds, const std::string& what) {
  ++checks;
  if (holds) return;
  if (++failures <= 40) std::printf("FAIL %s\n", what.c_str());
}

template <class... Values>
std::string text(const char* format, Values... values) {
  char line[300];
  std::snprintf(line, sizeof line, format, values...);
  return line;
}

// --- memory ---

template <class T>
struct Device {
  T* data = nullptr;
  size_t count = 0;
  explicit Device(size_t n) : count(n) { MUST(cudaMalloc(&data, std::max<size_t>(n, 1) * sizeof(T))); }
  explicit Device(const std::vector<T>& host) : Device(host.size()) { upload(host); }
  Device(const Device&) = delete;
  ~Device() { cudaFree(data); }
  void upload(const std::vector<T>& host) {
    MUST(cudaMemcpy(data, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> download() const {
    std::vector<T> host(count);
    MUST(cudaMemcpy(host.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }
  void poison() { MUST(cudaMemset(data, 0xCD, count * sizeof(T))); }
};

// --- random values ---

__host__ __device__ uint32_t hash(uint64_t i) {
  i = (i + 0x9E3779B97F4A7C15ull) * 0xBF58476D1CE4E5B9ull;
  i = (i ^ i >> 27) * 0x94D049BB133111EBull;
  return static_cast<uint32_t>(i ^ i >> 31);
}
__host__ __device__ float normal(uint64_t i) {  // a sum of four uniforms is close enough
  float sum = 0.0f;
  for (int k = 0; k < 4; ++k) sum += static_cast<float>(hash(4 * i + k) >> 8) * 0x1p-24f - 0.5f;
  return sum * 1.7320508f;
}
__host__ __device__ uint16_t normal_bf16(uint64_t i) {
  const float value = normal(i);
#ifdef __CUDA_ARCH__
  return static_cast<uint16_t>(__float_as_uint(value) >> 16);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>(bits >> 16);
#endif
}
__global__ void fill_bf16(uint16_t* data, size_t count, uint64_t seed) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x)
    data[i] = normal_bf16(seed * 0x100000000ull + i);
}
__global__ void fill_floats(float* data, size_t count, uint64_t seed) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x)
    data[i] = normal(seed * 0x100000000ull + i);
}
std::vector<uint16_t> random_bf16(size_t count, uint64_t seed) {
  std::vector<uint16_t> values(count);
  const int pieces = 64;
  probe::parallel(pieces, [&](int p) {
    for (size_t i = count * p / pieces; i < count * (p + 1) / pieces; ++i)
      values[i] = normal_bf16(seed * 0x100000000ull + i);
  });
  return values;
}
std::vector<float> random_floats(size_t count, uint64_t seed) {
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = normal(seed * 0x100000000ull + i);
  return values;
}

bool same(float a, float b) { return std::memcmp(&a, &b, 4) == 0 || (std::isnan(a) && std::isnan(b)); }
bool nan_bf16(uint16_t a) { return (a & 0x7FFF) > 0x7F80; }
bool same(uint16_t a, uint16_t b) { return a == b || (nan_bf16(a) && nan_bf16(b)); }

__global__ void count_differences(const uint32_t* a, const uint32_t* b, size_t count, unsigned* differ) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x)
    if (a[i] != b[i]) atomicAdd(differ, 1u);
}

// --- number formats ---

__global__ void convert(uint64_t first, size_t count, uint8_t* e4m3, uint16_t* bf16) {
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x) {
    const float value =
        __uint_as_float(static_cast<uint32_t>((first + i) * 16 + (hash(first + i) & (i & 1 ? 15 : 0))));
    e4m3[i] = fulgurite::cuda::e4m3_bits(value);
    bf16[i] = fulgurite::cuda::bf16_bits(value);
  }
}
__global__ void widen(float* e4m3, float* e8m0) {
  e4m3[threadIdx.x] = fulgurite::cuda::e4m3_to_float(static_cast<uint8_t>(threadIdx.x));
  e8m0[threadIdx.x] = fulgurite::cuda::e8m0_to_float(static_cast<uint8_t>(threadIdx.x));
}
void check_numbers() {
  const size_t count = size_t{1} << 28;
  Device<uint8_t> codes(count);
  Device<uint16_t> halves(count);
  convert<<<2048, 256>>>(0, count, codes.data, halves.data);
  MUST(cudaDeviceSynchronize());
  const std::vector<uint8_t> e4m3 = codes.download();
  const std::vector<uint16_t> bf16 = halves.download();
  const int pieces = 256;
  std::vector<size_t> wrong(pieces);
  probe::parallel(pieces, [&](int p) {
    for (size_t i = count / pieces * p; i < count / pieces * (p + 1); ++i) {
      const uint32_t bits = static_cast<uint32_t>(i * 16 + (hash(i) & (i & 1 ? 15 : 0)));
      float value;
      std::memcpy(&value, &bits, 4);
      wrong[p] += probe::e4m3_code(value) != e4m3[i] || probe::bf16_code(value) != bf16[i];
    }
  });
  size_t all = 0;
  for (const size_t n : wrong) all += n;
  claim(all == 0, text("numbers: %zu of 2^28 conversions differ", all));
  Device<float> e4m3_values(256), e8m0_values(256);
  widen<<<1, 256>>>(e4m3_values.data, e8m0_values.data);
  const auto a = e4m3_values.download(), b = e8m0_values.download();
  for (int i = 0; i < 256; ++i) {
    const float x = probe::e4m3_value(static_cast<uint8_t>(i)),
                y = probe::e8m0_value(static_cast<uint8_t>(i));
    claim(std::memcmp(&a[i], &x, 4) == 0 && same(b[i], y), text("numbers: code %d", i));
  }
}

// --- projection ---

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
  const probe::Projection problem{
      x.data(),  keys ? weights.wk.data() : nullptr, weights.w.data(), stride, most, hidden, heads,
      round_gate};
  probe::project(problem, projection::kParts, k.data(), gate.data());
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

// At the real size: prefixes of one batch, an order that is not the kernel's, the distance from the exact sum.
void check_projection_at_size(bool keys, int most, const std::vector<int>& batches) {
  const int hidden = 7168, heads = 64;
  const Weights weights(hidden, heads, keys, 3);
  const std::vector<uint16_t> x = random_bf16(size_t(most) * hidden, 9);
  std::vector<uint16_t> k(size_t(most) * 128);
  std::vector<float> gate(size_t(most) * heads);
  probe::Projection problem{
      x.data(), keys ? weights.wk.data() : nullptr, weights.w.data(), hidden, most, hidden, heads};
  const auto begin = std::chrono::steady_clock::now();
  probe::project(problem, projection::kParts, k.data(), gate.data());
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
  probe::project(problem, 8, k.data(), other.data());
  size_t differ = 0;
  double error = 0.0, norm = 0.0;
  for (int t = 0; t < problem.tokens; ++t) {
    for (int h = 0; h < heads; ++h) {
      double sum;
      probe::project_exactly(problem, t, h, sum);
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
  fill_bf16<<<1024, 256>>>(x.data, x.count, 77);
  std::vector<uint16_t> rows(size_t(last) * hidden);
  MUST(cudaMemcpy(rows.data(), x.data + size_t(tokens - last) * hidden, rows.size() * 2,
                  cudaMemcpyDeviceToHost));
  std::vector<uint16_t> k(size_t(last) * 128);
  std::vector<float> gate(size_t(last) * heads);
  probe::project(
      {rows.data(), keys ? weights.wk.data() : nullptr, weights.w.data(), hidden, last, hidden, heads},
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
  fill_bf16<<<1024, 256>>>(x.data, x.count, 78);
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
    count_differences<<<64, 256>>>(reinterpret_cast<uint32_t*>(first.k.data),
                                   reinterpret_cast<uint32_t*>(again.k.data), first.k.count / 2, differ.data);
    count_differences<<<64, 256>>>(reinterpret_cast<uint32_t*>(first.gate.data),
                                   reinterpret_cast<uint32_t*>(again.gate.data), first.gate.count,
                                   differ.data);
  }
  claim(differ.download()[0] == 0, text("projection keys=%d M=%d: %d launches agree", keys, tokens, times));
}

// --- preparation ---

struct PrepareInputs {
  probe::Preparation host;
  Device<uint16_t> q, k;
  Device<float> gate, k_weight, k_bias, cosine, sine;
  Device<int32_t> places, table;
  std::vector<int32_t> pages;
  int pages_of_one;
  explicit PrepareInputs(const probe::Preparation& p)
      : host(p),
        q(p.q),
        k(p.k),
        gate(p.gate),
        k_weight(p.k_weight),
        k_bias(p.k_bias),
        cosine(p.cosine),
        sine(p.sine),
        places(p.places),
        table(size_t(p.sequences) * ((p.context + 63) / 64)),
        pages(table.count),
        pages_of_one((p.context + 63) / 64) {
    for (size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<int32_t>(i);
    for (size_t i = pages.size(); i > 1; --i) std::swap(pages[i - 1], pages[hash(i) % i]);
    table.upload(pages);
  }
};

struct PrepareOutputs {
  Device<uint8_t> q_codes, cache;
  Device<float> weights;
  explicit PrepareOutputs(const PrepareInputs& in)
      : q_codes(in.host.q.size() + 64),
        cache(in.pages.size() * preparation::kPageBytes),
        weights(in.host.gate.size() + 8) {
    q_codes.poison();
    cache.poison();
    weights.poison();
  }
};

preparation::Params params_of(const PrepareInputs& in, const PrepareOutputs& out) {
  const probe::Preparation& p = in.host;
  preparation::Params params;
  params.q = in.q.data;
  params.q_head_stride = params.code_head_stride = 128;
  params.q_token_stride = params.code_token_stride = p.heads * 128;
  params.q_codes = out.q_codes.data;
  params.gate = in.gate.data;
  params.gate_stride = params.weights_stride = p.heads;
  params.weights = out.weights.data;
  params.k = in.k.data;
  params.k_stride = 128;
  params.k_weight = in.k_weight.data;
  params.k_bias = in.k_bias.data;
  params.key_pages = out.cache.data;
  params.block_table = in.table.data;
  params.block_table_stride = in.pages_of_one;
  params.places = reinterpret_cast<const int2*>(in.places.data);
  params.cosine = in.cosine.data;
  params.sine = in.sine.data;
  params.tokens = p.tokens;
  params.heads = p.heads;
  params.interleaved = p.interleaved;
  params.rotates_last = p.rotates_last;
  const auto knob = [&](const char* value) { return p.numerics.find(value) != std::string::npos; };
  params.hadamard_q = !knob("hadamard=none");
  params.hadamard_k = !knob("hadamard=none") && !knob("hadamard=q");
  params.pow2 = !knob("index_scale=fp32");
  params.round_norm = knob("index_norm=bf16");
  params.two_step_rsqrt = knob("rsqrt=two_step");
  return params;
}

size_t differences(const PrepareInputs& in, const PrepareOutputs& out, const probe::Prepared& expected) {
  const probe::Preparation& p = in.host;
  size_t wrong = 0;
  std::vector<uint8_t> codes = out.q_codes.download(), cache = out.cache.download();
  const std::vector<float> weights = out.weights.download();
  for (size_t i = 0; i < codes.size(); ++i)
    wrong += codes[i] != (i < expected.q_codes.size() ? expected.q_codes[i] : 0xCD);
  uint32_t poison = 0xCDCDCDCD;
  for (size_t i = 0; i < weights.size(); ++i)
    wrong += i < expected.weights.size() ? !same(weights[i], expected.weights[i])
                                         : std::memcmp(&weights[i], &poison, 4) != 0;
  for (int t = 0; t < p.tokens;
       ++t) {  // found rows become poison again: then nothing else may differ from it
    const int position = p.places[2 * t + 1];
    const size_t page = in.pages[size_t(p.places[2 * t]) * in.pages_of_one + position / 64];
    uint8_t* const row = &cache[page * preparation::kPageBytes + position % 64 * 128];
    uint8_t* const scale = &cache[page * preparation::kPageBytes + 8192 + position % 64 * 4];
    for (int i = 0; i < 128; ++i) wrong += row[i] != expected.k_codes[size_t(t) * 128 + i];
    wrong += std::memcmp(scale, &expected.k_scales[t], 4) != 0;
    std::memset(row, 0xCD, 128);
    std::memset(scale, 0xCD, 4);
  }
  for (const uint8_t byte : cache) wrong += byte != 0xCD;
  return wrong;
}

probe::Preparation make_preparation(int tokens, int heads, int sequences, int context, uint64_t seed) {
  probe::Preparation p;
  p.q = random_bf16(size_t(tokens) * heads * 128, seed);
  p.k = random_bf16(size_t(tokens) * 128, seed + 1);
  p.gate = random_floats(size_t(tokens) * heads, seed + 2);
  p.k_weight = random_floats(128, seed + 3);
  p.k_bias = random_floats(128, seed + 4);
  p.cosine = random_floats(size_t(context) * 32, seed + 5);
  p.sine = random_floats(size_t(context) * 32, seed + 6);
  p.tokens = tokens;
  p.heads = heads;
  p.sequences = sequences;
  p.context = context;
  std::vector<int> order(size_t(sequences) * context);
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[hash(seed + 7 * i) % i]);
  for (int t = 0; t < tokens; ++t) {
    p.places.push_back(order[t] / context);
    p.places.push_back(order[t] % context);
  }
  return p;
}

// Rows whose sums need care: wide ranges, a tie of the mean square, denormals, NaN, infinity, zeros, large values.
void spoil(probe::Preparation& p) {
  for (int t = 0; t < p.tokens; ++t) {
    uint16_t* const k = &p.k[size_t(t) * 128];
    uint16_t* const q = &p.q[size_t(t) * p.heads * 128];
    for (int i = 0; i < 128; ++i) {
      const uint32_t r = hash(uint64_t(t) * 128 + i);
      switch (t % 12) {
        case 1:
          k[i] = static_cast<uint16_t>(r & 0xBFFF);
          break;  // exponents up to 1
        case 2:
          k[i] = static_cast<uint16_t>((r & 0x807F) | (0x20 + r % 0x90) << 7);
          break;  // 2^144 apart
        case 3:
          k[i] = i == 0 ? 0x4580 : i == 77 ? 0xC580 : i == 30 ? 0x3F80 : i == 31 ? 0xBF80 : 0;
          break;  // tie
        case 4:
          k[i] = static_cast<uint16_t>(r & 0x807F);
          break;  // denormals
        case 5:
          if (i == t % 128) k[i] = 0x7FC0, q[i] = 0xFFC0;
          break;
        case 6:
          if (i == t % 128) k[i] = 0x7F80, q[i] = 0xFF80;
          break;
        case 7:
          k[i] = static_cast<uint16_t>(i % 2 << 15), q[i] = k[i];
          break;
        case 8:
          k[i] |= 0x7000, q[i] |= 0x7000;
          break;
        case 9:
          q[i] = static_cast<uint16_t>(r & 0x807F);
          break;
        case 10:
          k[i] = 0x3F80, q[i] = static_cast<uint16_t>(r & 0xFFFF);
          break;
        default:
          break;
      }
    }
    if (t % 12 == 11) p.gate[size_t(t) * p.heads] = std::numeric_limits<float>::quiet_NaN();
  }
}

void check_preparation(probe::Preparation p, bool odd) {
  if (odd) spoil(p);
  const PrepareInputs in(p);
  probe::Prepared expected;
  probe::prepare(p, expected);
  for (const bool dependent : {false, true}) {
    const PrepareOutputs out(in);
    preparation::Params params = params_of(in, out);
    params.dependent = dependent;
    preparation::launch(params, nullptr);
    MUST(cudaDeviceSynchronize());
    const size_t wrong = differences(in, out, expected);
    claim(wrong == 0, text("prepare M=%d heads=%d interleaved=%d last=%d %s odd=%d: %zu differ", p.tokens,
                           p.heads, p.interleaved, p.rotates_last, p.numerics.c_str(), odd, wrong));
  }
  if (p.tokens == 0 || odd) return;
  const PrepareOutputs out(in);
  preparation::Params params = params_of(in, out);
  params.interleaved = !params.interleaved;
  preparation::launch(params, nullptr);
  claim(differences(in, out, expected) > 0, "prepare: the other rotation is told apart");
}

void check_preparation_repeats(int tokens, int times) {
  const PrepareInputs in(make_preparation(tokens, 64, 2, 2048, 5));
  const PrepareOutputs first(in);
  preparation::launch(params_of(in, first), nullptr);
  Device<unsigned> differ(1);
  MUST(cudaMemset(differ.data, 0, 4));
  PrepareOutputs again(in);
  for (int i = 0; i < times; ++i) {
    again.q_codes.poison();
    again.cache.poison();
    again.weights.poison();
    preparation::launch(params_of(in, again), nullptr);
    const auto compare = [&](const auto& a, const auto& b) {
      count_differences<<<64, 256>>>(reinterpret_cast<uint32_t*>(a.data), reinterpret_cast<uint32_t*>(b.data),
                                     a.count * sizeof(*a.data) / 4, differ.data);
    };
    compare(first.q_codes, again.q_codes);
    compare(first.cache, again.cache);
    compare(first.weights, again.weights);
  }
  claim(differ.download()[0] == 0, text("prepare M=%d: %d launches agree", tokens, times));
}

// --- dependent launches: the predecessor lets them begin, then writes late ---

__global__ void write_late(uint16_t* to, const uint16_t* from, size_t count) {
  fulgurite::cuda::release_successor();
  fulgurite::cuda::wait_for_predecessor();
  const long long begin = clock64();
  while (clock64() - begin < 60000) {
  }
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x)
    to[i] = from[i];
}

void check_dependence(int tokens) {
  const Weights weights(7168, 64, true, 21);
  Device<uint16_t> x(size_t(tokens) * 7168), late(x.count);
  fill_bf16<<<1024, 256>>>(x.data, x.count, 79);
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
  write_late<<<32, 128>>>(late.data, x.data, x.count);
  projection::launch(params, nullptr);
  MUST(cudaDeviceSynchronize());
  claim(expected.k.download() == found.k.download() && expected.gate.download() == found.gate.download(),
        text("projection M=%d waits for its predecessor", tokens));

  const PrepareInputs in(make_preparation(tokens, 64, 2, 2048, 5));
  const PrepareOutputs expected_codes(in), found_codes(in);
  preparation::launch(params_of(in, expected_codes), nullptr);
  Device<uint16_t> late_q(in.q.count), late_k(in.k.count);
  late_q.poison();
  late_k.poison();
  MUST(cudaDeviceSynchronize());
  preparation::Params prepare = params_of(in, found_codes);
  prepare.q = late_q.data;
  prepare.k = late_k.data;
  prepare.dependent = true;
  write_late<<<4, 128>>>(late_k.data, in.k.data, in.k.count);
  write_late<<<32, 128>>>(late_q.data, in.q.data, in.q.count);
  preparation::launch(prepare, nullptr);
  MUST(cudaDeviceSynchronize());
  claim(expected_codes.q_codes.download() == found_codes.q_codes.download() &&
            expected_codes.cache.download() == found_codes.cache.download(),
        text("prepare M=%d waits for its predecessor", tokens));
}

void check_preparations(bool fast) {
  const std::vector<int> batches =
      fast ? std::vector<int>{0, 1, 17} : std::vector<int>{0, 1, 7, 16, 17, 63, 65, 129};
  const std::vector<const char*> knobs = {"",
                                          ",index_scale=fp32",
                                          ",hadamard=none",
                                          ",hadamard=q",
                                          ",index_norm=bf16",
                                          ",rsqrt=two_step,index_scale=fp32"};
  for (const int tokens : batches)
    for (const int heads : {64, 8, 13})
      for (const char* knob : knobs)
        for (int style = 0; style < 4; ++style)
          for (const bool odd : {false, true}) {
            if ((tokens > 17 || heads != 64) && style != (tokens + heads) % 4) continue;
            probe::Preparation p = make_preparation(tokens, heads, 3, 200, 31 + tokens);
            p.interleaved = style % 2 != 0;
            p.rotates_last = style / 2 != 0;
            p.numerics = knob;
            check_preparation(p, odd);
          }
  if (fast) return;
  for (const char* knob : {"", ",index_scale=fp32"}) {
    probe::Preparation p = make_preparation(2048, 64, 2, 2048, 99);
    p.numerics = knob;
    check_preparation(p, false);
    check_preparation(p, true);
    check_preparation(make_preparation(1500, 32, 2, 2048, 98), true);
  }
}

void report_checks(const char* what) {
  std::printf("%s: %d checks, %d failed\n", what, checks, failures);
  std::fflush(stdout);
}

void check(bool fast) {
  if (!fast) check_numbers();
  report_checks("numbers");
  const std::vector<int> few = {0, 1, 7, 8, 9, 16}, all = {0, 1, 7, 16, 17, 63, 64, 65, 129, 257, 300};
  for (const int hidden : {16, 48, 256, 384, 720}) {
    for (const bool keys : {false, true}) {
      check_projection(hidden, 64, keys, few);
      report_checks("few");
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
  report_checks("dependence");
  check_preparations(fast);
  report_checks("preparations");
  if (fast) return;
  for (const bool keys : {false, true})
    for (const int tokens : {1, 16, 64, 512, 3000}) check_projection_repeats(keys, tokens, 210);
  check_preparation_repeats(16, 210);
  check_preparation_repeats(2048, 210);
  report_checks("repeats");
}

// For memory checkers: every kernel, once.
void small() {
  for (const int tokens : {1, 16, 17, 100, 200, 300}) {
    for (const bool keys : {false, true}) {
      const Weights weights(7168, 64, keys, 21);
      Device<uint16_t> x(size_t(tokens) * 7168);
      fill_bf16<<<1024, 256>>>(x.data, x.count, 79);
      Outputs out(tokens, 64);
      projection::Params params = params_of(weights, x.data, 7168, tokens, out);
      params.processors = 7;
      projection::launch(params, nullptr);
      MUST(cudaDeviceSynchronize());
    }
  }
  for (const int tokens : {5, 200}) check_preparation(make_preparation(tokens, 64, 2, 200, 3), true);
  report_checks("small");
}

// --- times ---

struct Time {
  double median, low, high;
};
Time time_graph(int calls, const std::function<void(int, cudaStream_t)>& call) {
  cudaStream_t stream;
  MUST(cudaStreamCreate(&stream));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < calls; ++i) call(i, stream);
  MUST(cudaStreamEndCapture(stream, &graph));
  MUST(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t begin, end;
  MUST(cudaEventCreate(&begin));
  MUST(cudaEventCreate(&end));
  const auto replay = [&] {
    float ms = 0.0f;
    MUST(cudaEventRecord(begin, stream));
    MUST(cudaGraphLaunch(exec, stream));
    MUST(cudaEventRecord(end, stream));
    MUST(cudaEventSynchronize(end));
    MUST(cudaEventElapsedTime(&ms, begin, end));
    return ms * 1e3 / calls;
  };
  const auto start = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - start < std::chrono::milliseconds(40)) replay();
  std::vector<double> times;
  for (int i = 0; i < 31; ++i) times.push_back(replay());
  std::sort(times.begin(), times.end());
  MUST(cudaGraphExecDestroy(exec));
  MUST(cudaGraphDestroy(graph));
  MUST(cudaStreamDestroy(stream));
  return {times[15], times[3], times[27]};
}

// Operands of many calls, in one pool.
constexpr size_t kRotated = size_t{240} << 20;
int sets_for(size_t bytes) { return static_cast<int>(std::clamp<size_t>(kRotated / bytes, 2, 256)); }

__global__ void nothing() {}
__global__ void large() {}
void report_clusters() {
  for (const unsigned size : {2u, 4u, 8u}) {
    cudaLaunchAttribute attribute = fulgurite::cuda::cluster_of(size);
    cudaLaunchConfig_t config{};
    config.gridDim = {128, 1, 1};
    config.blockDim = {256, 1, 1};
    config.dynamicSmemBytes = 200 << 10;
    config.attrs = &attribute;
    config.numAttrs = 1;
    int clusters = 0;
    MUST(cudaFuncSetAttribute(large, cudaFuncAttributeMaxDynamicSharedMemorySize, 200 << 10));
    MUST(cudaOccupancyMaxActiveClusters(&clusters, large, &config));
    std::printf("clusters of %u blocks that run at once: %d\n", size, clusters);
  }
}

void time_projections(const uint16_t* pool, int processors) {
  Device<uint16_t> k(size_t{8192} * 128);
  Device<float> gate(size_t{8192} * 64);
  std::printf("%-22s %28s %28s %28s %10s\n", "projection, us", "all cold (p10, p90)", "x warm",
              "x warm, dependent", "floor");
  for (const bool keys : {false, true}) {
    const int rows = keys ? 192 : 64, hidden = 7168;
    for (const int tokens : {1, 8, 16, 17, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192}) {
      const size_t weight_elements = size_t(rows) * hidden, x_elements = size_t(tokens) * hidden;
      const auto run = [&](bool x_rotates, bool dependent) {
        const int sets = sets_for((weight_elements + (x_rotates ? x_elements : 0)) * 2);
        const int calls = std::max(sets, tokens >= 2048 ? 24 : 64);
        return time_graph(calls, [&](int i, cudaStream_t stream) {
          const int set = i % sets;
          const uint16_t* const weights = pool + weight_elements * set;
          const uint16_t* const x =
              pool + weight_elements * sets + (x_rotates ? x_elements * set : size_t{0});
          projection::Params params;
          params.x = x;
          params.x_stride = params.wk_stride = params.w_stride = hidden;
          params.wk = keys ? weights : nullptr;
          params.w = keys ? weights + size_t{128} * hidden : weights;
          params.k = k.data;
          params.k_stride = 128;
          params.gate = gate.data;
          params.gate_stride = 64;
          params.tokens = tokens;
          params.hidden = hidden;
          params.heads = 64;
          params.processors = processors;
          params.dependent = dependent;
          projection::launch(params, stream);
        });
      };
      const Time cold = run(true, false), warm = run(false, false), dependent = run(false, true);
      const double bytes = 2.0 * (weight_elements + x_elements) + tokens * (256.0 + (keys ? 256.0 : 0.0));
      std::printf(
          "N=%-4d M=%-12d %10.2f (%6.2f, %6.2f)  %10.2f (%6.2f, %6.2f)  %10.2f (%6.2f, %6.2f)  %8.2f\n", rows,
          tokens, cold.median, cold.low, cold.high, warm.median, warm.low, warm.high, dependent.median,
          dependent.low, dependent.high, bytes / 3.112e6);
      std::fflush(stdout);
    }
  }
}

void time_preparations(const uint16_t* pool) {
  const int context = 65536, pages = context / 64;
  Device<float> cosine(size_t{context} * 32), sine(size_t{context} * 32), parameters(256),
      gate(size_t{8192} * 64);
  for (Device<float>* values : {&cosine, &sine, &parameters, &gate})
    fill_floats<<<512, 256>>>(values->data, values->count, 4);
  Device<uint8_t> codes(size_t{8192} * 64 * 128), cache(size_t{pages} * preparation::kPageBytes);
  Device<float> weights(size_t{8192} * 64);
  std::vector<int32_t> table_host(pages), places_host(2 * context);
  for (int i = 0; i < pages; ++i) table_host[i] = (i * 797) % pages;
  for (int i = 0; i < context; ++i)
    places_host[2 * i] = 0, places_host[2 * i + 1] = static_cast<int32_t>(int64_t{i} * 40503 % context);
  Device<int32_t> table(table_host), places(places_host);
  std::printf("%-22s %28s %28s %28s %10s\n", "prepare, us", "queries and keys", "queries alone",
              "both, dependent", "floor");
  for (const int heads : {64, 32}) {
    for (const int tokens : {1, 8, 16, 64, 512, 2048, 8192}) {
      const size_t q_elements = size_t(tokens) * heads * 128, k_elements = size_t(tokens) * 128;
      const int sets = sets_for((q_elements + k_elements) * 2), calls = std::max(sets, 16);
      const auto run = [&](bool keys, bool dependent) {
        return time_graph(calls, [&](int i, cudaStream_t stream) {
          preparation::Params params;
          params.q = pool + (q_elements + k_elements) * (i % sets);
          params.k = keys ? params.q + q_elements : nullptr;
          params.q_head_stride = params.code_head_stride = params.k_stride = 128;
          params.q_token_stride = params.code_token_stride = heads * 128;
          params.q_codes = codes.data;
          params.gate = gate.data;
          params.weights = weights.data;
          params.gate_stride = params.weights_stride = heads;
          params.k_weight = parameters.data;
          params.k_bias = parameters.data + 128;
          params.key_pages = cache.data;
          params.block_table = table.data;
          params.block_table_stride = pages;
          params.places = reinterpret_cast<const int2*>(places.data) + i * 131 % (context - tokens + 1);
          params.cosine = cosine.data;
          params.sine = sine.data;
          params.tokens = tokens;
          params.heads = heads;
          params.dependent = dependent;
          preparation::launch(params, stream);
        });
      };
      const Time both = run(true, false), alone = run(false, false), dependent = run(true, true);
      const double bytes = tokens * (heads * (256.0 + 128 + 8) + 256 + 132 + 256 + 8);
      std::printf(
          "heads=%-3d M=%-11d %10.2f (%6.2f, %6.2f)  %10.2f (%6.2f, %6.2f)  %10.2f (%6.2f, %6.2f)  %8.2f\n",
          heads, tokens, both.median, both.low, both.high, alone.median, alone.low, alone.high,
          dependent.median, dependent.low, dependent.high, bytes / 3.0e6);
      std::fflush(stdout);
    }
  }
}

void time_all(int processors) {
  Device<uint16_t> pool((kRotated + (size_t{130} << 20)) / 2);
  fill_bf16<<<2048, 256>>>(pool.data, pool.count, 1);
  MUST(cudaDeviceSynchronize());
  const Time edge = time_graph(256, [](int, cudaStream_t stream) { nothing<<<128, 256, 0, stream>>>(); });
  std::printf("edge, empty kernel 128 x 256: %.2f us\n", edge.median);
  report_clusters();
  time_projections(pool.data, processors);
  if (processors == 132) time_preparations(pool.data);
}

}  // namespace

int main(int count, char** words) {
  const std::string what = count > 1 ? words[1] : "check";
  if (what == "check") check(count > 2);
  if (what == "small") small();
  if (what == "time") time_all(count > 2 ? std::atoi(words[2]) : 132);
  report_checks("all");
  return failures != 0;
}
