// Times of DeepSeek-V4's attention rows: CUDA graphs of dependent launches, other sequences and lists each time, over more than
// 240 MB of caches (so rows come from memory); median, p10 and p90 of 31 replays.

#include "bench/cuda/window_attention_probe.h"
#include "fulgurite/core/random.h"
#include "fulgurite/ops/compressed_attention/compressed_attention_rules.h"
#include "fulgurite/ops/kv_prepare/kv_prepare.h"
#include "fulgurite/ops/query_prepare/query_prepare.h"

namespace fulgurite::probe {
namespace {

namespace ca = compressed_attention;

constexpr int64_t kWindow = 128, kDim = 512, kRope = 64;
constexpr double kBytesPerMicrosecond = 3.11e6, kFlopPerMicrosecond = 790e6;

struct Shape {
  const char* what;
  int64_t heads, ratio, topk, context;
  int64_t capacity;  // positions that the caches may hold
  int64_t keys() const { return kWindow + (ratio == 0 ? 0 : topk > 0 ? topk : context / ratio); }
  int64_t entries() const { return ratio == 0 ? 0 : context / ratio; }
};

// Codes that are no NaN, scales near 1, bf16 below 2.
__global__ void fill_blocks(uint32_t* words, size_t count) {
  constexpr uint32_t kWords = 37440 / 4;
  for (size_t i = blockIdx.x * size_t{blockDim.x} + threadIdx.x; i < count;
       i += size_t{gridDim.x} * blockDim.x) {
    const uint32_t at = static_cast<uint32_t>(i % kWords), bits = hash(i);
    const bool scale = at >= 64 * 144, rotated = !scale && at % 144 >= 112;
    words[i] = scale ? 0x78797877u : rotated ? (bits & 0x807F807Fu) | 0x3F003F00u : bits & 0xEFEFEFEFu;
  }
}

class Decode {
 public:
  Decode(const Shape& shape, int64_t batch)
      : shape_(shape),
        batch_(batch),
        row_{LatentCache::kFp8, kDim - kRope, kRope},
        window_bytes_(row_.cache_bytes(1, kWindow)),
        entry_bytes_(row_.cache_bytes(1, shape.entries())),
        sequences_(std::clamp<int64_t>(static_cast<int64_t>(kRotated) / (window_bytes_ + entry_bytes_), batch,
                                       4096)),
        calls_(static_cast<int>(std::clamp<int64_t>(2048 / batch, 16, 256))),
        window_(static_cast<size_t>(sequences_ * window_bytes_)),
        entries_(static_cast<size_t>(sequences_ * entry_bytes_)),
        q_(static_cast<size_t>(kQueries * batch * shape.heads * kDim)),
        out_(static_cast<size_t>(kQueries * batch * shape.heads * kDim)),
        sink_(static_cast<size_t>(shape.heads)),
        table_(static_cast<size_t>(shape.context * kRope / 2)),
        places_(make_places()),
        lists_(make_lists()) {
    fill_blocks<<<2048, 256>>>(reinterpret_cast<uint32_t*>(window_.data), window_.count / 4);
    fill_blocks<<<2048, 256>>>(reinterpret_cast<uint32_t*>(entries_.data), entries_.count / 4);
    fill(q_.data, q_.count, 1);
    fill(sink_.data, sink_.count, 2);
    fill(table_.data, table_.count, 3);
    MUST(cudaDeviceSynchronize());
  }

  ca::Problem problem() const {
    ca::Problem p{setting_of("serving"), shape_.heads, kDim, kRope, kWindow, shape_.ratio, shape_.topk};
    p.scale = 0.0442f;
    p.sequences = sequences_;
    p.ring = kWindow;
    p.entries = shape_.entries();
    p.positions = shape_.context;
    p.largest_batch = batch_;
    return p;
  }

  // As the row plans it where `plan` is null.
  Time time(const ca::HopperPlan* plan) {
    ca::Problem planned = problem();  // a session's caches have room for more than there is
    if (shape_.ratio > 0) planned.entries = shape_.capacity / shape_.ratio;
    plan_ = plan != nullptr ? *plan : ca::hopper_plan(planned, batch_);
    Device<std::byte> workspace(
        static_cast<size_t>(ca::hopper_workspace_bytes(batch_, shape_.heads, plan_.splits)));
    return time_graph(calls_, [&](int call, cudaStream_t stream) {
      Lane lane;
      lane.workspace = {workspace.data, workspace.count};
      lane.stream = stream;
      ca::run_hopper(problem(), args(call), lane, plan_);
    });
  }
  const ca::HopperPlan& plan() const { return plan_; }
  void once() const {  // for a profiler
    const ca::HopperPlan plan = ca::hopper_plan(problem(), batch_);
    const OnDevice device(ca::hopper_workspace_bytes(batch_, shape_.heads, plan.splits));
    for (int call = 0; call < 3; ++call) ca::run_hopper(problem(), args(call), device.lane(), plan);
  }

