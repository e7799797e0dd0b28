// Checks and times the index_select kernels of Hopper; no part of the library.
//   index_select_probe check     bit equality with a CPU computation, on awkward sizes and distributions
//   index_select_probe small     a few small cases, for compute-sanitizer
//   index_select_probe same      determinism: grids of 132, 66 and 7, repeated launches
//   index_select_probe time      CUDA graphs of many calls, cold caches by rotation
//   index_select_probe one NAME  a few launches of one kernel, for a profiler

#include <cuda_fp8.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bench/cuda/index_select_expected.h"
#include "fulgurite/ops/index_select/index_select_cuda.h"

using namespace fulgurite;
using namespace fulgurite::index_select;

namespace {

#define CUDA(call)                                                                          \
  do {                                                                                      \
    const cudaError_t error_ = (call);                                                      \
    if (error_ != cudaSuccess) {                                                            \
      std::printf("%s:%d %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(error_)); \
      std::exit(1);                                                                         \
    }                                                                                       \
  } while (0)

template <class T>
struct Device {
  T* data = nullptr;
  size_t size = 0;
  explicit Device(size_t count) : size(count) {
    CUDA(cudaMalloc(&data, std::max<size_t>(count, 4) * sizeof(T)));
  }
  explicit Device(const std::vector<T>& host) : Device(host.size()) { set(host); }
  Device(const Device&) = delete;
  ~Device() { cudaFree(data); }
  void set(const std::vector<T>& host) {
    CUDA(cudaMemcpy(data, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  void fill(int byte) { CUDA(cudaMemset(data, byte, size * sizeof(T))); }
  std::vector<T> get() const { return get(0, size); }
  std::vector<T> get(size_t first, size_t count) const {
    std::vector<T> host(count);
    CUDA(cudaMemcpy(host.data(), data + first, count * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }
};

void parallel(int64_t count, const std::function<void(int64_t)>& body) {
  const int threads = std::max(1u, std::min(16u, std::thread::hardware_concurrency()));
  std::vector<std::thread> pool;
  for (int t = 0; t < threads; ++t)
    pool.emplace_back([&, t] {
      for (int64_t i = t; i < count; i += threads) body(i);
    });
  for (std::thread& thread : pool) thread.join();
}

int g_failures = 0;
void expect(bool good, const std::string& what) {
  if (good) return;
  if (++g_failures <= 40) std::printf("FAIL %s\n", what.c_str());
}

// --- the CPU's computation ---

std::vector<uint32_t> factors(const uint8_t* codes, size_t count) {
  static const std::vector<uint32_t> table = [] {
    std::vector<uint32_t> t;
    for (int c = 0; c < 256; ++c) t.push_back(mma_factor_of(static_cast<uint8_t>(c)));
    return t;
  }();
  std::vector<uint32_t> f(count);
  for (size_t i = 0; i < count; ++i) f[i] = table[codes[i]];
  return f;
}

bool same_bits(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) || std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

uint32_t cpu_code(float x) {
  if (std::isnan(x)) return 0;
  if (x == 0.0f) x = 0.0f;
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

std::vector<int32_t> cpu_select(const float* logits, int64_t seen, int topk) {
  std::vector<uint64_t> keys(static_cast<size_t>(seen));
  for (int64_t s = 0; s < seen; ++s)
    keys[s] = static_cast<uint64_t>(cpu_code(logits[s])) << 32 | ~static_cast<uint32_t>(s);
  const auto count = static_cast<size_t>(std::min<int64_t>(topk, seen));
  if (count < keys.size()) std::nth_element(keys.begin(), keys.begin() + count, keys.end(), std::greater<>());
  std::vector<int32_t> chosen(static_cast<size_t>(topk), -1);
  for (size_t i = 0; i < count; ++i) chosen[i] = static_cast<int32_t>(~static_cast<uint32_t>(keys[i]));
  std::sort(chosen.begin(), chosen.begin() + count);
  return chosen;
}

// --- cases of the whole operation ---

struct Case {
  int heads = 64, topk = 64, ratio = 1, sequences = 3, together = 1;
  std::vector<TokenPlace> places;
  int64_t context = 0;  // capacity
  enum class Data { kGauss, kNan, kZero, kWide, kTied } data = Data::kGauss;
  std::string name;
};

struct HostCase {
  std::vector<uint8_t> q, pages;
  std::vector<float> weights;
  std::vector<int32_t> table;
  int64_t table_stride = 0, pool_pages = 0;
};

int64_t seen_by(const Case& c, size_t row) { return (c.places[row].position + 1) / c.ratio; }

HostCase make_data(const Case& c, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  HostCase h;
  const size_t rows = c.places.size();
  h.table_stride = (c.context + 63) / 64;
  h.pool_pages = h.table_stride * c.sequences + 3;
  const auto code = [&](float spread) { return __nv_fp8_e4m3(normal(random) * spread).__x; };
  h.q.resize(rows * c.heads * 128);
  h.pages.resize(h.pool_pages * kCudaPageBytes);
  for (auto& x : h.q) x = c.data == Case::Data::kZero ? (random() & 0x80) : code(60.0f);
  for (int64_t p = 0; p < h.pool_pages; ++p) {
    uint8_t* page = h.pages.data() + p * kCudaPageBytes;
    for (int s = 0; s < 64; ++s) {
      const bool tied = c.data == Case::Data::kTied && s % 4 != 0;
      for (int d = 0; d < 128; ++d) page[s * 128 + d] = tied ? page[(s - s % 4) * 128 + d] : code(40.0f);
      float scale =
          tied ? reinterpret_cast<float*>(page + 8192)[s - s % 4] : std::exp(normal(random)) * 0.01f;
      if (c.data == Case::Data::kWide)
        scale = std::ldexp(normal(random), static_cast<int>(random() % 300) - 170);
      if (c.data == Case::Data::kNan && random() % 7 == 0)
        page[s * 128 + random() % 128] = 0x7f | (random() & 0x80);
      if (c.data == Case::Data::kNan && random() % 11 == 0) {
        const float odd[4] = {INFINITY, -INFINITY, NAN, 0.0f};
        scale = odd[random() % 4];
      }
      std::memcpy(page + 8192 + 4 * s, &scale, 4);
    }
  }
  for (size_t i = 0; i < rows * c.heads; ++i) {
    float w = normal(random);
    if (c.data == Case::Data::kWide) w = std::ldexp(w, static_cast<int>(random() % 200) - 130);
    if (c.data == Case::Data::kNan && random() % 301 == 0) w = random() % 2 ? INFINITY : NAN;
    h.weights.push_back(w);
  }
  std::vector<int32_t> order(h.pool_pages);
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::shuffle(order.begin(), order.end(), random);
  h.table.assign(order.begin(), order.begin() + h.table_stride * c.sequences);
  return h;
}

std::vector<std::vector<float>> cpu_logits(const Case& c, const HostCase& h) {
  std::vector<std::vector<uint32_t>> keys(h.pool_pages);
  parallel(h.pool_pages, [&](int64_t p) { keys[p] = factors(h.pages.data() + p * kCudaPageBytes, 8192); });
  std::vector<std::vector<float>> logits(c.places.size());
  std::vector<std::vector<uint32_t>> q(c.places.size());
  int64_t longest = 0;
  for (size_t t = 0; t < c.places.size(); ++t) {
    logits[t].resize(seen_by(c, t));
    q[t] = factors(h.q.data() + t * c.heads * 128, c.heads * 128);
    longest = std::max(longest, seen_by(c, t));
  }
  parallel(longest, [&](int64_t s) {
    for (size_t t = 0; t < c.places.size(); ++t) {
      if (s >= seen_by(c, t)) continue;
      const int32_t page = h.table[c.places[t].sequence * h.table_stride + s / 64];
      float scale;
      std::memcpy(&scale, h.pages.data() + page * kCudaPageBytes + 8192 + s % 64 * 4, 4);
      logits[t][s] = expected_logit(q[t].data(), h.weights.data() + t * c.heads, c.heads,
                                    keys[page].data() + s % 64 * 128, scale);
    }
  });
  return logits;
}

struct DeviceCase {
  Device<uint8_t> q, pages;
  Device<float> weights;
  Device<int32_t> table;
  Device<TokenPlace> places;
  DeviceCase(const Case& c, const HostCase& h)
      : q(h.q), pages(h.pages), weights(h.weights), table(h.table), places(c.places) {}
  LogitsParams params(const Case& c, const HostCase& h) const {
    LogitsParams p;
    p.q = q.data;
    p.weights = weights.data;
    p.places = places.data;
    p.pages = pages.data;
    p.pool_pages = h.pool_pages;
    p.page_table = table.data;
    p.table_stride = h.table_stride;
    p.rows = static_cast<int32_t>(c.places.size());
    p.heads = c.heads;
    p.ratio = c.ratio;
    p.rows_together = c.together;
    return p;
  }
};

// Elements that differ from the CPU's; outside what a row sees, from the poison.
int64_t wrong_logits(const Case& c, const std::vector<std::vector<float>>& expected,
                     const std::vector<float>& got, int64_t stride) {
  int64_t wrong = 0;
  for (size_t t = 0; t < c.places.size(); ++t)
    for (int64_t s = 0; s < stride; ++s) {
      const float x = got[t * stride + s];
      if (s < seen_by(c, t) ? !same_bits(x, expected[t][s]) : std::bit_cast<uint32_t>(x) != 0xCDCDCDCDu)
        ++wrong;
    }
  return wrong;
}

int64_t g_logits_checked = 0, g_rows_checked = 0;

void check_case(const Case& c, uint32_t seed) {
  const HostCase h = make_data(c, seed);
  const DeviceCase d(c, h);
  const auto expected = cpu_logits(c, h);
  const int64_t stride = (c.context + 3) / 4 * 4;
  Device<float> logits(c.places.size() * stride);
  for (const int ctas : {132, 66, 7}) {
    LogitsParams p = d.params(c, h);
    p.logits = logits.data;
    p.logits_stride = stride;
    p.ctas = ctas;
    p.pages_in_flight = ctas == 66 ? 5 : 0;
    logits.fill(0xCD);
    CUDA(launch_logits(p, nullptr));
    CUDA(cudaDeviceSynchronize());
    std::vector<float> got = logits.get();
    const int64_t wrong = wrong_logits(c, expected, got, stride);
    expect(wrong == 0,
           c.name + ": " + std::to_string(wrong) + " logits differ, ctas " + std::to_string(ctas));
    if (ctas == 7 && wrong == 0) {  // the comparison must see one wrong bit
      for (const auto& row : expected) g_logits_checked += static_cast<int64_t>(row.size());
      size_t at = 0;
      while (at < got.size() && std::isnan(got[at])) ++at;
      got[at] = std::bit_cast<float>(std::bit_cast<uint32_t>(got[at]) ^ 1u);
      expect(wrong_logits(c, expected, got, stride) == 1, c.name + ": a wrong bit passed");
    }
  }
  {
    LogitsParams p = d.params(c, h);
    p.logits = logits.data;
    p.logits_stride = stride;
    CUDA(launch_hide(p, c.context, nullptr));
    const std::vector<float> got = logits.get();
    int64_t wrong = 0;
    for (size_t t = 0; t < c.places.size(); ++t)
      for (int64_t s = 0; s < c.context; ++s)
        wrong += !same_bits(got[t * stride + s], s < seen_by(c, t) ? expected[t][s] : -INFINITY);
    expect(wrong == 0, c.name + ": scores differ");
  }
  std::vector<std::vector<int32_t>> chosen(c.places.size());
  parallel(static_cast<int64_t>(c.places.size()),
           [&](int64_t t) { chosen[t] = cpu_select(expected[t].data(), seen_by(c, t), c.topk); });
  Device<int32_t> selected(c.places.size() * c.topk);
  for (const bool slots : {false, true})
    for (const int64_t budget : {int64_t{1} << 30, stride * 4 * std::max<int64_t>(1, c.places.size() / 3)})
      for (const Launch launch : {Launch::kPlain, Launch::kProgrammatic}) {
        SelectParams p;
        p.logits = d.params(c, h);
        p.logits.launch = launch;
        p.top_k.launch = launch;
        p.top_k.selected = selected.data;
        p.top_k.selected_stride = c.topk;
        p.top_k.slots = slots;
        p.top_k.topk = c.topk;
        p.top_k.context = c.context;
        p.workspace_bytes = select_workspace_bytes(p.logits.rows, c.context, budget);
        Device<uint8_t> workspace(p.workspace_bytes);
        p.workspace = workspace.data;
        selected.fill(0xCD);
        CUDA(launch_select(p, nullptr));
        CUDA(cudaDeviceSynchronize());
        const std::vector<int32_t> got = selected.get();
        int64_t wrong = 0;
        for (size_t t = 0; t < c.places.size(); ++t)
          for (int j = 0; j < c.topk; ++j) {
            int32_t want = chosen[t][j];
            if (slots && want >= 0)
              want = h.table[c.places[t].sequence * h.table_stride + want / 64] * 64 + want % 64;
            wrong += got[t * c.topk + j] != want;
          }
        expect(wrong == 0, c.name + ": " + std::to_string(wrong) + " selections differ");
      }
  g_rows_checked += static_cast<int64_t>(c.places.size());
}

void check_logits() {
  std::mt19937 random(7);
  const int lengths[] = {1, 2, 63, 64, 65, 127, 128, 129, 500, 777, 1024, 1300};
  uint32_t seed = 1;
  for (const int heads : {8, 16, 32, 64})
    for (const int together : {1, 2, 3, 4, 8})
      for (const int kind : {0, 1}) {
        Case c;
        c.heads = heads;
        c.together = together;
        c.sequences = 5;
        c.context = 1400;
        c.ratio = kind == 0 ? 1 : 4;
        c.topk = kind == 0 ? 64 : 512;
        const auto datas = {Case::Data::kGauss, Case::Data::kNan, Case::Data::kZero, Case::Data::kWide,
                            Case::Data::kTied};
        c.data = *(datas.begin() + seed % 5);
        // kind 0: the rows of a sequence stand together; kind 1: anyhow.
        const int rows = together == 8 ? 70 : 11;
        int sequence = 0;
        for (int t = 0; t < rows; ++t) {
          if (kind == 1 ? random() % 3 == 0 : t % std::max(together, 2) == 0 && together != 8)
            sequence = static_cast<int>(random() % c.sequences);
          const int seen = lengths[random() % 12];
          const int position = std::max(0, seen * c.ratio - 1 + static_cast<int>(random() % c.ratio) -
                                               (random() % 9 == 0 ? c.ratio : 0));
          c.places.push_back({sequence, position});
        }
        c.name = "heads " + std::to_string(heads) + " together " + std::to_string(together) + " kind " +
                 std::to_string(kind) + " data " + std::to_string(static_cast<int>(c.data));
        check_case(c, seed++);
      }
  // Longer than one ring of pages, causal rows.
  for (const int heads : {64, 32}) {
    Case c;
    c.heads = heads;
    c.together = 8;
    c.sequences = 2;
    c.context = 5000;
    c.topk = 2048;
    for (int t = 0; t < 33; ++t) c.places.push_back({t / 20, 4900 + t});
    c.name = "causal, heads " + std::to_string(heads);
    check_case(c, seed++);
  }
  std::printf("logits checked bit for bit: %lld, rows selected: %lld\n",
              static_cast<long long>(g_logits_checked), static_cast<long long>(g_rows_checked));
}

// A few small cases, for compute-sanitizer.
void check_small() {
  for (const int heads : {64, 8})
    for (const int together : {1, 2, 4, 8}) {
      Case c;
      c.heads = heads;
      c.together = together;
      c.sequences = 2;
      c.context = 300;
      c.topk = 64;
      for (int t = 0; t < 9; ++t) c.places.push_back({t / 5, 40 + 29 * t});
      c.name = "small, heads " + std::to_string(heads) + " together " + std::to_string(together);
      check_case(c, static_cast<uint32_t>(heads + together));
    }
}

// --- top k alone ---

std::vector<float> distribution(int kind, int64_t n, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  const float special[8] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1.0f, -1.0f, 1e-42f};
  for (int64_t i = 0; i < n; ++i) switch (kind) {
      case 0:
        x[i] = normal(random);
        break;
      case 1:
        x[i] = 3.0f;
        break;
      case 2:
        x[i] = random() % 2 ? 0.0f : -0.0f;
        break;
      case 3:
        x[i] =
            std::bit_cast<float>(static_cast<uint32_t>(random() % 5000) | (random() % 2 ? 0x80000000u : 0));
        break;
      case 4:
        x[i] = special[random() % 8];
        break;
      case 5:
        x[i] = NAN;
        break;
      case 6:
        x[i] = std::bit_cast<float>(static_cast<uint32_t>(random()));
        break;
      case 7:
        x[i] = std::bit_cast<float>(0x3F800000u + static_cast<uint32_t>(random() % 3000));
        break;
      case 8:
        x[i] = static_cast<float>(i);
        break;
      case 9:
        x[i] = static_cast<float>(-i);
        break;
      case 10:
        x[i] = random() % 50 == 0 ? normal(random) : (random() % 40 == 0 ? NAN : -INFINITY);
        break;
      case 11:
        x[i] = std::max(0.0f, normal(random) - 2.5f);
        break;
      case 12:
        x[i] = -static_cast<float>(random() % 3);
        break;
      default:
        x[i] = random() % 1000 == 0 ? 1.0f : NAN;
        break;
    }
  return x;
}
constexpr int kDistributions = 14;

void check_top_k(bool small) {
  std::mt19937 random(11);
  int64_t checked = 0;
  const std::vector<int64_t> contexts =
      small ? std::vector<int64_t>{2049, 20001}
            : std::vector<int64_t>{1, 2047, 2049, 4100, 8192, 32768, 40001, 131072, 300007, 1048576};
  for (const int64_t context : contexts) {
    const int rows = small ? 3 : context > 200000 ? 3 : context > 30000 ? 7 : kDistributions;
    for (int turn = 0; turn < (context > 30000 ? 2 : 1); ++turn) {
      std::vector<float> host;
      std::vector<TokenPlace> places;
      const int64_t stride = (context + 3) / 4 * 4;
      for (int t = 0; t < rows; ++t) {
        const int kind = context > 200000 ? (turn == 0 ? t : t + 9) : turn == 0 ? t : t + 7;
        const int64_t seen = t % 3 == 2 ? 1 + random() % context : context;
        std::vector<float> x = distribution(kind % kDistributions, stride, random);
        for (int64_t i = seen; i < stride; ++i) x[i] = 1e30f;  // must not be seen
        host.insert(host.end(), x.begin(), x.end());
        places.push_back({t % 2, static_cast<int32_t>(seen - 1)});
      }
      std::vector<int32_t> table(2 * (context / 64 + 1));
      for (auto& entry : table) entry = static_cast<int32_t>(random() % 100000);
      const Device<float> logits(host);
      const Device<TokenPlace> device_places(places);
      const Device<int32_t> device_table(table);
      for (const int topk : {2048, 1, 7, 512, 1000}) {
        if (small && topk != 2048) continue;
        if (context > 200000 && topk < 2048 && topk != 7) continue;
        std::vector<std::vector<int32_t>> chosen(rows);
        parallel(rows, [&](int64_t t) {
          chosen[t] = cpu_select(host.data() + t * stride, places[t].position + 1, topk);
        });
        Device<int32_t> selected(rows * topk);
        for (const int cluster : {0, 1, 2, 4, 8, 16})
          for (const int ctas : {0, 7}) {
            if (ctas == 7 && cluster != 0 && cluster > 4) continue;
            TopKParams p;
            p.logits = logits.data;
            p.logits_stride = stride;
            p.places = device_places.data;
            p.selected = selected.data;
            p.selected_stride = topk;
            p.slots = cluster == 4;
            p.page_table = device_table.data;
            p.table_stride = context / 64 + 1;
            p.rows = rows;
            p.topk = topk;
            p.context = context;
            p.cluster = cluster;
            p.ctas = ctas;
            selected.fill(0xCD);
            CUDA(launch_top_k(p, nullptr));
            CUDA(cudaDeviceSynchronize());
            const std::vector<int32_t> got = selected.get();
            for (int t = 0; t < rows; ++t) {
              int wrong = 0;
              for (int j = 0; j < topk; ++j) {
                int32_t want = chosen[t][j];
                if (p.slots && want >= 0)
                  want = table[places[t].sequence * p.table_stride + want / 64] * 64 + want % 64;
                wrong += got[t * topk + j] != want;
              }
              ++checked;
              expect(wrong == 0, "top_k context " + std::to_string(context) + " row " + std::to_string(t) +
                                     " turn " + std::to_string(turn) + " k " + std::to_string(topk) +
                                     " cluster " + std::to_string(cluster) + ": " + std::to_string(wrong) +
                                     " differ");
            }
          }
      }
    }
  }
  std::printf("top-k rows checked: %lld\n", static_cast<long long>(checked));
}

// --- data on the device, for timing ---

__device__ uint32_t mix(uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdull;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ull;
  x ^= x >> 33;
  return static_cast<uint32_t>(x);
}
__device__ float gauss(uint64_t i) {
  const uint32_t a = mix(2 * i + 1), b = mix(2 * i + 2);
  return sqrtf(-2.0f * logf((a + 1.0f) / 4294967808.0f)) * cosf(6.2831853f * (b / 4294967296.0f));
}
__global__ void fill_codes(uint8_t* x, int64_t n, float spread, uint64_t seed) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < n; i += gridDim.x * 256ll)
    x[i] = __nv_fp8_e4m3(gauss(seed + i) * spread).__x;
}
__global__ void fill_floats(float* x, int64_t n, uint64_t seed) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < n; i += gridDim.x * 256ll) x[i] = gauss(seed + i);
}
__global__ void fill_scales(uint8_t* pages, int64_t n) {
  for (int64_t i = blockIdx.x * 256ll + threadIdx.x; i < n * 64; i += gridDim.x * 256ll)
    reinterpret_cast<float*>(pages + i / 64 * kCudaPageBytes + 8192)[i % 64] =
        0.01f + 0.0005f * fabsf(gauss(i));
}

struct Timing {
  double median, p10, p90;
};
using Call = std::function<void(int, cudaStream_t)>;

Timing time_graph(int calls, const Call& call) {
  cudaStream_t stream;
  CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cudaGraph_t graph;
  CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < calls; ++i) call(i, stream);
  CUDA(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t exec;
  CUDA(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t begin, end;
  CUDA(cudaEventCreate(&begin));
  CUDA(cudaEventCreate(&end));
  std::vector<double> us;
  double warm = 0.0;
  while (us.size() < 15) {
    CUDA(cudaEventRecord(begin, stream));
    CUDA(cudaGraphLaunch(exec, stream));
    CUDA(cudaEventRecord(end, stream));
    CUDA(cudaEventSynchronize(end));
    float ms;
    CUDA(cudaEventElapsedTime(&ms, begin, end));
    warm += ms;
    if (warm > 25.0) us.push_back(ms * 1000.0 / calls);
  }
  CUDA(cudaGraphExecDestroy(exec));
  CUDA(cudaGraphDestroy(graph));
  CUDA(cudaStreamDestroy(stream));
  std::sort(us.begin(), us.end());
  return {us[7], us[1], us[13]};
}

int calls_for(double us) { return std::clamp(static_cast<int>(2500.0 / us), 2, 256); }

constexpr int64_t kPoolPages = 66560;  // 562 MB

struct Pool {
  Device<uint8_t> pages{static_cast<size_t>(kPoolPages * kCudaPageBytes)};
  std::vector<int32_t> order;
  Device<int32_t> table{static_cast<size_t>(kPoolPages)};
  Device<uint8_t> q{2048 * 64 * 128};
  Device<float> weights{2048 * 64};
  Pool() : order(kPoolPages) {
    fill_codes<<<2048, 256>>>(pages.data, kPoolPages * kCudaPageBytes, 40.0f, 1);
    fill_scales<<<2048, 256>>>(pages.data, kPoolPages);
    fill_codes<<<1024, 256>>>(q.data, 2048 * 64 * 128, 60.0f, 1ull << 40);
    fill_floats<<<256, 256>>>(weights.data, 2048 * 64, 1ull << 41);
    for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
    std::mt19937 random(3);
    std::shuffle(order.begin(), order.end(), random);
    table.set(order);
    CUDA(cudaDeviceSynchronize());
  }
};

// B sequences of L tokens, `rows` query rows each; sets of different pages.
struct Workload {
  int sequences, length, rows_each, heads, sets;
  int64_t table_stride;
  Device<TokenPlace> places;
  Workload(int b, int l, int each, int h)
      : sequences(b), length(l), rows_each(each), heads(h), table_stride((l + 63) / 64), places(b * each) {
    const int64_t pages = table_stride * b;
    sets = static_cast<int>(std::clamp<int64_t>(kPoolPages / pages, 1, 64));
    std::vector<TokenPlace> host;
    for (int s = 0; s < b; ++s)
      for (int r = 0; r < each; ++r) host.push_back({s, l - each + r});
    places.set(host);
  }
  LogitsParams params(const Pool& pool, int call) const {
    LogitsParams p;
    p.q = pool.q.data;
    p.weights = pool.weights.data;
    p.places = places.data;
    p.pages = pool.pages.data;
    p.pool_pages = kPoolPages;
    p.page_table = pool.table.data + call % sets * table_stride * sequences;
    p.table_stride = table_stride;
    p.rows = sequences * rows_each;
    p.heads = heads;
    p.rows_together = rows_each;
    return p;
  }
  double bytes() const {
    return 1.0 * table_stride * sequences * kCudaPageBytes + 4.0 * sequences * rows_each * length;
  }
  double flops() const {
    double pairs = 0;
    for (int r = 0; r < rows_each; ++r) pairs += 1.0 * sequences * (length - rows_each + r + 1);
    return pairs * heads * 256.0;
  }
};

// Some logits of a workload against the CPU; the number that differ.
int sample_wrong(const Pool& pool, const Workload& w, const Device<float>& logits, int64_t stride) {
  std::mt19937 random(5);
  int wrong = 0;
  const int rows = w.sequences * w.rows_each;
  for (int i = 0; i < 200; ++i) {
    const int row = static_cast<int>(random() % rows), sequence = row / w.rows_each;
    const int s = static_cast<int>(random() % (w.length - w.rows_each + row % w.rows_each + 1));
    const int64_t page = pool.order[sequence * w.table_stride + s / 64];
    const auto key = pool.pages.get(page * kCudaPageBytes + s % 64 * 128, 128);
    const auto scale = pool.pages.get(page * kCudaPageBytes + 8192 + s % 64 * 4, 4);
    const auto q = pool.q.get(static_cast<size_t>(row) * w.heads * 128, w.heads * 128);
    const auto weights = pool.weights.get(static_cast<size_t>(row) * w.heads, w.heads);
    float k_scale;
    std::memcpy(&k_scale, scale.data(), 4);
    const float want = expected_logit(factors(q.data(), q.size()).data(), weights.data(), w.heads,
                                      factors(key.data(), 128).data(), k_scale);
    wrong += !same_bits(want, logits.get(row * stride + s, 1)[0]);
  }
  return wrong;
}

void print(const char* name, const std::string& shape, const Timing& t, double bytes, double flops,
           const std::string& note) {
  const double floor_us = std::max(bytes / 3.112e6, flops / 1434e6);
  std::printf("%-22s %-26s %9.2f %9.2f %9.2f  floor %8.2f  share %.2f  %s\n", name, shape.c_str(), t.median,
              t.p10, t.p90, floor_us, floor_us / t.median, note.c_str());
  std::fflush(stdout);
}

void time_logits(const Pool& pool) {
  struct Shape {
    int b, l, each, heads;
    double guess;
  };
  const Shape shapes[] = {{1, 4096, 1, 64, 4},       {1, 32768, 1, 64, 5},
                          {1, 131072, 1, 64, 10},    {8, 4096, 1, 64, 5},
                          {8, 32768, 1, 64, 17},     {8, 131072, 1, 64, 55},
                          {32, 32768, 1, 64, 55},    {32, 131072, 1, 64, 200},
                          {128, 4096, 1, 64, 30},    {128, 32768, 1, 64, 200},
                          {32, 32768, 2, 64, 60},    {8, 32768, 4, 64, 30},
                          {32, 32768, 1, 32, 50},    {2048 / 2048, 32768, 2048, 64, 1000},
                          {1, 8192, 2048, 64, 230},  {1, 131072, 512, 64, 1100},
                          {1, 32768, 2048, 32, 500}, {1, 1048576, 1, 64, 60}};
  for (const Shape& s : shapes) {
    const Workload w(s.b, s.l, s.each, s.heads);
    const int rows = s.b * s.each;
    Device<float> logits(static_cast<size_t>(rows) * s.l);
    const auto run = [&](int i, cudaStream_t stream, Launch launch, int in_flight = 0) {
      LogitsParams p = w.params(pool, i);
      p.logits = logits.data;
      p.logits_stride = s.l;
      p.launch = launch;
      p.pages_in_flight = in_flight;
      CUDA(launch_logits(p, stream));
    };
    run(0, nullptr, Launch::kPlain);
    CUDA(cudaDeviceSynchronize());
    const int wrong = sample_wrong(pool, w, logits, s.l);
    expect(wrong == 0, "timed logits differ");
    const std::string shape = std::to_string(s.b) + " x " + std::to_string(s.each) + " x " +
                              std::to_string(s.l) + " h" + std::to_string(s.heads);
    for (const Launch launch : {Launch::kPlain, Launch::kProgrammatic}) {
      const Timing t =
          time_graph(calls_for(s.guess), [&](int i, cudaStream_t stream) { run(i, stream, launch); });
      print(launch == Launch::kPlain ? "logits" : "logits, programmatic", shape, t, w.bytes(), w.flops(),
            std::to_string(wrong) + " of 200 wrong");
      if (s.guess > 100) break;
    }
    for (const int in_flight : {6, 8, 10, 12}) {
      if (s.guess < 16 || (s.each > 1 && in_flight != 8)) continue;
      const Timing t = time_graph(
          calls_for(s.guess), [&](int i, cudaStream_t stream) { run(i, stream, Launch::kPlain, in_flight); });
      print(("  " + std::to_string(in_flight) + " pages").c_str(), shape, t, w.bytes(), w.flops(), "");
    }
  }
}

void time_top_k() {
  struct Shape {
    int rows, l;
    double guess;
    std::vector<int> clusters;
  };
  const Shape shapes[] = {{1, 32768, 8, {0, 4}},        {1, 131072, 9, {0, 16}},
                          {8, 32768, 8, {0, 4}},        {8, 131072, 10, {0, 16}},
                          {32, 32768, 10, {0, 2}},      {32, 131072, 18, {0, 4}},
                          {64, 131072, 25, {0, 4, 16}}, {1024, 32768, 100, {0, 1, 4}},
                          {1024, 131072, 300, {0, 4}},  {1, 1048576, 30, {0}}};
  for (const Shape& s : shapes) {
    const int64_t elements = static_cast<int64_t>(s.rows) * s.l;
    const int sets = static_cast<int>(std::clamp<int64_t>(220000000 / (elements * 4) + 1, 2, 32));
    Device<float> logits(elements * sets);
    fill_floats<<<2048, 256>>>(logits.data, elements * sets, 1ull << 50);
    Device<TokenPlace> places(std::vector<TokenPlace>(s.rows, {0, s.l - 1}));
    Device<int32_t> selected(static_cast<size_t>(s.rows) * 2048);
    for (const int cluster : s.clusters)
      for (const Launch launch : {Launch::kPlain, Launch::kProgrammatic}) {
        if (launch == Launch::kProgrammatic && cluster != 0) continue;
        const auto run = [&](int i, cudaStream_t stream) {
          TopKParams p;
          p.logits = logits.data + i % sets * elements;
          p.logits_stride = s.l;
          p.places = places.data;
          p.selected = selected.data;
          p.selected_stride = 2048;
          p.rows = s.rows;
          p.topk = 2048;
          p.context = s.l;
          p.cluster = cluster;
          p.launch = launch;
          CUDA(launch_top_k(p, stream));
        };
        run(1, nullptr);
        CUDA(cudaDeviceSynchronize());
        const int check = std::min(s.rows, 8);
        const auto got = selected.get(0, check * 2048ll);
        const auto x = logits.get(elements, check * static_cast<int64_t>(s.l));
        int wrong = 0;
        std::vector<int> bad(check);
        parallel(check, [&](int64_t t) {
          const auto want = cpu_select(x.data() + t * s.l, s.l, 2048);
          for (int j = 0; j < 2048; ++j) bad[t] += want[j] != got[t * 2048 + j];
        });
        for (const int b : bad) wrong += b;
        expect(wrong == 0, "timed top-k differs");
        const Timing t = time_graph(calls_for(s.guess), run);
        print(launch == Launch::kPlain ? "top-k 2048" : "top-k, programmatic",
              std::to_string(s.rows) + " x " + std::to_string(s.l) + " c" + std::to_string(cluster), t,
              4.0 * elements + 8192.0 * s.rows, 0, std::to_string(wrong) + " wrong");
      }
  }
}

void time_select(const Pool& pool) {
  struct Shape {
    int b, l, each;
    double guess;
    int64_t budget;
  };
  constexpr int64_t kMb = 1 << 20;
  const Shape shapes[] = {
      {1, 32768, 1, 12, 256 * kMb},       {8, 32768, 1, 25, 256 * kMb},      {32, 32768, 1, 65, 256 * kMb},
      {32, 131072, 1, 220, 256 * kMb},    {1, 131072, 1, 18, 256 * kMb},     {8, 131072, 1, 65, 256 * kMb},
      {128, 32768, 1, 220, 256 * kMb},    {1, 32768, 2048, 1300, 32 * kMb},  {1, 32768, 2048, 1300, 64 * kMb},
      {1, 32768, 2048, 1300, 128 * kMb},  {1, 32768, 2048, 1300, 256 * kMb}, {1, 8192, 2048, 300, 256 * kMb},
      {1, 131072, 1024, 2500, 256 * kMb}, {1, 1048576, 1, 100, 256 * kMb}};
  for (const Shape& s : shapes) {
    const Workload w(s.b, s.l, s.each, 64);
    const int rows = s.b * s.each;
    const int64_t bytes = select_workspace_bytes(rows, s.l, s.budget);
    Device<uint8_t> workspace(bytes);
    Device<int32_t> selected(static_cast<size_t>(rows) * 2048);
    for (const Launch launch : {Launch::kPlain, Launch::kProgrammatic}) {
      const auto run = [&](int i, cudaStream_t stream) {
        SelectParams p;
        p.logits = w.params(pool, i);
        p.logits.launch = launch;
        p.top_k.launch = launch;
        p.top_k.selected = selected.data;
        p.top_k.selected_stride = 2048;
        p.top_k.slots = true;
        p.top_k.topk = 2048;
        p.top_k.context = s.l;
        p.workspace = workspace.data;
        p.workspace_bytes = bytes;
        CUDA(launch_select(p, stream));
      };
      const Timing t = time_graph(calls_for(s.guess), run);
      print(launch == Launch::kPlain ? "logits + selection" : "same, programmatic",
            std::to_string(s.b) + " x " + std::to_string(s.each) + " x " + std::to_string(s.l), t,
            w.bytes() - 4.0 * rows * s.l + 8192.0 * rows, w.flops(),
            "workspace MB " + std::to_string(bytes / kMb));
    }
  }
}

// --- determinism ---

uint64_t hash(const std::vector<uint8_t>& bytes) {
  uint64_t h = 1469598103934665603ull;
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, &bytes[i], 8);
    h = (h ^ word) * 1099511628211ull;
  }
  return h;
}

void check_same(const Pool& pool) {
  for (const int each : {1, 8}) {
    const Workload w(each == 1 ? 6 : 2, 20000, each, 64);
    const int rows = w.sequences * each;
    const int64_t bytes = select_workspace_bytes(rows, w.length, 1 << 30);
    Device<uint8_t> workspace(bytes), selected(static_cast<size_t>(rows) * 2048 * 4);
    workspace.fill(0);
    uint64_t first = 0, first_logits = 0;
    int differ = 0, launches = 0;
    for (const int ctas : {132, 66, 7})
      for (int turn = 0; turn < 80; ++turn, ++launches) {
        SelectParams p;
        p.logits = w.params(pool, 0);
        p.logits.ctas = ctas;
        p.top_k.ctas = ctas == 132 ? 0 : ctas;
        p.top_k.selected = reinterpret_cast<int32_t*>(selected.data);
        p.top_k.selected_stride = 2048;
        p.top_k.topk = 2048;
        p.top_k.context = w.length;
        p.workspace = workspace.data;
        p.workspace_bytes = bytes;
        p.logits.launch = p.top_k.launch = turn % 2 ? Launch::kProgrammatic : Launch::kPlain;
        selected.fill(0xCD);
        CUDA(launch_select(p, nullptr));
        CUDA(cudaDeviceSynchronize());
        const uint64_t now = hash(selected.get()),
                       now_logits = turn % 8 == 0 ? hash(workspace.get()) : first_logits;
        if (launches == 0) first = now, first_logits = now_logits;
        differ += now != first || now_logits != first_logits;
      }
    expect(differ == 0, "launches differ");
    std::printf("determinism: %d launches on grids of 132, 66, 7 (%d rows a sequence), %d differ\n", launches,
                each, differ);
  }
}

void run_one(const Pool& pool, const std::string& name) {
  const bool prefill = name == "prefill";
  const Workload w(prefill ? 1 : 8, 32768, prefill ? 2048 : 1, 64);
  const int rows = w.sequences * w.rows_each;
  const int64_t bytes = select_workspace_bytes(rows, w.length, 256 << 20);
  Device<uint8_t> workspace(bytes);
  Device<int32_t> selected(static_cast<size_t>(rows) * 2048);
  for (int i = 0; i < 3; ++i) {
    SelectParams p;
    p.logits = w.params(pool, i);
    p.top_k.selected = selected.data;
    p.top_k.selected_stride = 2048;
    p.top_k.topk = 2048;
    p.top_k.context = w.length;
    p.workspace = workspace.data;
    p.workspace_bytes = bytes;
    CUDA(launch_select(p, nullptr));
  }
  CUDA(cudaDeviceSynchronize());
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "check";
  cudaDeviceProp device;
  CUDA(cudaGetDeviceProperties(&device, 0));
  std::printf("%s, %d processors\n", device.name, device.multiProcessorCount);
  if (what == "check" || what == "all") {
    check_logits();
    check_top_k(false);
  }
  if (what == "small") {
    check_small();
    check_top_k(true);
  }
  if (what == "same" || what == "all") check_same(Pool());
  if (what == "time" || what == "all") {
    time_top_k();
    const Pool pool;
    time_logits(pool);
    time_select(pool);
  }
  if (what == "one") run_one(Pool(), argc > 2 ? argv[2] : "decode");
  std::printf("%s: %d failures\n", what.c_str(), g_failures);
  return g_failures == 0 ? 0 : 1;
}
