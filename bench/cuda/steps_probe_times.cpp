// Times of the rows, in graphs of many calls whose launches are dependent: a time includes one edge.

#include <algorithm>
#include <chrono>
#include <functional>
#include <set>

#include "bench/cuda/steps_probe.h"
#include "fulgurite/ops/embedding/embedding.h"
#include "fulgurite/ops/experts/experts.h"
#include "fulgurite/ops/latent_prepare/latent_prepare.h"
#include "fulgurite/ops/norm/norm.h"
#include "fulgurite/ops/rotary/rotary.h"
#include "fulgurite/ops/router/router.h"

namespace fulgurite::probe {
namespace {

constexpr double kBytesPerMicrosecond = 3.11e6;

struct Time {
  double median, low, high;
};

Time time_graph(int calls, const std::function<void(int, const cudaStream_t)>& call, int replays = 21,
                int warm_ms = 25) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  cudaEvent_t begin, end;
  MUST(cudaStreamCreate(&stream));
  MUST(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < calls; ++i) call(i, stream);
  MUST(cudaStreamEndCapture(stream, &graph));
  MUST(cudaGraphInstantiate(&exec, graph, 0));
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
  do replay();
  while (std::chrono::steady_clock::now() - start < std::chrono::milliseconds(warm_ms));
  std::vector<double> times;
  for (int i = 0; i < replays; ++i) times.push_back(replay());
  std::sort(times.begin(), times.end());
  MUST(cudaGraphExecDestroy(exec));
  MUST(cudaGraphDestroy(graph));
  MUST(cudaStreamDestroy(stream));
  return {times[times.size() / 2], times[times.size() / 10], times[times.size() * 9 / 10]};
}

void print(const char* what, int tokens, const Time& time, double bytes) {
  std::printf("%-34s M=%-5d %9.2f us (%8.2f, %8.2f)  floor %8.2f\n", what, tokens, time.median, time.low,
              time.high, bytes / kBytesPerMicrosecond);
  std::fflush(stdout);
}

// Memory of the device, filled by copies of some random bytes.
struct Pool {
  std::byte* data = nullptr;
  size_t size;
  template <class Make>
  Pool(size_t bytes, const Make& make) : size(bytes) {
    MUST(cudaMalloc(&data, size));
    std::vector<decltype(make())> block((std::min(size, size_t{16} << 20)) / sizeof(make()) + 1);
    for (auto& value : block) value = make();
    const size_t piece = block.size() * sizeof(block[0]);
    MUST(cudaMemcpy(data, block.data(), std::min(piece, size), cudaMemcpyHostToDevice));
    for (size_t at = piece; at < size; at += piece)
      MUST(cudaMemcpy(data + at, data, std::min(piece, size - at), cudaMemcpyDeviceToDevice));
  }
  Pool(const Pool&) = delete;
  ~Pool() { cudaFree(data); }
  template <class T>
  T* at(size_t index) const {
    return reinterpret_cast<T*>(data) + index;
  }
};

struct Pools {
  Random random{1};
  Pool activations{size_t{300} << 20, [this] { return to_bf16(random.normal()); }};
  Pool floats{size_t{64} << 20, [this] { return random.normal(); }};
  Pool out{size_t{256} << 20, [] { return uint8_t{0}; }};