 private:
  static constexpr int kQueries = 4;  // sets of them, and of lists: fresh, as what comes before leaves them

  std::vector<TokenPlace> make_places() const {
    std::vector<TokenPlace> places;
    for (int64_t i = 0; i < calls_ * batch_; ++i)
      places.push_back({static_cast<int32_t>(i % sequences_), static_cast<int32_t>(shape_.context - 1)});
    return places;
  }
  std::vector<int32_t> make_lists() const {
    std::vector<int32_t> lists(static_cast<size_t>(kQueries * batch_ * shape_.topk));
    if (shape_.topk == 0) return lists;
    parallel(kQueries, [&](int call) {
      Random random(static_cast<uint64_t>(call));
      for (int64_t t = 0; t < batch_; ++t) {  // one of each of topk equal parts
        int32_t* const list = lists.data() + (call * batch_ + t) * shape_.topk;
        const int64_t part = shape_.entries() / shape_.topk;
        for (int64_t i = 0; i < shape_.topk; ++i)
          list[i] = static_cast<int32_t>(i * part + random.below(part));
      }
    });
    return lists;
  }
  ca::Args args(int call) const {
    const int64_t first = call % kQueries * batch_ * shape_.heads * kDim;
    const auto tensor = [&](uint16_t* data) {
      return Tensor<3>(View<bf16, 3>{reinterpret_cast<bf16*>(data + first), {batch_, shape_.heads, kDim}});
    };
    const auto rows = [&](std::byte* data, int64_t count) {
      return KvRows{row_, {data, {sequences_, KvRow::blocks(count), row_.block_bytes()}}};
    };
    ca::Args a;
    a.q = tensor(q_.data);
    a.sink = {sink_.data, {shape_.heads}};
    a.window = rows(window_.data, kWindow);
    a.entries = rows(entries_.data, shape_.entries());
    a.selected = {lists_.data + call % kQueries * batch_ * shape_.topk, {batch_, shape_.topk}};
    a.places = {places_.data + call * batch_, {batch_}};
    const View<const float, 2> table{table_.data, {shape_.context, kRope / 2}};
    a.table = {table, table};
    a.out = tensor(out_.data);
    return a;
  }

