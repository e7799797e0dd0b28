// index_select_probe check: the choice alone, of many distributions.

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>

#include "bench/cuda/index_select_probe.h"

namespace fulgurite::index_select::probe {

namespace {

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

}  // namespace

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
      Device<float> read_once(host);
      const Device<TokenPlace> device_places(places);
      const Device<int32_t> device_table(table);
      for (const int topk : {2048, 1, 7, 512, 1000}) {
        if (small && topk != 2048) continue;
        if (context > 200000 && topk < 2048 && topk != 7) continue;
        std::vector<std::vector<int32_t>> chosen(rows);
        parallel(rows, [&](int64_t t) {
          chosen[t] = cpu_select(host.data() + t * stride, places[t].position + 1, topk);
        });
        Device<int32_t> selected(rows * topk), spare(rows * topk);
        for (const int cluster : {0, 1, 2, 4, 8, 16})
          for (const int ctas : {0, 7}) {
            if (ctas == 7 && cluster != 0 && cluster > 4) continue;
            TopKParams p;
            const bool discards = ctas == 7 || cluster % 8 == 0;
            if (discards) p.discard_to = INT64_MAX, read_once.upload(host);
            p.logits = discards ? read_once.data : logits.data;
            p.logits_stride = stride;
            p.places = device_places.data;
            p.selected = selected.data;
            p.selected_stride = topk;
            p.slots = cluster == 4 ? selected.data : nullptr;
            if (p.slots != nullptr) p.selected = spare.data;
            p.page_table = device_table.data;
            p.table_stride = context / 64 + 1;
            p.rows = rows;
            p.topk = topk;
            p.context = context;
            p.cluster = cluster;
            p.ctas = ctas;
            selected.fill(0xCD);
            MUST(launch_top_k(p, nullptr));
            MUST(cudaDeviceSynchronize());
            const std::vector<int32_t> got = selected.download();
            for (int t = 0; t < rows; ++t) {
              int wrong = 0;
              for (int j = 0; j < topk; ++j) {
                int32_t want = chosen[t][j];
                if (p.slots != nullptr && want >= 0)
                  want = table[places[t].sequence * p.table_stride + want / 64] * 64 + want % 64;
                wrong += got[t * topk + j] != want;
              }
              ++checked;
              claim(wrong == 0, "top_k context " + std::to_string(context) + " row " + std::to_string(t) +
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

}  // namespace fulgurite::index_select::probe
