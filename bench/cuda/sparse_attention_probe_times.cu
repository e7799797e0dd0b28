// Times of sparse_attention's kernels: CUDA graphs of calls, other queries and lists each time, over more
// than 220 MB of rows (so rows come from memory), median and p10 to p90 of the replays.

#include <cmath>

#include "bench/cuda/sparse_attention_probe.h"

namespace fulgurite::sparse_attention {
void launch_many(const CudaParams& params, cudaStream_t stream);
void launch_few(const CudaParams& params, cudaStream_t stream);
void launch_merge(const CudaParams& params, cudaStream_t stream);
}  // namespace fulgurite::sparse_attention

namespace fulgurite::sparse_attention::probe {
namespace {

constexpr int kContext = 32768, kTopk = 2048, kRegions = 128;

__global__ void fill_fp8(uint8_t* rows, int64_t count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count * 164;
       i += int64_t{gridDim.x} * blockDim.x) {
    const int64_t word = i % 164;
    uint32_t bits = hash(static_cast<uint64_t>(i));
    if (word < 128)
      bits &= 0xEFEFEFEFu;  // no NaN
    else if (word < 132)
      bits = 0x3C800000u;  // 2^-6
    else
      bits = (bits & 0x807F807Fu) | 0x3F003F00u;
    reinterpret_cast<uint32_t*>(rows)[i] = bits;
  }
}

// Queries, lists and rows of one shape of launch, `sets` times over.
struct Workload {
  CudaRows form;
  int tokens, heads, sets, regions;
  Device<uint16_t> q, rope, out;
  Device<int32_t> selected;
  Device<uint8_t> workspace;

  Workload(CudaRows f, int n, int h, int count, int in_regions)
      : form(f),
        tokens(n),
        heads(h),
        sets(count),
        regions(in_regions),
        q(static_cast<size_t>(count) * n * h * kCudaLatent),
        rope(static_cast<size_t>(count) * n * h * kCudaRope),
        out(static_cast<size_t>(count) * n * h * kCudaLatent),
        selected(lists(count * n, in_regions)),
        workspace(hopper_workspace_bytes(n, h, n * h > 4096 ? 4 : kCudaMostSplits)) {
    fill(q.data, q.count, 1);
    fill(rope.data, rope.count, 2);
    MUST(cudaDeviceSynchronize());
  }

  // A list a token, each within its own region of the pool.
  static std::vector<int32_t> lists(int count, int in_regions) {
    std::vector<int32_t> all;
    for (int i = 0; i < count; ++i) {
      const int i_distinct = i % 512;  // more need not differ
      std::vector<int32_t> list =
          i < 512 ? distinct(1000 + i, kTopk, kContext)
                  : std::vector<int32_t>(all.begin() + static_cast<int64_t>(i_distinct) * kTopk,
                                         all.begin() + static_cast<int64_t>(i_distinct + 1) * kTopk);
      const int shift =
          i < 512 ? i % in_regions * kContext : (i % in_regions - i_distinct % in_regions) * kContext;
      for (const int32_t slot : list) all.push_back(slot + shift);
    }
    return all;
  }

  CudaParams params(int call, const Device<uint8_t>& pool, const HopperPlan& plan) const {
    const int64_t first = static_cast<int64_t>(call % sets) * tokens;
    CudaParams p;
    p.q = q.data + first * heads * kCudaLatent;
    p.q_head = p.out_head = kCudaLatent;
    p.q_token = p.out_token = kCudaLatent * heads;
    p.q_rope = rope.data + first * heads * kCudaRope;
    p.q_rope_head = kCudaRope;
    p.q_rope_token = kCudaRope * heads;
    p.form = form;
    p.rows = pool.data;
    p.row_stride = form == CudaRows::kFp8 ? kCudaFp8RowBytes : kCudaBf16RowBytes;
    p.selected = selected.data + first * kTopk;
    p.selected_stride = kTopk;
    p.out = out.data + first * heads * kCudaLatent;
    p.workspace = workspace.data;
    p.tokens = tokens;
    p.heads = heads;
    p.topk = kTopk;
    p.splits = plan.splits;
    p.block_heads = plan.block_heads;
    p.scale = 0.0416666679f;
    return p;
  }
};

double flops(int tokens, int heads) { return 2.0 * tokens * heads * kTopk * (2.0 * kCudaLatent + kCudaRope); }
double bytes(int tokens, int heads) { return tokens * (656.0 * kTopk + heads * (576.0 + 512.0) * 2.0); }

struct DecodePool : Device<uint8_t> {
  DecodePool() : Device(static_cast<size_t>(kRegions) * kContext * kCudaFp8RowBytes) {
    fill_fp8<<<4096, 256>>>(data, int64_t{kRegions} * kContext);
  }
};

struct Goal {
  int heads, batch;
  double milestone, best;
};

}  // namespace

