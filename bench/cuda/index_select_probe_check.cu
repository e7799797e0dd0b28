// index_select_probe check: bit equality with the CPU.

#include <algorithm>
#include <bit>
#include <random>

#include "bench/cuda/index_select_probe.h"

namespace fulgurite::index_select::probe {

namespace {

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
      if (s < seen_by(c, t) ? !same(x, expected[t][s]) : std::bit_cast<uint32_t>(x) != 0xCDCDCDCDu) ++wrong;
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
    MUST(launch_logits(p, nullptr));
    MUST(cudaDeviceSynchronize());
    std::vector<float> got = logits.download();
    const int64_t wrong = wrong_logits(c, expected, got, stride);
    claim(wrong == 0, c.name + ": " + std::to_string(wrong) + " logits differ, ctas " + std::to_string(ctas));
    if (ctas == 7 && wrong == 0) {  // the comparison must see one wrong bit
      for (const auto& row : expected) g_logits_checked += static_cast<int64_t>(row.size());
      size_t at = 0;
      while (at < got.size() && std::isnan(got[at])) ++at;
      got[at] = std::bit_cast<float>(std::bit_cast<uint32_t>(got[at]) ^ 1u);
      claim(wrong_logits(c, expected, got, stride) == 1, c.name + ": a wrong bit passed");
    }
  }
  {
    LogitsParams p = d.params(c, h);
    p.logits = logits.data;
    p.logits_stride = stride;
    MUST(launch_hide(p, c.context, nullptr));
    const std::vector<float> got = logits.download();
    int64_t wrong = 0;
    for (size_t t = 0; t < c.places.size(); ++t)
      for (int64_t s = 0; s < c.context; ++s)
        wrong += !same(got[t * stride + s], s < seen_by(c, t) ? expected[t][s] : -INFINITY);
    claim(wrong == 0, c.name + ": scores differ");
  }
  std::vector<std::vector<int32_t>> chosen(c.places.size());
  parallel(static_cast<int64_t>(c.places.size()),
           [&](int64_t t) { chosen[t] = cpu_select(expected[t].data(), seen_by(c, t), c.topk); });
  Device<int32_t> selected(c.places.size() * c.topk), spare(c.places.size() * c.topk);
  for (const bool slots : {false, true})
    for (const int64_t budget : {int64_t{1} << 30, stride * 4 * std::max<int64_t>(1, c.places.size() / 3)})
      for (const Launch launch : {Launch::kPlain, Launch::kProgrammatic}) {
        SelectParams p;
        p.logits = d.params(c, h);
        p.logits.launch = launch;
        p.top_k.launch = launch;
        p.top_k.selected = selected.data;
        p.top_k.selected_stride = c.topk;
        p.top_k.slots = slots ? selected.data : nullptr;
        if (slots) p.top_k.selected = spare.data;
        p.top_k.topk = c.topk;
        p.top_k.context = c.context;
        p.workspace_bytes = select_workspace_bytes(p.logits.rows, c.context, budget);
        Device<uint8_t> workspace(p.workspace_bytes);
        p.workspace = workspace.data;
        selected.fill(0xCD);
        MUST(launch_select(p, nullptr));
        MUST(cudaDeviceSynchronize());
        const std::vector<int32_t> got = selected.download();
        int64_t wrong = 0;
        for (size_t t = 0; t < c.places.size(); ++t)
          for (int j = 0; j < c.topk; ++j) {
            int32_t want = chosen[t][j];
            if (slots && want >= 0)
              want = h.table[c.places[t].sequence * h.table_stride + want / 64] * 64 + want % 64;
            wrong += got[t * c.topk + j] != want;
          }
        claim(wrong == 0, c.name + ": " + std::to_string(wrong) + " selections differ");
      }
  g_rows_checked += static_cast<int64_t>(c.places.size());
}

}  // namespace

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

}  // namespace fulgurite::index_select::probe
