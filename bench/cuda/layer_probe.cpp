// One layer's attention block at decode, as a session runs it: planned rows of a model of real dimensions, caches in shuffled
// pages, random values, passes recorded once and replayed. Times each stage, the indexer with attention, and the whole block.
//
//   layer_probe CONFIG [context]       link with a build of FULGURITE_CUDA (bench/replay_cuda.cu too)
//
// Four layers, each with weights and caches of its own, follow one another: what a layer reads is not in the L2 cache. A number is
// microseconds a layer: median (p10, p90) of the replays.

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <numeric>
#include <random>
#include <set>

#include "bench/replay.h"
#include "fulgurite/core/element.h"
#include "fulgurite/cuda/device.h"
#include "fulgurite/execute/latent_attention.h"
#include "fulgurite/model/bind.h"
#include "fulgurite/model/config.h"
#include "fulgurite/plan/conductor.h"
#include "fulgurite/plan/counts.h"

namespace fulgurite {
namespace {

constexpr int64_t kLayers = 4;

// Runs the operations whose names it knows, and leaves out the others.
class Only : public plan::Conductor {
 public:
  Only(const plan::Plan& plan, std::set<std::string> operations)
      : plan_(plan), operations_(std::move(operations)) {}
  void run(const plan::AnyCall& call) override {
    std::visit(
        [&](const auto* typed) {
          if (operations_.contains(plan_.rows[static_cast<size_t>(typed->row)].operation)) typed->run();
        },
        call);
  }

 private:
  const plan::Plan& plan_;
  std::set<std::string> operations_;
};

// Random memory of the device; buffers live as long as the probe.
class Source {
 public:
  Source(const Memory& memory, void* stream) : memory_(memory), stream_(stream) {
    std::mt19937_64 random(7);
    std::normal_distribution<float> normal;
    for (bf16& x : values_) x = to_bf16(0.05f * normal(random));
    for (float& x : floats_) x = std::abs(normal(random)) * 0.01f + 0.01f;
    const auto code = [&] {  // no NaN
      const auto x = static_cast<uint8_t>(random());
      return static_cast<uint8_t>((x & 0x7F) > 0x70 ? x & 0x8F : x);
    };
    std::ranges::generate(codes_, code);
    std::ranges::generate(latent_rows_, code);
    std::ranges::generate(index_pages_, code);
    for (size_t row = 0; row < latent_rows_.size(); row += 656) {
      const float scales[4] = {0.0625f, 0.125f, 0.0625f, 0.03125f};
      std::memcpy(&latent_rows_[row + 512], scales, sizeof scales);
      std::memcpy(&latent_rows_[row + 528], &values_[row % 4096], 128);
    }
    for (size_t page = 0; page < index_pages_.size(); page += 8448)
      std::memcpy(&index_pages_[page + 8192], &floats_[page % 65536], 256);
  }
  const bf16* values(int64_t count) { return fill(values_, count); }
  const float* floats(int64_t count) { return fill(floats_, count); }
  const uint8_t* codes(int64_t count) { return fill(codes_, count); }
  std::byte* latent_rows(int64_t bytes) { return bytes_of(fill(latent_rows_, bytes)); }
  std::byte* index_pages(int64_t bytes) { return bytes_of(fill(index_pages_, bytes)); }
  std::byte* zeros(int64_t bytes) { return buffers_.emplace_back(memory_, bytes).data(); }

  PreparedMatrix matrix(const MatrixFormat& format, int64_t out, int64_t in) {
    if (format.form == MatrixForm::kBF16) return {View<const bf16, 2>(values(out * in), {out, in}), out, in};
    FULGURITE_ASSERT(format.form == MatrixForm::kE4M3Blocks && format.scale == ScaleFormat::kF32, "{}",
                     describe(format));
    const auto blocks = [](int64_t n, int64_t block) { return (n + block - 1) / block; };
    const std::array<int64_t, 2> scales{blocks(out, format.block.rows), blocks(in, format.block.columns)};
    return {BlockScaled{{reinterpret_cast<const e4m3*>(codes(out * in)), {out, in}},
                        {floats(scales[0] * scales[1]), scales},
                        format.block},
            out, in};
  }
  View<const float, 1> vector(int64_t size) { return {floats(size), {size}}; }

 private:
  static std::byte* bytes_of(const uint8_t* data) {
    return reinterpret_cast<std::byte*>(const_cast<uint8_t*>(data));
  }