void time_decode(const std::string& only) {
  const DecodePool pool;
  const Goal goals[] = {{128, 1, 14, 18.6}, {128, 8, 25, 27.3}, {128, 32, 65, 64.8}, {128, 128, 200, 186.4},
                        {64, 1, 0, 18.1},   {64, 8, 0, 22.5},   {64, 32, 0, 52},     {64, 128, 0, 118},
                        {32, 1, 0, 0},      {32, 8, 0, 0},      {32, 32, 0, 0},      {32, 128, 0, 0},
                        {16, 1, 9, 19.3},   {16, 8, 12, 25.7},  {16, 32, 28, 56.4},  {16, 128, 75, 123.8},
                        {8, 1, 0, 0},       {8, 8, 0, 0},       {8, 32, 0, 0},       {8, 128, 0, 0}};
  std::printf(
      "decode: heads batch splits x block  us (p10 p90)  dependent us | milestone public floor share\n");
  for (const Goal& g : goals) {
    const int sets = std::clamp(static_cast<int>(220e6 / (g.batch * 656.0 * kTopk)) + 1, 2, 165);
    const Workload w(CudaRows::kFp8, g.batch, g.heads, sets, kRegions);
    const HopperPlan good = hopper_plan(LatentCache::kFp8, g.batch, g.heads, kTopk);
    const double floor = std::max(flops(g.batch, g.heads) / 790e6, bytes(g.batch, g.heads) / 3.112e6);
    std::vector<HopperPlan> plans{good};
    if (only != "few")
      for (const int block : {64, 16, 8})
        for (const int splits : {good.splits, good.splits / 2, good.splits * 2})
          if (block <= g.heads && g.heads / block * g.batch <= 32 && splits >= 1 &&
              splits <= kCudaMostSplits && (splits != good.splits || block != good.block_heads))
            plans.push_back({splits, block});
    for (const HopperPlan& plan : plans) {
      if (hopper_workspace_bytes(g.batch, g.heads, plan.splits) > static_cast<int64_t>(w.workspace.count))
        continue;
      const int calls = std::clamp(static_cast<int>(3000.0 / (floor + 8.0)), sets, 256);
      const auto time = [&](bool dependent) {
        return time_graph(calls, [&](int i, cudaStream_t stream) {
          CudaParams p = w.params(i, pool, plan);
          p.dependent = dependent;
          cuda_launch(p, stream);
        });
      };
      const Time plain = time(false), dependent = time(true);
      std::printf("%4d %4d %3d x%2d%s %8.2f (%.2f %.2f) %8.2f | %5.0f %6.1f %6.2f %.2f\n", g.heads, g.batch,
                  plan.splits, plan.block_heads, &plan == plans.data() ? "*" : " ", plain.median, plain.low,
                  plain.high, dependent.median, g.milestone, g.best, floor, floor / plain.median);
      std::fflush(stdout);
    }
  }
}

// The two kernels of split lists apart.
void time_parts() {
  const DecodePool pool;
  for (const auto& [heads, batch] :
       {std::pair{128, 1}, {128, 8}, {128, 32}, {64, 8}, {16, 1}, {16, 8}, {16, 128}}) {
    const int sets = std::clamp(static_cast<int>(220e6 / (batch * 656.0 * kTopk)) + 1, 2, 165);
    const Workload w(CudaRows::kFp8, batch, heads, sets, kRegions);
    const HopperPlan plan = hopper_plan(LatentCache::kFp8, batch, heads, kTopk);
    for (const int splits : {plan.splits, std::max(plan.splits / 2, 1)}) {
      const HopperPlan run{splits, plan.block_heads};
      const Time main = time_graph(std::max(sets, 64), [&](int i, cudaStream_t stream) {
        (plan.block_heads == 64 ? launch_many : launch_few)(w.params(i, pool, run), stream);
      });
      const Time merge = time_graph(std::max(sets, 64), [&](int i, cudaStream_t stream) {
        launch_merge(w.params(i, pool, run), stream);
      });
      std::printf("parts: %d heads, batch %d, %d splits x %d: %.2f and %.2f us\n", heads, batch, splits,
                  plan.block_heads, main.median, merge.median);
    }
  }
}

void time_prefill() {
  std::printf("prefill: form heads s_q  us (p10 p90) best us  TFLOP/s (best) | public TFLOP/s\n");
  for (const CudaRows form : {CudaRows::kBf16, CudaRows::kFp8}) {
    const size_t row = form == CudaRows::kFp8 ? kCudaFp8RowBytes : kCudaBf16RowBytes;
    Device<uint8_t> pool(kContext * row);
    if (form == CudaRows::kFp8)
      fill_fp8<<<4096, 256>>>(pool.data, kContext);
    else
      fill(reinterpret_cast<uint16_t*>(pool.data), pool.count / 2, 7);
    for (const auto& [heads, tokens, best] :
         {std::tuple{128, 1024, 542.2}, {64, 1024, 512.7}, {128, 4096, 561.9}, {64, 4096, 515.9}}) {
      const Workload w(form, tokens, heads, 1, 1);
      const Time t = time_graph(tokens == 1024 ? 3 : 1, [&](int i, cudaStream_t stream) {
        cuda_launch(w.params(i, pool, {1, 64}), stream);
      });
      const double work = flops(tokens, heads) * 1e-6;
      std::printf("%s %4d %5d %8.1f (%.1f %.1f) %8.1f  %6.1f (%.1f) | %.1f\n",
                  form == CudaRows::kFp8 ? "fp8 " : "bf16", heads, tokens, t.median, t.low, t.high, t.best,
                  work / t.median, work / t.best, best);
      std::fflush(stdout);
    }
  }
}

// NAME = HEADSxBATCH, of the decode shapes.
void run_one(const std::string& name) {
  const int heads = std::atoi(name.c_str()), batch = std::atoi(name.c_str() + name.find('x') + 1);
  const DecodePool pool;
  const Workload w(CudaRows::kFp8, batch, heads, 2, kRegions);
  for (int i = 0; i < 3; ++i)
    cuda_launch(w.params(i, pool, hopper_plan(LatentCache::kFp8, batch, heads, kTopk)), nullptr);
  MUST(cudaDeviceSynchronize());
}

}  // namespace fulgurite::sparse_attention::probe
