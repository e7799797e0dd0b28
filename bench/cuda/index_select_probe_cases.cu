// Cases of index_select_probe, and what a CPU makes of them.

#include <cuda_fp8.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "bench/cuda/index_select_probe.h"

namespace fulgurite::index_select::probe {

namespace {

uint32_t cpu_code(float x) {
  if (std::isnan(x)) return 0;
  if (x == 0.0f) x = 0.0f;
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

}  // namespace

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

}  // namespace fulgurite::index_select::probe