  const Shape shape_;
  const int64_t batch_;
  const KvRow row_;
  const int64_t window_bytes_, entry_bytes_, sequences_;
  const int calls_;
  Device<std::byte> window_, entries_;
  Device<uint16_t> q_, out_;
  Device<float> sink_, table_;
  Device<TokenPlace> places_;
  Device<int32_t> lists_;
  ca::HopperPlan plan_;
};

void print(const Shape& shape, int64_t batch, const ca::HopperPlan& plan, const Time& t) {
  const double tokens = static_cast<double>(batch), keys = static_cast<double>(shape.keys());
  const double bytes = tokens * (keys * 584 + static_cast<double>(shape.heads) * 2048);
  const double flop = tokens * keys * static_cast<double>(shape.heads) * 2048;
  std::printf("%-28s %3d heads batch %-4d %2d x %-2d %8.2f us (%7.2f %7.2f)  bytes %6.2f  products %6.2f\n",
              shape.what, int(shape.heads), int(batch), plan.splits, plan.block_heads, t.median, t.low,
              t.high, bytes / kBytesPerMicrosecond, flop / kFlopPerMicrosecond);
  std::fflush(stdout);
}

constexpr int64_t k32k = 32768, k1m = 1048576;
constexpr Shape kShapes[] = {{"Flash, window", 64, 0, 0, k32k, k32k},
                             {"Flash, ratio 4, 32k", 64, 4, 512, k32k, k32k},
                             {"Flash, ratio 128, 32k", 64, 128, 0, k32k, k32k},
                             {"Flash, ratio 128, 32k of 1M", 64, 128, 0, k32k, k1m},
                             {"Flash, ratio 128, 1M", 64, 128, 0, k1m, k1m},
                             {"Pro, window", 128, 0, 0, k32k, k32k},
                             {"Pro, ratio 4, 32k", 128, 4, 1024, k32k, k32k},
                             {"Pro, ratio 128, 32k", 128, 128, 0, k32k, k32k},
                             {"Pro, ratio 128, 1M", 128, 128, 0, k1m, k1m},
                             {"8 heads, ratio 4, 32k", 8, 4, 512, k32k, k32k},
                             {"16 heads, ratio 4, 32k", 16, 4, 1024, k32k, k32k}};

}  // namespace

void time_attention(bool variants) {
  for (const Shape& shape : kShapes)
    for (const int64_t batch : {1, 2, 4, 8, 16, 32, 64, 128}) {
      const bool often = batch == 1 || batch == 8 || batch == 32 || batch == 128;
      if (!often && (shape.topk == 0 || shape.heads < 64)) continue;
      Decode decode(shape, batch);
      const Time time = decode.time(nullptr);
      print(shape, batch, decode.plan(), time);
      if (!variants || shape.topk == 0) continue;
      for (const int heads : {8, 16, 32, 64})
        for (const int splits : {1, 2, 3, 4, 5, 6, 9, 10, 18}) {
          const int64_t blocks = batch * splits * (shape.heads / heads);
          if (heads > shape.heads || splits * 64 > shape.keys() || blocks > 280 || blocks < 32) continue;
          const ca::HopperPlan plan{splits, heads};
          print(shape, batch, plan, decode.time(&plan));
        }
    }
}

// A few of them.
void time_some() {
  const std::pair<int, int64_t> some[] = {{0, 1},   {1, 1},   {1, 8}, {1, 32},
                                          {1, 128}, {4, 128}, {6, 1}, {6, 128}};
  for (const auto& [shape, batch] : some) {
    Decode decode(kShapes[shape], batch);
    const Time time = decode.time(nullptr);
    print(kShapes[shape], batch, decode.plan(), time);
  }
}

void profile_attention() {
  Decode(kShapes[4], 128).once();
  Decode(kShapes[1], 1).once();
}

void time_prepared() {
  constexpr int kCalls = 64;
  const Setting setting = setting_of("serving");
  for (const int64_t heads : {64, 128})
    for (const int64_t tokens : {1, 8, 32, 128, 1024}) {
      const auto size = static_cast<size_t>(tokens * heads * kDim);
      Device<uint16_t> q(size);
      Device<float> table(static_cast<size_t>(tokens * kRope / 2));
      std::vector<TokenPlace> at;
      for (int64_t t = 0; t < tokens; ++t) at.push_back({0, static_cast<int32_t>(t)});
      const Device<TokenPlace> places(at);
      fill(q.data, size, 4);
      MUST(cudaMemset(table.data, 0, table.count * 4));
      Device<float> ones(std::vector<float>(table.count, 1.0f));
      const View<const float, 2> sine{table.data, {tokens, kRope / 2}},
          cosine{ones.data, {tokens, kRope / 2}};
      const query_prepare::Problem problem{setting, heads, kDim, kRope, 1e-6f};
      const query_prepare::Args args{
          Tensor<3>(View<bf16, 3>{reinterpret_cast<bf16*>(q.data), {tokens, heads, kDim}}),
          {places.data, {tokens}},
          {cosine, sine},  // its own results come back
          {}};
      const Time t = time_graph(kCalls, [&](int, cudaStream_t stream) {
        Lane lane;
        lane.stream = stream;
        query_prepare::kCudaHopper.run(problem, args, lane);
      });
      std::printf("query_prepare %3d heads M=%-5d %8.2f us (%7.2f %7.2f)  bytes %6.2f\n", int(heads),
                  int(tokens), t.median, t.low, t.high, static_cast<double>(size) * 4 / kBytesPerMicrosecond);
    }
  for (const int64_t tokens : {1, 8, 32, 128, 1024, 4096}) {
    const KvRow row{LatentCache::kFp8, kDim - kRope, kRope};
    Device<uint16_t> kv(static_cast<size_t>(tokens * kDim));
    Device<float> table(static_cast<size_t>(tokens * kRope / 2)), weight(kDim);
    Device<std::byte> cache(static_cast<size_t>(row.cache_bytes(1, tokens)));
    std::vector<TokenPlace> at;
    for (int64_t t = 0; t < tokens; ++t) at.push_back({0, static_cast<int32_t>(t)});
    const Device<TokenPlace> places(at);
    fill(kv.data, kv.count, 6);
    fill(table.data, table.count, 7);
    fill(weight.data, weight.count, 8);
    const View<const float, 2> angles{table.data, {tokens, kRope / 2}};
    const kv_prepare::Problem problem{setting, kDim, kRope, 1e-6f, 1, tokens};
    const kv_prepare::Args args{Tensor<2>(View<bf16, 2>{reinterpret_cast<bf16*>(kv.data), {tokens, kDim}}),
                                {weight.data, {kDim}},
                                {places.data, {tokens}},
                                {angles, angles},
                                {row, {cache.data, {1, KvRow::blocks(tokens), row.block_bytes()}}}};
    const Time t = time_graph(kCalls, [&](int, cudaStream_t stream) {
      Lane lane;
      lane.stream = stream;
      kv_prepare::kCudaHopper.run(problem, args, lane);
    });
    std::printf("kv_prepare M=%-5d %8.2f us (%7.2f %7.2f)  bytes %6.2f\n", int(tokens), t.median, t.low,
                t.high, static_cast<double>(tokens) * (1024 + 584) / kBytesPerMicrosecond);
  }
}

}  // namespace fulgurite::probe
