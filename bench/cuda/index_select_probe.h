#pragma once
// What the parts of index_select_probe share: cases with the CPU's answers, and the pool of pages that
// times rotate over.

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/cuda/index_select_expected.h"
#include "bench/cuda/probe_kit.h"
#include "fulgurite/ops/index_select/index_select_cuda.h"

namespace fulgurite::index_select::probe {

using namespace fulgurite::probe;
using fulgurite::probe::Device;  // not the core's

// --- the CPU's computation ---

std::vector<uint32_t> factors(const uint8_t* codes, size_t count);  // mma_factor_of each
// What the contract chooses of the first `seen` logits.
std::vector<int32_t> cpu_select(const float* logits, int64_t seen, int topk);

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

inline int64_t seen_by(const Case& c, size_t row) { return (c.places[row].position + 1) / c.ratio; }

HostCase make_data(const Case& c, uint32_t seed);
std::vector<std::vector<float>> cpu_logits(const Case& c, const HostCase& h);

// --- operands of many calls, on the device ---

constexpr int64_t kPoolPages = 66560;  // 562 MB

struct Pool {
  Device<uint8_t> pages{static_cast<size_t>(kPoolPages * kCudaPageBytes)};
  std::vector<int32_t> order;
  Device<int32_t> table{static_cast<size_t>(kPoolPages)};
  Device<uint8_t> q{2048 * 64 * 128};
  Device<float> weights{2048 * 64};
  Pool();
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
    places.upload(host);
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

// --- what is asked for ---

void check_logits();
void check_top_k(bool small);
void check_small();  // a few small cases, for compute-sanitizer
void time_top_k();
void time_logits(const Pool& pool);
void time_select(const Pool& pool);

}  // namespace fulgurite::index_select::probe
