#include "fulgurite/model/synthesize.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <map>

#include "fulgurite/checkpoint/test_files.h"
#include "fulgurite/core/bf16.h"
#include "fulgurite/core/json.h"
#include "fulgurite/cpu/thread_pool.h"
#include "fulgurite/model/bind.h"
#include "test/paths.h"

namespace fulgurite::model {
namespace {

using checkpoint::TemporaryDirectory;

std::string config_of(const std::string& file) {
  return std::string(checkpoint::MappedFile(std::string(test::kSourceDir) + "/models/" + file).text());
}
std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}
std::string tiny() { return config_of("tiny-v32/config.json"); }
std::string edited(const std::function<void(Json&)>& edit) {
  Json json = Json::parse(tiny());
  edit(json);
  return json.dump();
}

// Writes into a directory of its own.
class Written {
 public:
  explicit Written(const std::string& config, const SynthesisOptions& options, int threads = 1) {
    const Synthesis plan = plan_synthesis(config, "config.json", options);
    cpu::ThreadPool workers(threads);
    int64_t written = 0;
    write_synthesis(plan, directory_.path(), threads > 1 ? &workers : nullptr, [&](int64_t bytes) {
      EXPECT_GT(bytes, written);
      written = bytes;
    });
    EXPECT_EQ(written, plan.bytes);
  }
  checkpoint::Checkpoint open() const { return checkpoint::open(directory_.path()); }
  const std::filesystem::path& path() const { return directory_.path(); }

