// index_select_probe time: CUDA graphs of many calls, cold caches by rotation.

#include <cuda_fp8.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "bench/cuda/index_select_probe.h"

namespace fulgurite::index_select::probe {

namespace {

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

int calls_for(double us) { return std::clamp(static_cast<int>(2500.0 / us), 2, 256); }

// Some logits of a workload against the CPU; the number that differ.
int sample_wrong(const Pool& pool, const Workload& w, const Device<float>& logits, int64_t stride) {
  std::mt19937 random(5);
  int wrong = 0;
  const int rows = w.sequences * w.rows_each;
  for (int i = 0; i < 200; ++i) {
    const int row = static_cast<int>(random() % rows), sequence = row / w.rows_each;
    const int s = static_cast<int>(random() % (w.length - w.rows_each + row % w.rows_each + 1));
    const int64_t page = pool.order[sequence * w.table_stride + s / 64];
    const auto key = pool.pages.download(page * kCudaPageBytes + s % 64 * 128, 128);
    const auto scale = pool.pages.download(page * kCudaPageBytes + 8192 + s % 64 * 4, 4);
    const auto q = pool.q.download(static_cast<size_t>(row) * w.heads * 128, w.heads * 128);
    const auto weights = pool.weights.download(static_cast<size_t>(row) * w.heads, w.heads);
    float k_scale;
    std::memcpy(&k_scale, scale.data(), 4);
    const float want = expected_logit(factors(q.data(), q.size()).data(), weights.data(), w.heads,
                                      factors(key.data(), 128).data(), k_scale);
    wrong += !same(want, logits.download(row * stride + s, 1)[0]);
  }
  return wrong;
}

void print(const char* name, const std::string& shape, const Time& t, double bytes, double flops,
           const std::string& note) {
  const double floor_us = std::max(bytes / 3.112e6, flops / 1434e6);
  std::printf("%-22s %-26s %9.2f %9.2f %9.2f  floor %8.2f  share %.2f  %s\n", name, shape.c_str(), t.median,
              t.low, t.high, floor_us, floor_us / t.median, note.c_str());
  std::fflush(stdout);
}

}  // namespace

Pool::Pool() : order(kPoolPages) {
  fill_codes<<<2048, 256>>>(pages.data, kPoolPages * kCudaPageBytes, 40.0f, 1);
  fill_scales<<<2048, 256>>>(pages.data, kPoolPages);
  fill_codes<<<1024, 256>>>(q.data, 2048 * 64 * 128, 60.0f, 1ull << 40);
  fill_floats<<<256, 256>>>(weights.data, 2048 * 64, 1ull << 41);
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::mt19937 random(3);
  std::shuffle(order.begin(), order.end(), random);
  table.upload(order);
  MUST(cudaDeviceSynchronize());
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
      MUST(launch_logits(p, stream));
    };
    run(0, nullptr, Launch::kPlain);
    MUST(cudaDeviceSynchronize());
    const int wrong = sample_wrong(pool, w, logits, s.l);
    claim(wrong == 0, "timed logits differ");
    const std::string shape = std::to_string(s.b) + " x " + std::to_string(s.each) + " x " +
                              std::to_string(s.l) + " h" + std::to_string(s.heads);
    for (const Launch launch : {Launch::kPlain, Launch::kProgrammatic}) {
      const Time t =
          time_graph(calls_for(s.guess), [&](int i, cudaStream_t stream) { run(i, stream, launch); });
      print(launch == Launch::kPlain ? "logits" : "logits, programmatic", shape, t, w.bytes(), w.flops(),
            std::to_string(wrong) + " of 200 wrong");
      if (s.guess > 100) break;
    }
    for (const int in_flight : {6, 8, 10, 12}) {
      if (s.guess < 16 || (s.each > 1 && in_flight != 8)) continue;
      const Time t = time_graph(
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
          MUST(launch_top_k(p, stream));
        };
        run(1, nullptr);
        MUST(cudaDeviceSynchronize());
        const int check = std::min(s.rows, 8);
        const auto got = selected.download(0, check * 2048ll);
        const auto x = logits.download(elements, check * static_cast<int64_t>(s.l));
        int wrong = 0;
        std::vector<int> bad(check);
        parallel(check, [&](int64_t t) {
          const auto want = cpu_select(x.data() + t * s.l, s.l, 2048);
          for (int j = 0; j < 2048; ++j) bad[t] += want[j] != got[t * 2048 + j];
        });
        for (const int b : bad) wrong += b;
        claim(wrong == 0, "timed top-k differs");
        const Time t = time_graph(calls_for(s.guess), run);
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
    Device<int32_t> selected(static_cast<size_t>(rows) * 2048), slots(static_cast<size_t>(rows) * 2048);
    for (const Launch launch : {Launch::kPlain, Launch::kProgrammatic}) {
      const auto run = [&](int i, cudaStream_t stream) {
        SelectParams p;
        p.logits = w.params(pool, i);
        p.logits.launch = launch;
        p.top_k.launch = launch;
        p.top_k.selected = selected.data;
        p.top_k.selected_stride = 2048;
        p.top_k.slots = slots.data;
        p.top_k.topk = 2048;
        p.top_k.context = s.l;
        p.workspace = workspace.data;
        p.workspace_bytes = bytes;
        MUST(launch_select(p, stream));
      };
      const Time t = time_graph(calls_for(s.guess), run);
      print(launch == Launch::kPlain ? "logits + selection" : "same, programmatic",
            std::to_string(s.b) + " x " + std::to_string(s.each) + " x " + std::to_string(s.l), t,
            w.bytes() - 4.0 * rows * s.l + 8192.0 * rows, w.flops(),
            "workspace MB " + std::to_string(bytes / kMb));
    }
  }
}

}  // namespace fulgurite::index_select::probe
