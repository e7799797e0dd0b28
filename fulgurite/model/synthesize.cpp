#include "fulgurite/model/synthesize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>

#include "fulgurite/core/bf16.h"
#include "fulgurite/core/fp4.h"
#include "fulgurite/core/fp8.h"
#include "fulgurite/core/json.h"
#include "fulgurite/model/synthesize_directory.h"
#include "fulgurite/model/weight_names.h"

namespace fulgurite::model {
namespace {

// --- which tensors, and of what scale ---

// What config.json says of each layer, for another number of them: the last ones go, or the first ones come
// again.
void resize_lists(Json& json, size_t layers) {
  json.erase("mlp_layer_types");  // first_k_dense_replace says it
  if (const auto types = json.find("indexer_types"); types != json.end() && types->is_array()) {
    Json resized = Json::array();
    for (size_t i = 0; i < layers; ++i) resized.push_back((*types)[i % types->size()]);
    *types = resized;
  }
  if (const auto pattern = json.find("index_topk_pattern"); pattern != json.end() && pattern->is_string()) {
    const std::string whole = *pattern;
    std::string resized;
    for (size_t i = 0; i < layers; ++i) resized += whole[i % whole.size()];
    *pattern = resized;
  }
}

// Lists of a value a layer, and what counts layers or belongs to MTP.
void take_first_layers(Json& json, int64_t layers, const Config& original) {
  for (const char* const key : {"compress_ratios", "layer_types", "mlp_layer_types"})
    if (json.contains(key) && json[key].is_array() && static_cast<int64_t>(json[key].size()) > layers)
      json[key].erase(json[key].begin() + layers, json[key].end());
  if (json.contains("num_hash_layers")) json["num_hash_layers"] = std::min(original.hash_layers, layers);
  for (const char* const key :
       {"dspark_block_size", "dspark_noise_token_id", "dspark_target_layer_ids", "dspark_markov_rank"})
    json.erase(key);
}

// The configuration with fewer layers and no MTP.
std::string config_text(std::string_view text, const std::string& what, const SynthesisOptions& options,
                        const Config& original) {
  const int64_t dense = options.dense_layers.value_or(std::min(original.dense_layers, options.layers - 1));
  if (original.window && dense != 0)
    fail(ErrorKind::kRequest, "{} dense layers: {} has none", dense, name(original.family));
  if (dense < 0 || dense > options.layers)
    fail(ErrorKind::kRequest, "{} dense layers: expected 0 to {}, the number of layers", dense,
         options.layers);
  Json json = parse_json(text, what, ErrorKind::kConfig);
  json["num_hidden_layers"] = options.layers;
  json["num_nextn_predict_layers"] = 0;
  if (original.window) {
    take_first_layers(json, options.layers, original);
  } else {
    resize_lists(json, static_cast<size_t>(options.layers));
    json["first_k_dense_replace"] = dense;
  }
  return json.dump(2) + "\n";
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

std::pair<double, double> moments_of(Role vector) {
  switch (vector) {
    case Role::kRouterBias:
      return {0.0, 0.01};
    case Role::kIndexKNormBias:
      return {0.0, 0.1};
    case Role::kSink:
    case Role::kAttentionStreamsBase:
    case Role::kFeedForwardStreamsBase:
    case Role::kHeadStreamsBase:
      return {0.0, 0.5};
    default:
      return {1.0, 0.1};
  }
}

SyntheticTensor vector_of(const TensorName& name) {
  SyntheticTensor tensor;
  tensor.tensor = {name.name, name.plain, {name.columns}};
  std::tie(tensor.mean, tensor.deviation) = moments_of(name.role);
  return tensor;
}

// Rows of the embedding have variance 1, products of others with a vector of variance 1 too.
double deviation_of(const TensorName& name) {
  if (name.role == Role::kCompressorApe || name.role == Role::kIndexCompressorApe) return 0.5;
  return name.role == Role::kEmbedding ? 1.0 : 1.0 / std::sqrt(static_cast<double>(name.columns));
}

SyntheticTensor table_of(const TensorName& name, const Config& config) {
  SyntheticTensor table;
  table.tensor = {name.name, name.plain, {name.rows, name.columns}};
  table.fill = Fill::kTable;
  table.experts = config.experts;
  return table;
}

void add_mxfp4(const TensorName& name, std::vector<SyntheticTensor>& tensors) {
  if (name.columns % 32 != 0)
    fail(ErrorKind::kRequest, "{}: expected a multiple of 32 columns, found {}", name.name, name.columns);
  SyntheticTensor codes;
  codes.tensor = {name.name, DType::kI8, {name.rows, name.columns / 2}};
  codes.fill = Fill::kPairs;
  codes.deviation = deviation_of(name);
  tensors.push_back(codes);
  codes.tensor = {scale_name(name, ScaleFormat::kE8M0), DType::kF8_E8M0, {name.rows, name.columns / 32}};
  codes.fill = Fill::kPairScales;
  tensors.push_back(codes);
}

void add_tensors(const TensorName& name, const Config& config, std::vector<SyntheticTensor>& tensors) {
  if (name.form == Form::kVector) return tensors.push_back(vector_of(name));
  if (name.form == Form::kTable) return tensors.push_back(table_of(name, config));
  const bool routed = name.expert != kNotRouted;
  if (routed && config.quantization && config.quantization->experts == Fp4::kMxfp4)
    return add_mxfp4(name, tensors);
  const bool codes = name.form == Form::kLinear && config.quantization;
  SyntheticTensor matrix;
  matrix.tensor = {name.name, codes ? DType::kF8_E4M3 : name.plain, {name.rows, name.columns}};
  matrix.fill = codes ? Fill::kCodes : Fill::kNormal;
  matrix.deviation = deviation_of(name);
  tensors.push_back(matrix);
  if (!codes) return;
  const BlockShape block = config.quantization->block;
  SyntheticTensor scales = matrix;
  const ScaleFormat format = config.quantization->scales;
  scales.tensor = {scale_name(name, format),
                   format == ScaleFormat::kF32 ? DType::kF32 : DType::kF8_E8M0,
                   {ceil_div(name.rows, block.rows), ceil_div(name.columns, block.columns)}};
  scales.fill = Fill::kScales;
  tensors.push_back(scales);
}

std::vector<std::vector<SyntheticTensor>> in_shards(std::vector<SyntheticTensor> tensors,
                                                    int64_t shard_bytes) {
  std::vector<std::vector<SyntheticTensor>> shards;
  int64_t bytes = 0;
  for (SyntheticTensor& tensor : tensors) {
    if (shards.empty() || bytes + tensor.bytes > shard_bytes) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += tensor.bytes;
    shards.back().push_back(std::move(tensor));
  }
  return shards;
}

// --- what they are made of ---

// Standard normal quantiles: entry i stands for the i-th of so many equal parts of the distribution.
constexpr size_t kQuantiles = 4096;
using Quantiles = std::array<double, kQuantiles>;

// Mean, by bisection: P(N <= z) = erfc(-z / sqrt(2)) / 2.
double quantile(double probability) {
  double low = -10.0, high = 10.0;
  for (int step = 0; step < 60; ++step) {
    const double middle = (low + high) / 2;
    (std::erfc(-middle / std::sqrt(2.0)) / 2 < probability ? low : high) = middle;
  }
  return (low + high) / 2;
}

Quantiles quantiles() {
  Quantiles table;
  for (size_t i = 0; i < kQuantiles / 2; ++i) {
    table[i] = quantile((static_cast<double>(i) + 0.5) / kQuantiles);
    table[kQuantiles - 1 - i] = -table[i];
  }
  return table;
}

// The words of a tensor: SplitMix64 (core/random.h) from a key that seed and name give, at any index.
class Words {
 public:
  Words(uint64_t seed, std::string_view name) {
    uint64_t hash = 0xCBF29CE484222325u;  // FNV-1a
    for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3u;
    key_ = mixed(hash ^ mixed(seed));
  }
  uint64_t operator()(int64_t index) const {
    return mixed(key_ + (static_cast<uint64_t>(index) + 1) * 0x9E3779B97F4A7C15u);
  }
  double uniform(int64_t index) const { return static_cast<double>((*this)(index) >> 11) * 0x1p-53; }

 private:
  static uint64_t mixed(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  uint64_t key_ = 0;
};

// Four elements a word, twelve of its bits each choose among the table's values.
template <class T>
void draw(const Words& words, const std::array<T, kQuantiles>& table, int64_t first, int64_t count, T* out) {
  const auto element = [&](uint64_t word, int64_t k) { return table[(word >> (16 * k)) % kQuantiles]; };
  int64_t i = first;
  const int64_t end = first + count;
  for (; i < end && i % 4 != 0; ++i) *out++ = element(words(i / 4), i % 4);
  for (; i + 4 <= end; i += 4) {
    const uint64_t word = words(i / 4);
    for (int64_t k = 0; k < 4; ++k) *out++ = element(word, k);
  }
  for (; i < end; ++i) *out++ = element(words(i / 4), i % 4);
}

template <class T, class Convert>
std::array<T, kQuantiles> table_of(const Quantiles& quantiles, const Convert& convert) {
  std::array<T, kQuantiles> table;
  std::transform(quantiles.begin(), quantiles.end(), table.begin(), convert);
  return table;
}

// The largest quantile is the largest code: a block of 128 x 128 has elements this far out.
double code_deviation(const Quantiles& quantiles) { return kLargestE4m3 / quantiles.back(); }

// The mean square of the scales is that of `scale`. Powers of two: the two around it; others vary by a fifth.
float draw_scale(const Words& words, double scale, bool pow2, int64_t block) {
  if (!pow2)
    return static_cast<float>(scale * (0.8 + 0.4 * words.uniform(block)) / std::sqrt(1.0 + 0.04 / 3.0));
  const double low = std::exp2(std::floor(std::log2(scale)));
  const double share = ((scale / low) * (scale / low) - 1.0) / 3.0;  // of 2 * low
  return static_cast<float>(words.uniform(block) < share ? 2.0 * low : low);
}

// Of groups of 32 the largest element is hardly further out than this.
constexpr double kPairDeviation = kLargestE2m1 / 3.0;

// Byte i has the elements 2 i and 2 i + 1.
void draw_pairs(const Words& words, const std::array<e2m1, kQuantiles>& table, int64_t first, int64_t count,
                e2m1x2* out) {
  const auto element = [&](int64_t i) { return table[(words(i / 4) >> (16 * (i % 4))) % kQuantiles]; };
  for (int64_t i = first; i < first + count; ++i) *out++ = pack(element(2 * i), element(2 * i + 1));
}

// A row begins anywhere and goes on in equal steps, too short to come around.
int64_t draw_expert(const Words& words, int64_t row, int64_t column, int64_t columns, int64_t experts) {
  const uint64_t word = words(row);
  const auto begin = static_cast<int64_t>((word >> 32) % static_cast<uint64_t>(experts));
  const auto step = 1 + static_cast<int64_t>((word & 0xFFFFFFFFu) % static_cast<uint64_t>(experts / columns));
  return (begin + column * step) % experts;
}

// Makes the bytes of tensors, a chunk at a time, the threads sharing each.
class Maker {
 public:
  Maker(const Synthesis& plan, Workers* workers) : plan_(plan), workers_(workers), chunk_(kChunkBytes) {
    const double deviation = code_deviation(quantiles_);
    codes_ = table_of<e4m3>(quantiles_, [&](double z) { return to_e4m3(static_cast<float>(z * deviation)); });
    pairs_ =
        table_of<e2m1>(quantiles_, [&](double z) { return to_e2m1(static_cast<float>(z * kPairDeviation)); });
  }

  void make(const SyntheticTensor& tensor, const checkpoint::Sink& sink) {
    const Words words(plan_.seed, tensor.tensor.name);
    const auto value = [&](double z) { return static_cast<float>(tensor.mean + tensor.deviation * z); };
    if (tensor.fill == Fill::kTable) {
      const int64_t columns = tensor.tensor.shape[1];
      each_chunk<int64_t>(tensor, sink, [&](int64_t first, int64_t count, int64_t* out) {
        for (int64_t i = first; i < first + count; ++i)
          *out++ = draw_expert(words, i / columns, i % columns, columns, tensor.experts);
      });
    } else if (tensor.fill == Fill::kPairs) {
      each_chunk<e2m1x2>(tensor, sink, [&](int64_t first, int64_t count, e2m1x2* out) {
        draw_pairs(words, pairs_, first, count, out);
      });
    } else if (tensor.tensor.dtype == DType::kF8_E8M0) {
      const double codes = tensor.fill == Fill::kPairScales ? kPairDeviation : code_deviation(quantiles_);
      each_chunk<e8m0>(tensor, sink, [&](int64_t first, int64_t count, e8m0* out) {
        for (int64_t i = 0; i < count; ++i)
          out[i] = *exact_e8m0(draw_scale(words, tensor.deviation / codes, true, first + i));
      });
    } else if (tensor.fill == Fill::kScales) {
      const double scale = tensor.deviation / code_deviation(quantiles_);
      each_chunk<float>(tensor, sink, [&](int64_t first, int64_t count, float* out) {
        for (int64_t i = 0; i < count; ++i) out[i] = draw_scale(words, scale, plan_.pow2_scales, first + i);
      });
    } else if (tensor.fill == Fill::kCodes) {
      draw_chunks(tensor, sink, words, codes_);
    } else if (tensor.tensor.dtype == DType::kBF16) {
      draw_chunks(tensor, sink, words,
                  table_of<bf16>(quantiles_, [&](double z) { return to_bf16(value(z)); }));
    } else {
      draw_chunks(tensor, sink, words, table_of<float>(quantiles_, value));
    }
  }

 private:
  static constexpr int64_t kChunkBytes = 8 << 20;

  template <class T>
  void draw_chunks(const SyntheticTensor& tensor, const checkpoint::Sink& sink, const Words& words,
                   const std::array<T, kQuantiles>& table) {
    each_chunk<T>(tensor, sink,
                  [&](int64_t first, int64_t count, T* out) { draw(words, table, first, count, out); });
  }

  // fill(first, count, out) for ranges of elements that the threads share.
  template <class T, class Fill>
  void each_chunk(const SyntheticTensor& tensor, const checkpoint::Sink& sink, const Fill& fill) {
    struct Chunk {
      const Fill& fill;
      int64_t first, count, threads;
      T* out;
      static void run(void* context, int thread) {
        const Chunk& chunk = *static_cast<const Chunk*>(context);
        const int64_t begin = chunk.count * thread / chunk.threads;
        const int64_t end = chunk.count * (thread + 1) / chunk.threads;
        chunk.fill(chunk.first + begin, end - begin, chunk.out + begin);
      }
    };
    const auto size = static_cast<int64_t>(sizeof(T)), elements = tensor.bytes / size;
    T* const out = reinterpret_cast<T*>(chunk_.data());
    for (int64_t first = 0; first < elements; first += kChunkBytes / size) {
      const int64_t count = std::min(kChunkBytes / size, elements - first);
      Chunk chunk{fill, first, count, workers_ != nullptr ? workers_->threads() : 1, out};
      if (workers_ != nullptr)
        workers_->run(Chunk::run, &chunk);
      else
        Chunk::run(&chunk, 0);
      sink(std::as_bytes(std::span(out, static_cast<size_t>(count))));
    }
  }

  const Synthesis& plan_;
  Workers* workers_;
  std::vector<std::byte> chunk_;
  Quantiles quantiles_ = quantiles();
  std::array<e4m3, kQuantiles> codes_;
  std::array<e2m1, kQuantiles> pairs_;
};

// --- the files ---

// Of the files, and hardly less than they take: a tensor has an entry in a header and a line in the index.
int64_t file_bytes(const Synthesis& plan) {
  constexpr int64_t kEntryBytes = 240;
  int64_t bytes = plan.bytes + static_cast<int64_t>(plan.config_text.size());
  for (const std::vector<SyntheticTensor>& shard : plan.shards)
    for (const SyntheticTensor& tensor : shard)
      bytes += kEntryBytes + 2 * static_cast<int64_t>(tensor.tensor.name.size());
  return bytes;
}

std::string shard_name(size_t shard, size_t shards) {
  return fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards);
}

std::string index_text(const Synthesis& plan) {
  Json json;
  json["metadata"]["total_size"] = plan.bytes;
  for (size_t s = 0; s < plan.shards.size(); ++s)
    for (const SyntheticTensor& tensor : plan.shards[s])
      json["weight_map"][tensor.tensor.name] = shard_name(s, plan.shards.size());
  return json.dump(2) + "\n";
}

}  // namespace

Synthesis plan_synthesis(std::string_view config_json, const std::string& what,
                         const SynthesisOptions& options) {
  if (options.layers < 1) fail(ErrorKind::kRequest, "{} layers: expected at least 1", options.layers);
  Synthesis plan;
  plan.config_text = config_text(config_json, what, options, parse_config(config_json, what));
  plan.seed = options.seed;
  const Config config = parse_config(plan.config_text, what);
  const Fp4 experts = config.quantization ? config.quantization->experts : Fp4::kNone;
  if (experts == Fp4::kNvfp4 || (experts == Fp4::kMxfp4 && !config.window))
    fail(ErrorKind::kRequest, "{}: experts in fp4, only e4m3 and bf16 are synthesized (MXFP4 of DeepSeek-V4)",
         what);
  plan.pow2_scales = config.quantization && config.quantization->activation_scale == ScaleRounding::kPow2;
  std::vector<SyntheticTensor> tensors;
  for (const TensorName& name : tensor_names(config))
    if (name.required) add_tensors(name, config, tensors);  // no indexer where a selection is shared
  for (SyntheticTensor& tensor : tensors) {
    tensor.bytes = checkpoint::byte_size(tensor.tensor.dtype, tensor.tensor.shape, tensor.tensor.name);
    plan.bytes += tensor.bytes;
  }
  plan.shards = in_shards(std::move(tensors), options.shard_bytes);
  return plan;
}

void write_synthesis(const Synthesis& plan, const std::filesystem::path& directory, Workers* workers,
                     const std::function<void(int64_t bytes)>& progress) {
  OutputDirectory output(directory, file_bytes(plan));
  Maker maker(plan, workers);
  int64_t written = 0;
  for (size_t s = 0; s < plan.shards.size(); ++s) {
    const std::vector<SyntheticTensor>& shard = plan.shards[s];
    std::vector<checkpoint::PlannedTensor> tensors;
    for (const SyntheticTensor& tensor : shard) tensors.push_back(tensor.tensor);
    const auto make = [&](size_t i, const checkpoint::Sink& sink) {
      maker.make(shard[i], [&](std::span<const std::byte> bytes) {
        sink(bytes);
        written += static_cast<int64_t>(bytes.size());
        progress(written);
      });
    };
    checkpoint::write_safetensors(output.file(shard_name(s, plan.shards.size())), tensors, make,
                                  {{"format", "pt"}});
  }
  checkpoint::write_text(output.file("model.safetensors.index.json"), index_text(plan));
  checkpoint::write_text(output.file("config.json"), plan.config_text);
  output.complete();
}

}  // namespace fulgurite::model