 private:
  TemporaryDirectory directory_;
};

// Name and bytes of every tensor.
std::map<std::string, std::string> contents(const Written& written) {
  const checkpoint::Checkpoint checkpoint = written.open();
  std::map<std::string, std::string> tensors;
  for (const checkpoint::TensorView& tensor : checkpoint.tensors())
    tensors[tensor.name] = {reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size()};
  return tensors;
}

struct Moments {
  double mean = 0.0, square = 0.0, largest = 0.0;
};
template <class Value>
Moments moments(int64_t count, const Value& value) {
  Moments m;
  for (int64_t i = 0; i < count; ++i) {
    const double v = value(i);
    m.mean += v / static_cast<double>(count);
    m.square += v * v / static_cast<double>(count);
    m.largest = std::max(m.largest, std::abs(v));
  }
  return m;
}
Moments moments(const StoredMatrix& matrix) {
  const PreparedMatrix prepared{matrix.as, matrix.out, matrix.in};
  return moments(matrix.out * matrix.in,
                 [&](int64_t i) { return exact_element(prepared, i / matrix.in, i % matrix.in); });
}
Moments moments(const StoredVector& stored) {
  const View<const float, 1> vector = std::get<View<const float, 1>>(stored);
  return moments(vector.extent[0], [&](int64_t i) { return static_cast<double>(vector(i)); });
}

TEST(synthesize, writes_a_checkpoint_that_binds) {
  const Written written(tiny(), {3, std::nullopt, 1});
  const checkpoint::Checkpoint checkpoint = written.open();
  const Model model = bind(checkpoint);
  EXPECT_EQ(model.config.layers, 3);
  EXPECT_EQ(model.config.dense_layers, 1);
  EXPECT_EQ(model.config.mtp_layers, 0);
  EXPECT_EQ(model.config.hidden, 384);
  EXPECT_EQ(model.bound_bytes, checkpoint.total_bytes());
  EXPECT_EQ(checkpoint.find("model.layers.1.mlp.gate.e_score_correction_bias")->dtype, DType::kF32);
  EXPECT_EQ(checkpoint.find("model.layers.1.mlp.gate.weight")->dtype, DType::kBF16);
  EXPECT_EQ(checkpoint.find("lm_head.weight")->dtype, DType::kBF16);
  EXPECT_EQ(checkpoint.find("model.norm.weight")->dtype, DType::kF32);
  EXPECT_EQ(checkpoint.find("model.layers.2.self_attn.o_proj.weight")->dtype, DType::kF8_E4M3);
}

TEST(synthesize, one_layer_is_one_with_experts_unless_told_otherwise) {
  const auto dense = [](int64_t layers, std::optional<int64_t> wanted) {
    const std::string config = edited([](Json& json) { json["first_k_dense_replace"] = 3; });
    return parse_config(plan_synthesis(config, "c", {layers, wanted}).config_text, "c").dense_layers;
  };
  EXPECT_EQ(dense(1, std::nullopt), 0);
  EXPECT_EQ(dense(2, std::nullopt), 1);
  EXPECT_EQ(dense(5, std::nullopt), 3);
  EXPECT_EQ(dense(1, 1), 1);
  EXPECT_EQ(dense(4, 0), 0);
}

TEST(synthesize, the_same_seed_gives_the_same_bytes_for_any_threads_and_shards) {
  const std::map<std::string, std::string> one = contents(Written(tiny(), {2, std::nullopt, 7}));
  EXPECT_EQ(contents(Written(tiny(), {2, std::nullopt, 7}, 3)), one);
  EXPECT_EQ(contents(Written(tiny(), {2, std::nullopt, 7, 1'000'000}, 2)), one);
  for (const auto& [name, bytes] : contents(Written(tiny(), {3, std::nullopt, 7}))) {
    const auto same = one.find(name);
    if (same != one.end()) {
      EXPECT_EQ(bytes, same->second) << name;
    }
  }
  for (const auto& [name, bytes] : contents(Written(tiny(), {2, std::nullopt, 8}))) {
    if (bytes.size() > 200) {
      EXPECT_NE(bytes, one.at(name)) << name;
    }
  }
}

TEST(synthesize, no_two_tensors_are_alike) {
  std::map<std::string, std::string> seen;
  for (const auto& [name, bytes] : contents(Written(tiny(), {2}))) {
    if (bytes.size() < 1000) continue;  // scales have few values
    EXPECT_TRUE(seen.try_emplace(bytes.substr(0, 1000), name).second) << name;
  }
}

TEST(synthesize, weights_have_the_scale_of_a_trained_model) {
  for (const bool pow2 : {true, false}) {
    const Written written(edited([&](Json& json) {
                            if (!pow2) json["quantization_config"].erase("scale_fmt");
                          }),
                          {2});
    const checkpoint::Checkpoint checkpoint = written.open();
    const Model model = bind(checkpoint);
    const StoredLayer& layer = model.weights.layers[1];
    std::vector<const StoredMatrix*> matrices{&layer.q_a,       &layer.q_b,          &layer.kv_b,
                                              &layer.o,         &layer.router,       &layer.shared.gate,
                                              &layer.indexer.q, &layer.indexer.gate, &model.weights.head};
    for (const StoredMlp& expert : layer.experts)
      matrices.insert(matrices.end(), {&expert.gate, &expert.up, &expert.down});
    double sum = 0.0;  // of the variances, each over 1 / in
    for (const StoredMatrix* const matrix : matrices) {
      const Moments m = moments(*matrix);
      const double variance = 1.0 / static_cast<double>(matrix->in);
      EXPECT_NEAR(m.mean, 0.0, 6 * std::sqrt(variance / static_cast<double>(matrix->in * matrix->out)));
      EXPECT_GT(m.square / variance, 0.25);  // every scale may be the lower power of two
      EXPECT_LT(m.square / variance, 4.0);
      EXPECT_GT(m.largest, 1.5 * std::sqrt(variance));
      EXPECT_LT(m.largest, 8.0 * std::sqrt(variance));
      sum += m.square / variance;
    }
    EXPECT_NEAR(sum / static_cast<double>(matrices.size()), 1.0, 0.2);
    EXPECT_NEAR(moments(model.weights.embedding).square, 1.0, 0.02);
    EXPECT_NEAR(moments(layer.attention_norm).mean, 1.0, 0.03);
    EXPECT_NEAR(moments(layer.indexer.k_norm_bias).mean, 0.0, 0.04);
    EXPECT_NEAR(moments(layer.indexer.k_norm_bias).square, 0.01, 0.005);
    EXPECT_LT(moments(layer.router_bias).largest, 0.05);
  }
}

TEST(synthesize, codes_use_the_range_and_scales_are_powers_of_two_where_the_format_is) {
  for (const bool pow2 : {true, false}) {
    const Written written(edited([&](Json& json) {
                            if (!pow2) json["quantization_config"].erase("scale_fmt");
                          }),
                          {1});
    const checkpoint::Checkpoint checkpoint = written.open();
    const Model model = bind(checkpoint);
    const auto& weight = std::get<BlockScaled>(model.weights.layers[0].q_b.as);
    float largest = 0.0f;
    for (int64_t i = 0; i < weight.data.size(); ++i) {
      ASSERT_FALSE(std::isnan(to_float(weight.data.data[i])));
      largest = std::max(largest, std::abs(to_float(weight.data.data[i])));
    }
    EXPECT_EQ(largest, 448.0f);
    int64_t powers = 0;
    for (int64_t i = 0; i < weight.scale.size(); ++i)
      powers += (std::bit_cast<uint32_t>(weight.scale.data[i]) & 0x7FFFFFu) == 0;
    EXPECT_EQ(powers, pow2 ? weight.scale.size() : 0);
  }
}

TEST(synthesize, without_quantization_linears_are_bf16) {
  const Written written(edited([](Json& json) { json.erase("quantization_config"); }), {1});
  const checkpoint::Checkpoint checkpoint = written.open();
  EXPECT_NO_THROW(bind(checkpoint));
  EXPECT_EQ(checkpoint.find("model.layers.0.self_attn.o_proj.weight")->dtype, DType::kBF16);
}

TEST(synthesize, a_shard_holds_what_it_may_and_a_larger_tensor_stands_alone) {
  const Synthesis plan = plan_synthesis(tiny(), "c", {2, std::nullopt, 0, 1'000'000});
  EXPECT_GT(plan.shards.size(), 3u);
  int64_t sum = 0;
  for (const std::vector<SyntheticTensor>& shard : plan.shards) {
    int64_t bytes = 0;
    for (const SyntheticTensor& tensor : shard) bytes += tensor.bytes;
    EXPECT_TRUE(bytes <= 1'000'000 || shard.size() == 1) << bytes;
    sum += bytes;
  }
  EXPECT_EQ(sum, plan.bytes);
}

// 92,425 tensors of the published listing, without the 1,571 of the MTP layer.
TEST(synthesize, DeepSeek_V32_has_the_tensors_of_the_published_listing) {
  const Synthesis plan = plan_synthesis(config_of("configs/deepseek-v3.2.json"), "c", {61});
  size_t tensors = 0;
  for (const std::vector<SyntheticTensor>& shard : plan.shards) tensors += shard.size();
  EXPECT_EQ(tensors, 92'425u - 1'571u);
  EXPECT_NEAR(static_cast<double>(plan.bytes), 6.74e11, 0.02e11);
}

// 744 billion parameters, with those of its MTP layer 754; scales, bf16 tables and norms are the rest.
TEST(synthesize, GLM_5_has_the_size_of_the_published_model) {
  const Synthesis plan = plan_synthesis(config_of("configs/glm-5.json"), "c", {78});
  EXPECT_FALSE(plan.pow2_scales);
  EXPECT_NEAR(static_cast<double>(plan.bytes), 7.47e11, 0.05e11);
}

// As its publisher does: layers that share a selection come without an indexer.
TEST(synthesize, a_shared_layer_has_no_indexer) {
  const std::string glm = config_of("tiny-glm5/config.json");
  for (const int64_t layers : {3, 6}) {
    const Written written(glm, {layers});
    const Model model = bind(written.open());
    for (int64_t i = 0; i < layers; ++i) EXPECT_EQ(model.config.has_indexer(i), i % 2 == 0) << i;
    EXPECT_EQ(model.left_out_bytes, 0);
  }
  Json pattern = Json::parse(glm);
  pattern.erase("indexer_types");
  pattern["index_topk_pattern"] = "FSSF";
  const Written written(pattern.dump(), {3});
  EXPECT_TRUE(bind(written.open()).config.shares_index[2]);
}

TEST(synthesize, refuses_what_it_cannot_write) {
  EXPECT_EQ(message_of([] {
              plan_synthesis(tiny(), "c", {2, 3});
            }),
            "3 dense layers: expected 0 to 2, the number of layers");
  EXPECT_EQ(message_of([] { plan_synthesis(tiny(), "c", {0}); }), "0 layers: expected at least 1");
  EXPECT_EQ(message_of([] { plan_synthesis("{", "c", {1}); }).substr(0, 18), "c: not valid JSON:");
  const auto written = [](Synthesis plan, const std::filesystem::path& directory) {
    return message_of([&] { write_synthesis(plan, directory, nullptr, [](int64_t) {}); });
  };
  const TemporaryDirectory directory;
  Synthesis plan = plan_synthesis(tiny(), "c", {1});
  plan.bytes = int64_t{1} << 62;
  for (const std::filesystem::path& where : {directory.path(), directory.path() / "x" / "y"}) {
    const std::string message = written(plan, where);
    EXPECT_TRUE(message.find(": 46116860184274") != std::string::npos) << message;
    EXPECT_TRUE(message.find(" bytes are needed, ") != std::string::npos) << message;
    EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
  }
  directory.write("a", "x");
  EXPECT_EQ(written(plan, directory.path()), directory.path().string() + ": expected an empty directory");
  EXPECT_EQ(written(plan, directory.path() / "a"), (directory.path() / "a").string() + ": Not a directory");
}

// What stands in files besides tensors is in the sum that a file system must have room for.
TEST(synthesize, the_room_that_it_asks_for_holds_headers_and_index) {
  const Written one(tiny(), {2});
  int64_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(one.path()))
    files += static_cast<int64_t>(entry.file_size());
  Synthesis plan = plan_synthesis(tiny(), "c", {2});
  EXPECT_GT(files, plan.bytes);
  const int64_t beyond = int64_t{1} << 62;
  files += beyond - plan.bytes;
  plan.bytes = beyond;
  const TemporaryDirectory directory;
  const std::string message =
      message_of([&] { write_synthesis(plan, directory.path(), nullptr, [](int64_t) {}); });
  const size_t at = message.find(": ") + 2;
  const int64_t asked = std::stoll(message.substr(at));
  EXPECT_GE(asked, files) << message;
  EXPECT_LT(asked, files + 20'000) << message;
}

TEST(synthesize, a_run_that_fails_leaves_nothing) {
  const TemporaryDirectory directory;
  struct Enough {};
  const Synthesis plan = plan_synthesis(tiny(), "c", {2, std::nullopt, 0, 1'000'000});
  ASSERT_GT(plan.shards.size(), 2u);
  const auto fail_late = [&](int64_t written) {
    if (written > plan.bytes / 2) throw Enough{};
  };
  EXPECT_THROW(write_synthesis(plan, directory.path() / "x" / "y", nullptr, fail_late), Enough);
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
  EXPECT_THROW(write_synthesis(plan, directory.path(), nullptr, fail_late), Enough);
  EXPECT_TRUE(std::filesystem::is_empty(directory.path())) << "and what was there before stays";
}

TEST(synthesize, of_two_runs_into_one_directory_the_second_is_refused) {
  const TemporaryDirectory directory;
  const Synthesis plan = plan_synthesis(tiny(), "c", {1});
  const std::filesystem::path out = directory.path() / "x";
  std::string second;
  write_synthesis(plan, out, nullptr, [&](int64_t written) {
    if (written == plan.bytes)
      second = message_of([&] { write_synthesis(plan, out, nullptr, [](int64_t) {}); });
  });
  EXPECT_TRUE(second.find("x: found ") != std::string::npos) << second;
  EXPECT_TRUE(second.find(".partial: another run writes here, or was killed") != std::string::npos) << second;
  EXPECT_NO_THROW(bind(checkpoint::open(out))) << "the first one is not disturbed";
  for (const auto& entry : std::filesystem::directory_iterator(out))
    EXPECT_NE(entry.path().extension(), ".partial");
}

TEST(synthesize, what_a_killed_run_left_is_named) {
  const TemporaryDirectory directory;
  directory.write("model-00001-of-00002.safetensors.123.partial", "x");
  EXPECT_EQ(message_of([&] {
              write_synthesis(plan_synthesis(tiny(), "c", {1}), directory.path(), nullptr, [](int64_t) {});
            }),
            directory.path().string() +
                ": found model-00001-of-00002.safetensors.123.partial: another run writes here, or was "
                "killed; if none does, remove what is in it first");
}

}  // namespace
}  // namespace fulgurite::model