  template <class T>
  const T* fill(const std::vector<T>& pattern, int64_t count) {
    std::byte* const to = zeros(count * static_cast<int64_t>(sizeof(T)));
    const auto part = static_cast<int64_t>(pattern.size());
    for (int64_t at = 0; at < count; at += part)
      memory_.write(to + at * static_cast<int64_t>(sizeof(T)), pattern.data(),
                    std::min(part, count - at) * static_cast<int64_t>(sizeof(T)), stream_);
    return reinterpret_cast<const T*>(to);
  }

  const Memory& memory_;
  void* stream_;
  std::vector<bf16> values_ = std::vector<bf16>((1 << 22) + 1031);
  std::vector<float> floats_ = std::vector<float>((1 << 20) + 1031);
  std::vector<uint8_t> codes_ = std::vector<uint8_t>((1 << 23) + 1031);
  std::vector<uint8_t> latent_rows_ = std::vector<uint8_t>(656 * 8209);
  std::vector<uint8_t> index_pages_ = std::vector<uint8_t>(8448 * 521);
  std::vector<Buffer> buffers_;
};

plan::PreparedLayer weights_of(const plan::LayerPlan& layer, Source& from) {
  const plan::LatentAttentionPlan& p = *layer.attention;
  const auto linear = [&](const plan::LinearStep& step) {
    return from.matrix(step.problem.weight, step.problem.out, step.problem.in);
  };
  plan::PreparedLayer w;
  w.attention_norm = from.vector(layer.attention_site.norm.problem.width);
  if (p.qkv_a) {
    w.qkv_a = linear(*p.qkv_a);
  } else {
    w.q_a = linear(p.q_a);
    w.kv_a = linear(p.kv_a);
  }
  w.q_a_norm = from.vector(p.q_a_norm.problem.width);
  w.q_b = linear(p.q_b);
  w.kv_a_norm = from.vector(p.latent.problem.latent);
  const head_projection::Problem& kv_b = p.absorbed->query.problem;
  w.kv_b = from.matrix(kv_b.weight, kv_b.heads * kv_b.rows_per_head, kv_b.latent);
  w.o = linear(p.o);
  w.index_q = linear(p.indexer->q);
  const indexer_projection::Problem& projection = p.indexer->projection.problem;
  w.index_k = from.matrix(projection.wk, projection.head_dim, projection.hidden);
  w.index_gate = from.matrix(projection.gate_weight, projection.heads, projection.hidden);
  w.index_k_norm_weight = from.vector(projection.head_dim);
  w.index_k_norm_bias = from.vector(projection.head_dim);
  return w;
}

execute::LayerCaches caches_of(const plan::Plan& plan, View<const int32_t, 2> table, Source& from) {
  const plan::Caches& c = plan.caches;
  const CachePages pages{c.page_tokens, table};
  const int64_t row = c.latent_row.bytes(), dim = plan.config.index_dim, page = c.page_tokens * (dim + 4);
  execute::LayerCaches caches;
  caches.latent = {
      c.latent_row, {from.latent_rows(c.pages * c.page_tokens * row), {c.pages, c.page_tokens, row}}, pages};
  std::byte* const keys = from.index_pages(c.pages * page);
  caches.index.pages = pages;
  caches.index.keys.data = keys;
  caches.index.keys.dtype = DType::kF8_E4M3;
  caches.index.keys.extent = {c.pages, c.page_tokens, dim};
  caches.index.keys.stride = {page, dim, 1};
  caches.index.scales = {
      reinterpret_cast<float*>(keys + c.page_tokens * dim), {c.pages, c.page_tokens}, {page / 4, 1}};
  return caches;
}

struct Stage {
  const char* name;
  std::set<std::string> operations;  // empty: all
};

const Stage kStages[] = {
    {"norms, RoPE, latent row", {"norm attention", "norm q_a", "rotary q", "latent_prepare"}},
    {"linear q_a, kv_a", {"linear qkv_a", "linear q_a", "linear kv_a"}},
    {"linear q_b", {"linear q_b"}},
    {"linear index_q", {"linear index_q"}},
    {"indexer_projection", {"indexer_projection"}},
    {"indexer_prepare", {"indexer_prepare"}},
    {"index_select", {"index_select"}},
    {"W_UK", {"head_projection query"}},
    {"sparse_attention", {"sparse_attention"}},
    {"W_UV", {"head_projection value"}},
    {"linear o", {"linear o"}},
    {"indexer and attention",
     {"norm attention", "norm q_a", "rotary q", "latent_prepare", "linear index_q", "indexer_projection",
      "indexer_prepare", "index_select", "sparse_attention"}},
    {"the whole block", {}},
};

struct Times {
  double median, low, high;
};
Times times_of(std::vector<double> seconds) {
  std::ranges::sort(seconds);
  const auto at = [&](double share) {
    return seconds[static_cast<size_t>(share * static_cast<double>(seconds.size() - 1))] * 1e6 / kLayers;
  };
  return {at(0.5), at(0.1), at(0.9)};
}

void time_batch(const model::Model& model, const Device& gpu, int64_t batch, int64_t context) {
  plan::Options options;
  options.context = context;
  options.sequences = options.chunk_tokens = batch;
  const plan::Plan plan = plan::make(model, gpu, options);
  const Accelerator& accelerator = *gpu.accelerator;
  void* const stream = accelerator.open_stream();
  Source source(*accelerator.own, stream);
  std::byte* const arena = source.zeros(plan.activations.total);
  const Buffer staged(*accelerator.shared, plan.activations.inputs);
  const execute::PassInputs inputs = execute::cut_inputs(plan, staged.data());
  std::vector<int32_t> pages(static_cast<size_t>(plan.caches.pages));
  std::iota(pages.begin(), pages.end(), 0);
  std::ranges::shuffle(pages, std::mt19937(11));
  std::ranges::copy(pages, inputs.page_table.data);
  for (int64_t t = 0; t < batch; ++t)
    inputs.places(t) = {static_cast<int32_t>(t), static_cast<int32_t>(context - 1)};
  accelerator.own->copy(arena, staged.data(), plan.activations.inputs, stream);
  const execute::Activations at = execute::cut(plan, arena, batch);
  const int64_t row = plan.config.hidden;
  for (const Tensor<2>& x : {at.stream, at.block})
    accelerator.own->copy(x.data, source.values(batch * row), batch * row * 2, stream);
  const rotary::Table rope{{source.floats(context * 32), {context, 32}},
                           {source.floats(context * 32), {context, 32}}};
  std::vector<plan::PreparedLayer> weights;
  std::vector<execute::LayerCaches> caches;
  for (int64_t layer = 0; layer < kLayers; ++layer) {
    weights.push_back(weights_of(plan.layers[static_cast<size_t>(layer)], source));
    caches.push_back(caches_of(plan, at.page_table, source));
  }
  std::vector<plan::RowCount> counts = plan::no_counts(plan);
  plan::CountedLane lane{{1,
                          nullptr,
                          {source.zeros(plan.bytes.workspace), static_cast<size_t>(plan.bytes.workspace)},
                          stream,
                          false},
                         counts};
  const auto pass = [&] {
    for (int64_t i = 0; i < kLayers; ++i) {
      const plan::LayerPlan& layer = plan.layers[static_cast<size_t>(i)];
      const plan::PreparedLayer& w = weights[static_cast<size_t>(i)];
      layer.attention_site.norm.run({at.stream, at.block, {}, w.attention_norm, at.stream, at.normed}, batch,
                                    lane);
      execute::run_latent_attention({i, layer, w, rope, caches[static_cast<size_t>(i)], at, lane, nullptr});
    }
  };
  pass();
  accelerator.wait(stream);
  for (const Stage& stage : kStages) {
    Only only(plan, stage.operations);
    lane.conductor = stage.operations.empty() ? nullptr : &only;
    const Times t = times_of(bench::replay_times(accelerator, stream, pass, 15, 0.02));
    fmt::print("{:4} {:26} {:8.2f} ({:.2f}, {:.2f})\n", batch, stage.name, t.median, t.low, t.high);
  }
  accelerator.close_stream(stream);
}

int run(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "layer_probe CONFIG [context]\n");
    return 2;
  }
  std::ifstream file(argv[1]);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  model::Config config = model::parse_config(text, argv[1]);
  config.layers = kLayers;
  const model::Model model = model::outline(config);
  const Device gpu = cuda::device();
  const int64_t context = argc > 2 ? std::atoll(argv[2]) : 32768;
  fmt::print("{}, context {}, us a layer: median (p10, p90)\n", gpu.model, context);
  for (const int64_t batch : {1, 8, 32, 128}) time_batch(model, gpu, batch, context);
  return 0;
}

}  // namespace
}  // namespace fulgurite

int main(int argc, char** argv) {
  try {
    return fulgurite::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "layer_probe: {}\n", error.what());
    return 1;
  }
}