  Tensor<2> tensor(const Pool& pool, size_t first, int64_t rows, int64_t columns) const {
    return View<bf16, 2>(pool.at<bf16>(first), {rows, columns});
  }
};

void time_norm(const Pools& p, int64_t width, int tokens, const norm::Implementation& row) {
  const norm::Problem problem{setting_of("serving"), width, 1e-6f};
  const bool slow = &row == &norm::kCuda;
  const Time time = time_graph(
      slow ? 1 : 64,
      [&](int i, cudaStream_t stream) {
        const size_t step = static_cast<size_t>(tokens * width),
                     set = step * static_cast<size_t>(tokens > 512 ? 0 : i % 4) * 4;
        norm::Args args;
        args.x = p.tensor(p.activations, set, tokens, width);
        args.added = p.tensor(p.activations, set + step, tokens, width);
        args.weight = {p.floats.at<float>(0), {width}};
        args.sum = p.tensor(p.activations, set + 2 * step, tokens, width);
        args.out = p.tensor(p.activations, set + 3 * step, tokens, width);
        Lane lane;
        lane.stream = stream;
        row.run(problem, args, lane);
      },
      slow ? 3 : 21, slow ? 1 : 25);
  print(text("norm %d, residual [%s]", int(width), row.name).c_str(), tokens, time,
        tokens * width * 8.0 + 4.0 * width);
}

void time_latent(const Pools& p, int tokens) {
  const latent_prepare::Problem problem{setting_of("serving"), 512, 64, 1e-6f, 1, 65536};
  std::vector<TokenPlace> places;
  for (int t = 0; t < 65536; ++t) places.push_back({0, static_cast<int32_t>(int64_t{t} * 40503 % 65536)});
  TokenPlace* there = p.out.at<TokenPlace>(size_t{200} << 17);
  MUST(cudaMemcpy(there, places.data(), places.size() * sizeof(TokenPlace), cudaMemcpyHostToDevice));
  const Time time = time_graph(64, [&](int i, cudaStream_t stream) {
    latent_prepare::Args args;
    args.kv =
        p.tensor(p.activations, static_cast<size_t>(tokens * 576) * static_cast<size_t>(i % 4), tokens, 576);
    args.weight = {p.floats.at<float>(0), {512}};
    args.places = {there + i * 131 % (65536 - tokens + 1), {tokens}};
    args.table = {{p.floats.at<float>(4096), {65536, 32}},
                  {p.floats.at<float>(4096 + 65536 * 32), {65536, 32}}};
    args.cache = {latent_prepare::row_of(problem), {p.out.data, {1, 65536, 656}}};
    Lane lane;
    lane.stream = stream;
    latent_prepare::kCudaHopper.run(problem, args, lane);
  });
  print("latent_prepare, fp8 rows", tokens, time, tokens * (1152 + 656 + 256 + 8.0) + 2048);
}

void time_rotary(const Pools& p, int tokens, rotary::Layout layout) {
  const rotary::Problem problem{setting_of("serving"), layout, 128, 64, 65536};
  TokenPlace* there = p.out.at<TokenPlace>(size_t{200} << 17);
  const Time time = time_graph(64, [&](int i, cudaStream_t stream) {
    rotary::Args args;
    args.x.data = reinterpret_cast<std::byte*>(p.activations.at<bf16>(128));
    args.x.dtype = DType::kBF16;
    args.x.extent = {tokens, 128, 64};
    args.x.stride = {128 * 192, 192, 1};
    args.places = {there + i * 131 % (65536 - tokens + 1), {tokens}};
    args.table = {{p.floats.at<float>(4096), {65536, 32}},
                  {p.floats.at<float>(4096 + 65536 * 32), {65536, 32}}};
    Lane lane;
    lane.stream = stream;
    rotary::kCudaHopper.run(problem, args, lane);
  });
  print(
      layout == rotary::Layout::kInterleaved ? "rotary 128 x 64, interleaved" : "rotary 128 x 64, half-split",
      tokens, time, tokens * (128 * 64 * 4 + 256 + 8.0));
}

void time_embedding(const Pools& p, int tokens) {
  PreparedMatrix table;
  table.out = 20000, table.in = 7168;
  table.as = View<const bf16, 2>(p.activations.at<bf16>(0), {20000, 7168});
  const embedding::Problem problem{setting_of("serving"), 20000, 7168, format_of(table)};
  std::vector<int32_t> ids;
  Random random{3};
  for (int i = 0; i < 64 * tokens; ++i) ids.push_back(random.below(20000));
  int32_t* there = p.out.at<int32_t>(size_t{200} << 18);
  MUST(cudaMemcpy(there, ids.data(), ids.size() * 4, cudaMemcpyHostToDevice));
  const Time time = time_graph(64, [&](int i, cudaStream_t stream) {
    Lane lane;
    lane.stream = stream;
    embedding::kCudaHopper.run(
        problem, {{there + i * tokens, {tokens}}, &table, p.tensor(p.out, 0, tokens, 7168)}, lane);
  });
  print("embedding 7168", tokens, time, tokens * 7168 * 4.0);
}

void time_router(const Pools& p, int tokens, bool wide) {
  router::Problem problem{setting_of("serving"), 7168, 256, 8, 4, 8, 2.5f, {}};
  PreparedMatrix probe;
  probe.out = 256, probe.in = 7168;
  const size_t elements = size_t{256} * 7168;
  const int sets = wide ? 8 : 60;  // of weights: memory, or the second level where fp32
  std::vector<PreparedMatrix> weights(static_cast<size_t>(sets), probe);
  for (int i = 0; i < sets; ++i) {
    if (wide)
      weights[static_cast<size_t>(i)].as =
          View<const float, 2>(p.floats.at<float>(elements * size_t(i)), {256, 7168});
    else
      weights[static_cast<size_t>(i)].as =
          View<const bf16, 2>(p.activations.at<bf16>(elements * size_t(i)), {256, 7168});
  }
  problem.weight = format_of(weights[0]);
  const Workspace workspace(router::kCudaHopper.workspace_bytes(problem, 1));
  const Time time = time_graph(60, [&](int i, cudaStream_t stream) {
    router::Args args{p.tensor(p.activations, elements * 62, tokens, 7168),
                      &weights[static_cast<size_t>(i % sets)],
                      {p.floats.at<float>(0), {256}},
                      {p.out.at<int32_t>(0), {tokens, 8}},
                      {p.out.at<float>(1 << 20), {tokens, 8}}};
    router::kCudaHopper.run(problem, args, workspace.lane(stream));
  });
  print(wide ? "router 256 of 7168, fp32 weight" : "router 256 of 7168, bf16 weight", tokens, time,
        elements * (wide ? 4.0 : 2.0) + tokens * 7168 * 2.0);
}

// --- experts ---

struct Model {
  const char* what;
  int64_t hidden, width, experts, chosen;
  bool fp4;
  bool dense;
};

PreparedMatrix matrix_at(const Pool& codes, const Pool& scales, size_t& at, size_t& scale_at, int64_t out,
                         int64_t in, bool fp4) {
  PreparedMatrix m;
  m.out = out, m.in = in;
  if (fp4) {
    m.as = Mxfp4{{codes.at<e2m1x2>(at), {out, in / 2}}, {scales.at<e8m0>(scale_at), {out, in / 32}}};
    at += static_cast<size_t>(out * in / 2);
    scale_at += static_cast<size_t>(out * in / 32);
  } else {
    BlockScaled blocks{{codes.at<e4m3>(at), {out, in}}, {}, {128, 128}, ScaleFormat::kE8M0};
    blocks.exponents = {scales.at<e8m0>(scale_at), {(out + 127) / 128, (in + 127) / 128}};
    m.as = blocks;
    at += static_cast<size_t>(out * in);
    scale_at += static_cast<size_t>((out + 127) / 128 * ((in + 127) / 128) + 15) / 16 * 16;
  }
  return m;
}

void time_model(const Pools& p, const Model& model, const Pool& codes, const Pool& scales,
                const std::vector<int>& batches) {
  size_t at = 0, scale_at = 0;
  std::vector<experts::Mlp> routed;
  const auto mlp = [&](bool fp4) {
    const auto next = [&](int64_t out, int64_t in) {
      return matrix_at(codes, scales, at, scale_at, out, in, fp4);
    };
    experts::Mlp one;
    one.gate = next(model.width, model.hidden);
    one.up = next(model.width, model.hidden);
    one.down = next(model.hidden, model.width);
    return one;
  };
  for (int64_t e = 0; e < model.experts; ++e) routed.push_back(mlp(model.fp4));
  const experts::Mlp shared = mlp(false);
  experts::Problem problem;
  problem.setting = setting_of("serving");
  problem.hidden = model.hidden, problem.experts = model.experts, problem.experts_per_token = model.chosen;
  problem.width = model.experts > 0 ? model.width : 0, problem.shared_width = model.width;
  if (model.experts > 0) problem.weight = format_of(routed[0].gate);
  problem.shared_weight = format_of(shared.gate);
  problem.largest_batch = 512;
  const Workspace workspace(experts::kCudaHopper.workspace_bytes(problem, 1));
  for (const int tokens : batches) {
    const int calls = model.experts > 0 ? 6 : 12;
    Random random{static_cast<uint64_t>(tokens)};
    std::vector<int32_t> ids;
    double read = 0;
    const double of_expert = 3.0 * static_cast<double>(model.width * model.hidden);
    for (int call = 0; call < calls; ++call) {
      std::set<int32_t> distinct;
      for (int t = 0; t < tokens && model.experts > 0; ++t) {
        std::set<int32_t> own;
        while (own.size() < static_cast<size_t>(model.chosen))
          own.insert(random.below(static_cast<int>(model.experts)));
        ids.insert(ids.end(), own.begin(), own.end());
        distinct.insert(own.begin(), own.end());
      }
      read +=
          static_cast<double>(distinct.size()) * of_expert * (model.fp4 ? 0.5 + 1.0 / 32 : 1.0) + of_expert;
    }
    int32_t* const there = p.out.at<int32_t>(size_t{200} << 18);
    if (!ids.empty()) MUST(cudaMemcpy(there, ids.data(), ids.size() * 4, cudaMemcpyHostToDevice));
    const Time time = time_graph(
        calls,
        [&](int i, cudaStream_t stream) {
          experts::Args args;
          args.x = p.tensor(p.activations, 0, tokens, model.hidden);
          if (model.experts > 0) {
            args.expert_ids = {there + int64_t{i} * tokens * model.chosen, {tokens, model.chosen}};
            args.expert_weights = {p.floats.at<float>(0), {tokens, model.chosen}};
          }
          args.experts = routed;
          args.shared = &shared;
          args.out = p.tensor(p.out, 0, tokens, model.hidden);
          experts::kCudaHopper.run(problem, args, workspace.lane(stream));
        },
        7, 10);
    print(model.what, tokens, time, read / calls);
  }
}

}  // namespace

