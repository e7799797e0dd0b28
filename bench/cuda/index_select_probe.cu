// Checks and times the index_select kernels of Hopper; no part of the library.
//   index_select_probe check     bit equality with a CPU computation, on awkward sizes and distributions
//   index_select_probe small     a few small cases, for compute-sanitizer
//   index_select_probe same      determinism: grids of 132, 66 and 7, repeated launches
//   index_select_probe time      CUDA graphs of many calls, cold caches by rotation
//   index_select_probe one NAME  a few launches of one kernel, for a profiler

#include <cstring>

#include "bench/cuda/index_select_probe.h"

using namespace fulgurite::index_select;
using namespace fulgurite::index_select::probe;

namespace {

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
      for (int turn = 0; turn < 1000; ++turn, ++launches) {
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
        MUST(launch_select(p, nullptr));
        MUST(cudaDeviceSynchronize());
        const uint64_t now = hash(selected.download()),
                       now_logits = turn % 50 == 0 ? hash(workspace.download()) : first_logits;
        if (launches == 0) first = now, first_logits = now_logits;
        differ += now != first || now_logits != first_logits;
      }
    claim(differ == 0, "launches differ");
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
    MUST(launch_select(p, nullptr));
  }
  MUST(cudaDeviceSynchronize());
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "check";
  cudaDeviceProp device;
  MUST(cudaGetDeviceProperties(&device, 0));
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
  report_checks(what.c_str());
  return failed() != 0;
}
