// v4_steps_probe: the index of DeepSeek-V4, whose queries and keys are fp4 values in bf16.

#include "bench/cuda/v4_steps_probe.h"
#include "fulgurite/ops/index_select/index_select_audit.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare_audit.h"

namespace fulgurite::probe {
namespace {

// --- indexer_prepare ---

void prepare_there(const indexer_prepare::Problem& problem, const indexer_prepare::Args& args, const Lane&) {
  Twin& twin = *Twin::current;
  indexer_prepare::Args there = args;
  twin.move(there.q.data), twin.move(there.gate.data), twin.move(there.places.data);
  twin.move(there.table.cosine.data), twin.move(there.table.sine.data), twin.move(there.weights.data);
  twin.move(there.q_operand.data);
  twin.upload();
  indexer_prepare::kCudaHopper.run(problem, there, twin.lane(0));
  twin.download();
}
const indexer_prepare::Implementation kPrepare{"there", indexer_prepare::kCudaHopper.supports,
                                               no_workspace<indexer_prepare::Problem>, prepare_there};

void check_prepare(const char* numerics, int64_t tokens, int64_t heads, bool spoiled) {
  constexpr int64_t kPositions = 700;
  Twin twin(
      static_cast<size_t>(tokens * heads * 128 * 5 + tokens * heads * 16 + kPositions * 300 + (1 << 16)));
  Twin::current = &twin;
  indexer_prepare::Problem problem{
      cuda_setting(numerics), heads, 128, 64, rotary::Layout::kInterleaved, 2, kPositions, false, 64};
  Random random{static_cast<uint64_t>(tokens * 77 + heads)};
  indexer_prepare::Args args;
  const auto q = twin.tensor<3>(DType::kBF16, {tokens, heads, 128});
  fill(q, random);
  for (int64_t t = 0; spoiled && t < tokens; t += 3)
    for (int64_t i = 0; i < heads * 128; ++i)
      store(q,
            t % 9 == 0   ? 0.0f
            : t % 9 == 3 ? 1e-39f * float(i % 5)
            : i == 7     ? NAN
                         : 1e30f,
            t, i / 128, i % 128);
  args.q = q;
  const auto gate = twin.tensor<2>(DType::kF32, {tokens, heads}),
             cosine = twin.tensor<2>(DType::kF32, {kPositions, 32}),
             sine = twin.tensor<2>(DType::kF32, {kPositions, 32}),
             weights = twin.tensor<2>(DType::kF32, {tokens, heads});
  fill(gate, random), fill(cosine, random), fill(sine, random);
  TokenPlace* const places = twin.take<TokenPlace>(tokens);
  for (int64_t t = 0; t < tokens; ++t) places[t] = {0, static_cast<int32_t>(t * 13 % kPositions)};
  args.gate = gate.template as<float>();
  args.places = {places, {tokens}};
  args.table = {cosine.template as<float>(), sine.template as<float>()};
  args.weights = weights.template as<float>();
  args.q_operand = twin.tensor<3>(index_operand(problem.setting.numerics), {tokens, heads, 128});
  const std::string what =
      text("indexer_prepare %s tokens=%d heads=%d spoiled=%d", numerics, int(tokens), int(heads), spoiled);
  const Support refused = indexer_prepare::kCudaHopper.supports(problem);
  claim_together(!refused, what + ": " + (refused ? refused->reason : ""));
  if (!refused) judged(indexer_prepare::judge(kPrepare, problem, args, {}), what);
}

// --- index_select ---

// The case's own outputs: the judge asks a second time for others, which lie on the host alone.
thread_local const index_select::Args* own_outputs = nullptr;

void select_there(const index_select::Problem& problem, const index_select::Args& args, const Lane&) {
  Twin& twin = *Twin::current;
  index_select::Args there = args;
  there.selected = own_outputs->selected;
  if (args.scores) there.scores = own_outputs->scores;
  const index_select::Args here = there;
  twin.move(there.q.data), twin.move(there.weights.data), twin.move(there.key_cache.keys.data);
  twin.move(there.places.data), twin.move(there.selected.data), twin.move(there.scores.data);
  twin.upload();
  index_select::kCudaHopper.run(problem, there,
                                twin.lane(index_select::kCudaHopper.workspace_bytes(problem, 1)));
  twin.download();
  if (args.selected.data != here.selected.data)
    std::copy_n(here.selected.data, here.selected.size(), args.selected.data);
  if (args.scores.data != here.scores.data)
    std::copy_n(here.scores.data, here.scores.size(), args.scores.data);
}
const index_select::Implementation kSelect{"there", index_select::kCudaHopper.supports,
                                           no_workspace<index_select::Problem>, select_there};

struct SelectCase {
  const char* numerics;
  int64_t tokens, heads, sequences, first, context, topk;
  int what;  // of values: 0 normal, 1 coarse, so that scores tie, 2 with NaN
};

void check_select(const SelectCase& c) {
  Twin twin(static_cast<size_t>(c.tokens * c.heads * 300 + c.sequences * c.context * 256 +
                                c.tokens * (c.context + c.topk) * 4 + (1 << 16)));
  Twin::current = &twin;
  index_select::Problem problem{
      cuda_setting(c.numerics), c.heads, 128, c.topk, c.sequences, c.context, c.tokens, 4};
  problem.setting.target.multiprocessors = 132;
  Random random{static_cast<uint64_t>(c.tokens * 77 + c.heads + c.context)};
  index_select::Args args;
  const auto q = twin.tensor<3>(DType::kBF16, {c.tokens, c.heads, 128}),
             keys = twin.tensor<3>(DType::kBF16, {c.sequences, c.context, 128});
  const auto weights = twin.tensor<2>(DType::kF32, {c.tokens, c.heads});
  fill(q, random), fill(keys, random), fill(weights, random);
  const auto coarse = [&](const auto& tensor, int64_t count) {
    auto* const values = reinterpret_cast<bf16*>(tensor.data);
    for (int64_t i = 0; i < count; ++i)
      values[i] = to_bf16(i % 128 < 2 ? std::nearbyint(to_float(values[i])) : 0.0f);
  };
  if (c.what == 1) coarse(q, c.tokens * c.heads * 128), coarse(keys, c.sequences * c.context * 128);
  for (int64_t s = 3; c.what == 2 && s < c.context; s += 7)
    store(keys, s % 2 == 0 ? NAN : INFINITY, int64_t{0}, s, s % 128);
  TokenPlace* const places = twin.take<TokenPlace>(c.tokens);
  for (int64_t t = 0; t < c.tokens; ++t) {
    const int64_t s = t * c.sequences / c.tokens;
    places[t] = {static_cast<int32_t>((s + 1) % c.sequences),
                 static_cast<int32_t>(std::min(c.first + t * 3, c.context * 4 - 1))};
  }
  args.q = q;
  args.weights = weights.template as<float>();
  args.key_cache.keys = keys;
  args.places = {places, {c.tokens}};
  args.selected = {twin.take<int32_t>(c.tokens * c.topk), {c.tokens, c.topk}};
  args.scores = {twin.take<float>(c.tokens * c.context), {c.tokens, c.context}};
  const std::string what = text(
      "index_select %s tokens=%d heads=%d sequences=%d first=%d context=%d topk=%d values=%d", c.numerics,
      int(c.tokens), int(c.heads), int(c.sequences), int(c.first), int(c.context), int(c.topk), c.what);
  const index_select::Args outputs = args;
  own_outputs = &outputs;
  const Support refused = index_select::kCudaHopper.supports(problem);
  claim_together(!refused, what + ": " + (refused ? refused->reason : ""));
  if (refused) return;
  judged(index_select::judge(kSelect, index_select::kCudaHopper.states(problem), args, {}), what);
  const std::vector<int32_t> chosen(args.selected.data, args.selected.data + args.selected.size());
  args.scores = {};
  int differ = 0;
  for (int i = 0; i < (c.tokens == 16 ? 1000 : 2); ++i) {
    std::fill_n(args.selected.data, args.selected.size(), 7);
    select_there(problem, args, {});
    differ += !std::equal(chosen.begin(), chosen.end(), args.selected.data);
  }
  claim_together(differ == 0, what + text(": %d launches choose others", differ));
}

}  // namespace

void run_small_index() {
  check_prepare("serving,index_quant=fp4", 7, 8, false);
  check_select({"serving,index_quant=fp4", 7, 64, 1, 0, 33, 32, 1});
  check_select({"serving,index_quant=none", 2, 8, 1, 600, 200, 64, 0});
  report_outputs("index, small");
}

void check_index() {
  for (const char* numerics :
       {"serving,index_quant=fp4", "serving,index_quant=fp4,gate=fp32", "serving,index_quant=fp8"})
    for (const int64_t tokens : {0, 1, 2, 7, 16, 130, 300})
      for (const int64_t heads : {8, 64}) check_prepare(numerics, tokens, heads, tokens > 7);
  report_outputs("indexer_prepare");
  std::vector<SelectCase> cases;
  for (const int64_t heads : {8, 16, 32, 64})
    for (const int64_t tokens : {0, 1, 2, 7, 16, 130})
      for (const int64_t sequences : {1, 3})
        for (const int64_t context : {33, 200, 700})
          for (const int what : {0, 1, 2}) {
            if (tokens < sequences && tokens != 0) continue;
            if (heads > 8 && (context == 200 || tokens == 7 || what == 2 || (tokens > 16 && context > 33)))
              continue;
            cases.push_back({what == 0 ? "serving,index_quant=none" : "serving,index_quant=fp4", tokens,
                             heads, sequences, what == 1 ? 0 : context * 3, context, what == 1 ? 32 : 64,
                             what});
          }
  cases.push_back({"serving,index_quant=fp4", 1, 64, 1, 79999, 20000, 512, 0});
  cases.push_back({"serving,index_quant=fp4", 2, 64, 2, 19990, 5000, 512, 1});
  parallel(static_cast<int>(cases.size()), [&](int i) { check_select(cases[cases.size() - 1 - size_t(i)]); });
  report_outputs("index_select");
}

namespace {

void time_select(int64_t tokens, int64_t sequences, int64_t entries) {
  index_select::Problem problem{
      cuda_setting("serving,index_quant=fp4"), 64, 128, 512, sequences, entries, tokens, 4};
  problem.setting.target.multiprocessors = 132;
  const auto count = [](int64_t n) { return static_cast<size_t>(n); };
  uint16_t *q, *keys;
  float* weights;
  TokenPlace* places;
  int32_t* selected;
  std::byte* workspace;
  const auto bytes = count(index_select::kCudaHopper.workspace_bytes(problem, 1));
  const int sets =
      static_cast<int>(std::clamp<int64_t>((int64_t{200} << 20) / (sequences * entries * 256), 1, 32));
  MUST(cudaMalloc(&q, count(tokens * 64 * 128 * 2)));
  MUST(cudaMalloc(&keys, count(sets * sequences * entries * 256)));
  MUST(cudaMalloc(&weights, count(tokens * 64 * 4)));
  MUST(cudaMalloc(&places, count(tokens * 8)));
  MUST(cudaMalloc(&selected, count(tokens * 512 * 4)));
  MUST(cudaMalloc(&workspace, bytes));
  fill(q, count(tokens * 64 * 128), 1), fill(keys, count(sets * sequences * entries * 128), 2),
      fill(weights, count(tokens * 64), 3);
  std::vector<TokenPlace> host;
  for (int64_t t = 0; t < tokens; ++t)
    host.push_back({static_cast<int32_t>(t * sequences / tokens),
                    static_cast<int32_t>(4 * entries - tokens / sequences + t % (tokens / sequences))});
  MUST(cudaMemcpy(places, host.data(), host.size() * 8, cudaMemcpyHostToDevice));
  index_select::Args args;
  args.q = View<const bf16, 3>(reinterpret_cast<const bf16*>(q), {tokens, 64, 128});
  args.weights = {weights, {tokens, 64}};
  args.places = {places, {tokens}};
  args.selected = {selected, {tokens, 512}};
  Lane lane;
  lane.workspace = {workspace, bytes};
  const Time time = time_graph(std::max(sets, 4), [&](int i, cudaStream_t stream) {
    lane.stream = stream;
    args.key_cache.keys =
        View<const bf16, 3>(reinterpret_cast<const bf16*>(keys) + i % sets * sequences * entries * 128,
                            {sequences, entries, 128});
    index_select::kCudaHopper.run(problem, args, lane);
  });
  const double floor = std::max(double(sequences * entries) * 256 / 3.11e6,
                                double(tokens) * double(entries) * 64 * 256 / 660e6);
  std::printf("index_select bf16 keys, %d sequences of %d entries, tokens %d: %.2f us, floor %.2f\n",
              int(sequences), int(entries), int(tokens), time.median, floor);
  std::fflush(stdout);
  for (void* memory :
       {static_cast<void*>(q), static_cast<void*>(keys), static_cast<void*>(weights),
        static_cast<void*>(places), static_cast<void*>(selected), static_cast<void*>(workspace)})
    cudaFree(memory);
}

void time_prepare(int64_t tokens) {
  const indexer_prepare::Problem problem{
      cuda_setting("serving,index_quant=fp4"), 64, 128, 64, rotary::Layout::kInterleaved, 1, 4096, false, 64};
  const Device<uint16_t> q(static_cast<size_t>(tokens * 64 * 128)),
      operand(static_cast<size_t>(tokens * 64 * 128));
  const Device<float> gate(static_cast<size_t>(tokens * 64)), weights(static_cast<size_t>(tokens * 64)),
      table(4096 * 32);
  const Device<TokenPlace> places(std::vector<TokenPlace>(static_cast<size_t>(tokens), TokenPlace{0, 77}));
  fill(q.data, q.count, 3), fill(gate.data, gate.count, 4), fill(table.data, table.count, 5);
  indexer_prepare::Args args;
  args.q = View<const bf16, 3>(reinterpret_cast<const bf16*>(q.data), {tokens, 64, 128});
  args.gate = {gate.data, {tokens, 64}};
  args.places = {places.data, {tokens}};
  args.table = {{table.data, {4096, 32}}, {table.data, {4096, 32}}};
  args.weights = {weights.data, {tokens, 64}};
  args.q_operand = View<bf16, 3>(reinterpret_cast<bf16*>(operand.data), {tokens, 64, 128});
  Lane lane;
  const Time time = time_graph(32, [&](int, cudaStream_t stream) {
    lane.stream = stream;
    indexer_prepare::kCudaHopper.run(problem, args, lane);
  });
  std::printf("indexer_prepare fp4 queries, tokens %d: %.2f us, floor %.2f\n", int(tokens), time.median,
              double(tokens) * 64 * 128 * 4 / 3.11e6);
  std::fflush(stdout);
}

}  // namespace

void time_index() {
  for (const int64_t tokens : {1, 16, 512}) time_prepare(tokens);
  for (const int64_t entries : {2048, 16384}) {
    time_select(1, 1, entries);
    time_select(8, 8, entries);
    time_select(512, 1, entries);
  }
}

}  // namespace fulgurite::probe