void time_steps() {
  const Pools p;
  for (const int tokens : {1, 4, 8, 9, 16, 32, 64, 512, 2048}) time_norm(p, 7168, tokens, norm::kCudaHopper);
  time_norm(p, 7168, 16, norm::kCuda);
  for (const int tokens : {1, 16}) time_norm(p, 1536, tokens, norm::kCudaHopper);
  for (const int tokens : {1, 4, 16, 64, 512, 4096}) time_latent(p, tokens);
  for (const int tokens : {1, 16, 64, 512}) time_rotary(p, tokens, rotary::Layout::kInterleaved);
  for (const int tokens : {1, 16}) time_rotary(p, tokens, rotary::Layout::kHalfSplit);
  for (const int tokens : {1, 16, 512}) time_embedding(p, tokens);
  for (const int tokens : {1, 4, 8, 9, 16, 64, 512}) time_router(p, tokens, false);
  for (const int tokens : {1, 16}) time_router(p, tokens, true);
}

void time_experts() {
  const Pools p;
  Random random{9};
  const Pool codes(size_t{258} * 3 * 2048 * 7168, [&] {
    const auto code = static_cast<uint8_t>(random.bits());
    return static_cast<uint8_t>((code & 0x7F) == 0x7F ? code ^ 1 : code);
  });
  const Pool scales(size_t{512} << 20, [&] { return static_cast<uint8_t>(110 + random.below(3)); });
  time_model(p, {"experts 2 of 8 + 1, fp8, 384", 384, 128, 8, 2, false, false}, codes, scales, {1, 16, 64});
  time_model(p, {"experts 8 of 256 + 1, fp8, 7168", 7168, 2048, 256, 8, false, false}, codes, scales,
             {1, 2, 4, 8, 16, 32, 64, 256});
  time_model(p, {"experts 6 of 256 + 1, fp4, 4096", 4096, 2048, 256, 6, true, false}, codes, scales,
             {1, 4, 16, 64});
  time_model(p, {"dense 7168 x 18432, fp8", 7168, 18432, 0, 0, false, true}, codes, scales, {1, 8, 16, 64});
}

}  // namespace fulgurite::probe
