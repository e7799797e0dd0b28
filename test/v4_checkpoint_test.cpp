// DeepSeek-V4's checkpoint: every tensor of models/tiny-v4 accounted for, in each spelling and form, and what
// does not fit refused by name.

#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "fulgurite/model/convert.h"
#include "fulgurite/model/expert_table.h"
#include "fulgurite/model/interchangeable.h"
#include "fulgurite/model/synthesize.h"
#include "test/edited_checkpoint.h"
#include "test/op_test.h"

namespace fulgurite {
namespace {

using model::CheckpointForm;
using model::Spelling;
using test::EditedCheckpoint;

const std::string kTinyV4 = test::kSource + "/models/tiny-v4";

struct Opened {
  explicit Opened(const std::string& directory) : checkpoint(checkpoint::open(directory)) {}
  checkpoint::Checkpoint checkpoint;
  model::Model model = model::bind(checkpoint);
};

std::vector<model::Finding> findings(const std::string& directory) {
  const checkpoint::Survey survey = checkpoint::survey(directory);
  return model::inspect(survey, model::Sampling::kSample).findings;
}

std::string refusal(const EditedCheckpoint& edited) {
  const std::string directory = edited.write();
  return test::message_of([&] { Opened opened(directory); });
}

model::ConvertResult convert(const std::filesystem::path& from, const std::filesystem::path& to,
                             CheckpointForm form) {
  model::ConvertOptions options;
  options.form = form;
  return model::convert(checkpoint::open(from), to, options);
}

// The exact values of a weight that was found under any name.
double sum_of(const StoredMatrix& matrix) {
  double sum = 0.0;
  std::vector<double> row(static_cast<size_t>(matrix.in));
  for (int64_t r = 0; r < matrix.out; ++r) {
    exact_row(matrix, r, row.data());
    for (size_t i = 0; i < row.size(); ++i) sum += row[i] * static_cast<double>(1 + (i + r) % 97);
  }
  return sum;
}

std::vector<double> sums_of(const model::Model& model) {
  std::vector<double> sums{sum_of(model.weights.embedding), sum_of(model.weights.head),
                           sum_of(model.weights.head_streams->fn)};
  for (const model::StoredLayer& layer : model.weights.layers) {
    for (const StoredMatrix* const matrix :
         {&layer.q_a, &layer.q_b, &layer.window->kv, &layer.window->o_a, &layer.window->o_b, &layer.router,
          &layer.attention_streams->fn, &layer.feed_forward_streams->fn, &layer.shared.gate,
          &layer.shared.down})
      sums.push_back(sum_of(*matrix));
    for (const model::StoredMlp& expert : layer.experts)
      for (const StoredMatrix* const matrix : {&expert.gate, &expert.up, &expert.down})
        sums.push_back(sum_of(*matrix));
    if (!layer.window->compressor) continue;
    for (const StoredMatrix* const matrix : {&layer.window->compressor->kv, &layer.window->compressor->ape})
      sums.push_back(sum_of(*matrix));
    if (layer.indexer.compressor) sums.push_back(sum_of(layer.indexer.compressor->gate));
  }
  return sums;
}

TEST(v4_checkpoint, every_tensor_of_the_tiny_model_is_bound) {
  const Opened tiny(kTinyV4);
  EXPECT_EQ(tiny.model.bound_bytes, tiny.checkpoint.total_bytes());
  EXPECT_EQ(tiny.model.left_out_bytes, 0);
  size_t parts = 0;
  for (const auto& of_weight : tiny.model.parts) parts += of_weight.size();
  EXPECT_EQ(parts, tiny.checkpoint.tensors().size());
  const std::vector<model::StoredLayer>& layers = tiny.model.weights.layers;
  EXPECT_FALSE(layers[0].window->compressor);
  EXPECT_EQ(layers[1].window->compressor->kv.out, 1024) << "ratio 4: a half for each of two entries";
  EXPECT_EQ(layers[1].window->compressor->ape.out, 4);
  EXPECT_EQ(layers[1].indexer.compressor->kv.out, 256);
  EXPECT_EQ(layers[2].window->compressor->kv.out, 512);
  EXPECT_EQ(layers[2].window->compressor->ape.out, 128);
  EXPECT_FALSE(layers[2].indexer.compressor);
  EXPECT_EQ(layers[0].window->o_a.in, 2048);
  EXPECT_EQ(describe(format_of(layers[0].window->o_a)), "e4m3 128x128, scales e8m0");
  EXPECT_EQ(describe(format_of(layers[0].experts[7].down)), "e2m1 1x32, scales e8m0");
  EXPECT_TRUE(layers[0].expert_table);
  EXPECT_FALSE(layers[1].expert_table);
  EXPECT_NO_THROW(model::require_expert_tables(tiny.model));
  EXPECT_TRUE(findings(kTinyV4).empty());
}

TEST(v4_checkpoint, config_alone_has_the_same_forms_and_bytes) {
  const Opened tiny(kTinyV4);
  const model::Model outlined = model::outline(tiny.model.config);
  EXPECT_EQ(outlined.bound_bytes, tiny.model.bound_bytes);
  EXPECT_EQ(format_of(outlined.weights.layers[1].q_b), format_of(tiny.model.weights.layers[1].q_b));
  EXPECT_EQ(format_of(outlined.weights.layers[1].window->compressor->ape),
            format_of(tiny.model.weights.layers[1].window->compressor->ape));
}

TEST(v4_checkpoint, what_does_not_fit_is_refused_by_name) {
  const std::string kAttention = "layers.1.attn.";
  const std::map<std::string, std::function<void(EditedCheckpoint&)>> faults{
      {"layers.2.attn.attn_sink", [](auto& e) { e.erase("layers.2.attn.attn_sink"); }},
      {"hc_head_scale", [](auto& e) { e.erase("hc_head_scale"); }},
      {"layers.2.attn.indexer.wq_b.weight",
       [](auto& e) {
         e.add("layers.2.attn.indexer.wq_b.weight", DType::kBF16, {1024, 128});
       }},
      {"layers.1.attn.compressor.ape",
       [](auto& e) {
         e.at("layers.1.attn.compressor.ape").shape = {1024, 4};
       }},
      {"layers.1.attn.wo_a.weight", [](auto& e) { e.erase("layers.1.attn.wo_a.scale"); }},
      {"layers.1.attn.wkv.scale",
       [](auto& e) {
         e.at("layers.1.attn.wkv.scale").shape = {2, 4};
       }},
      {"layers.0.ffn.experts.3.w2.scale",
       [](auto& e) {
         e.at("layers.0.ffn.experts.3.w2.scale").shape = {4, 256};
       }},
      {"layers.0.ffn.gate.tid2eid", [](auto& e) { e.at("layers.0.ffn.gate.tid2eid").dtype = DType::kF64; }},
      {"layers.0.ffn.gate.bias", [](auto& e) { e.add("layers.0.ffn.gate.bias", DType::kF32, {8}); }},
      {"layers.1.attn.norm.weight",
       [](auto& e) { e.add("layers.1.attn.norm.weight", DType::kBF16, {512}); }}};
  for (const auto& [name, spoil] : faults) {
    EditedCheckpoint edited(kTinyV4);
    spoil(edited);
    EXPECT_EQ(refusal(edited).find(name + ": "), 0u) << name << " -> " << refusal(edited);
  }
}

TEST(v4_checkpoint, experts_are_what_the_tensors_are_where_no_key_tells) {
  EditedCheckpoint fp4(kTinyV4);
  fp4.config.erase("expert_dtype");
  EXPECT_EQ(refusal(fp4), "");
  const std::filesystem::path fp8 = test::scratch_file("v4_fp8");
  convert(kTinyV4, fp8, CheckpointForm::kFp8E8M0);
  EditedCheckpoint silent(fp8);
  EXPECT_EQ(silent.config["expert_dtype"], "fp8");
  silent.config.erase("expert_dtype");
  EXPECT_EQ(refusal(silent), "");
  silent.config["expert_dtype"] = "fp4";
  EXPECT_NE(refusal(silent), "");
  std::filesystem::remove_all(fp8);
}

// --- names ---

// Each weight and what belongs to it under the name of another spelling.
void respell(EditedCheckpoint& edited, Spelling spelling) {
  const model::Config config = model::parse_config(edited.config.dump(), "config.json");
  const auto from = model::tensor_names(config), to = model::tensor_names(config, spelling);
  ASSERT_EQ(from.size(), to.size());
  const auto base = [](const std::string& name) { return name.substr(0, name.rfind(".weight")); };
  for (size_t i = 0; i < from.size(); ++i) {
    edited.rename(from[i].name, to[i].name);
    if (from[i].form == model::Form::kLinear)
      edited.rename(base(from[i].name) + ".scale", base(to[i].name) + ".scale");
  }
}

TEST(v4_checkpoint, the_names_that_save_pretrained_writes_are_the_same_model) {
  const std::vector<double> expected = sums_of(Opened(kTinyV4).model);
  EditedCheckpoint saved(kTinyV4);
  respell(saved, Spelling::kSaved);
  EXPECT_EQ(saved.at("model.layers.1.attn.norm.weight").shape, std::vector<int64_t>{512});
  EXPECT_EQ(saved.at("model.hc_head.hc_fn").shape, (std::vector<int64_t>{4, 1024}));
  EXPECT_EQ(saved.at("head.weight").shape, (std::vector<int64_t>{2048, 256}));
  const std::string directory = saved.write();
  EXPECT_EQ(sums_of(Opened(directory).model), expected);
  EXPECT_TRUE(findings(directory).empty());
  saved.rename("model.layers.1.attn.norm.weight", "model.layers.1.attn.kv_norm.weight");
  EXPECT_EQ(refusal(saved), "");
  saved.rename("model.layers.2.attn.wq_a.weight", "layers.2.attn.wq_a.weight");
  EXPECT_EQ(refusal(saved).find("model.layers.2.attn.wq_a.scale: "), 0u) << "one spelling a checkpoint";
}

// All experts of a layer in one tensor, gate above up.
void stack_experts(EditedCheckpoint& edited, const EditedCheckpoint& source, int64_t layer) {
  const auto append = [&](std::span<std::byte> out, size_t& at, const std::string& name) {
    const auto found = std::ranges::find(source.tensors, name, &checkpoint::TensorView::name);
    std::ranges::copy(found->bytes, out.begin() + static_cast<std::ptrdiff_t>(at));
    at += found->bytes.size();
  };
  const std::string to = fmt::format("model.layers.{}.mlp.experts.", layer);
  edited.add(to + "gate_up_proj", DType::kBF16, {8, 256, 256});
  edited.add(to + "down_proj", DType::kBF16, {8, 256, 128});
  const std::span<std::byte> gate_up = edited.bytes_of(to + "gate_up_proj"),
                             down = edited.bytes_of(to + "down_proj");
  size_t in_gate_up = 0, in_down = 0;
  for (int64_t e = 0; e < 8; ++e) {
    const std::string from = fmt::format("layers.{}.ffn.experts.{}.", layer, e);
    append(gate_up, in_gate_up, from + "w1.weight");
    append(gate_up, in_gate_up, from + "w3.weight");
    append(down, in_down, from + "w2.weight");
    for (const char* const weight : {"w1.weight", "w2.weight", "w3.weight"}) edited.erase(from + weight);
  }
}

TEST(v4_checkpoint, the_names_of_hugging_faces_modules_are_the_same_model) {
  const std::filesystem::path bf16 = test::scratch_file("v4_bf16");
  convert(kTinyV4, bf16, CheckpointForm::kBF16);
  const EditedCheckpoint source(bf16);
  EditedCheckpoint modules(bf16);
  for (int64_t layer = 0; layer < 3; ++layer) stack_experts(modules, source, layer);
  const model::Config config = model::parse_config(modules.config.dump(), "config.json");
  std::vector<model::TensorName> from = model::tensor_names(config);
  std::erase_if(from, [](const auto& name) { return name.expert != model::kNotRouted; });
  std::vector<model::TensorName> to = model::tensor_names(config, Spelling::kModules);
  std::erase_if(to, [](const auto& name) { return name.form == model::Form::kStack; });
  ASSERT_EQ(from.size(), to.size());
  for (size_t i = 0; i < from.size(); ++i) modules.rename(from[i].name, to[i].name);
  const std::string directory = modules.write();
  EXPECT_EQ(sums_of(Opened(directory).model), sums_of(Opened(bf16).model));
  EXPECT_EQ(sums_of(Opened(directory).model), sums_of(Opened(kTinyV4).model))
      << "bf16 holds fp8 and fp4 exactly";
  EXPECT_TRUE(findings(directory).empty());
  EXPECT_NE(test::message_of([&] {
              convert(directory, test::scratch_file("v4_no"), CheckpointForm::kFp8);
            }).find("experts in one tensor are not converted"),
            std::string::npos);
  std::filesystem::remove_all(bf16);
}

// --- MTP ---

// Layer 0 of the official spelling once more as stages; with what is around them.
void add_stages(EditedCheckpoint& edited, int64_t stages) {
  nlohmann::json with_stages = edited.config;
  with_stages["num_nextn_predict_layers"] = stages;
  const model::Config config = model::parse_config(with_stages.dump(), "config.json");
  for (const model::TensorName& name : model::tensor_names(config))
    if (name.role == model::Role::kMtp)
      edited.add(name.name, DType::kBF16, {std::max<int64_t>(name.rows, 1), name.columns});
}

TEST(v4_checkpoint, mtp_stages_are_known_and_left_out) {
  EditedCheckpoint announced(kTinyV4);
  add_stages(announced, 1);
  announced.config["num_nextn_predict_layers"] = 1;
  const std::string directory = announced.write();
  EXPECT_TRUE(findings(directory).empty());
  const Opened opened(directory);
  EXPECT_EQ(opened.model.bound_bytes, Opened(kTinyV4).model.bound_bytes);
  EXPECT_GT(opened.model.left_out_bytes, 0);
  announced.add("mtp.0.other.weight", DType::kBF16, {4});
  EXPECT_EQ(refusal(announced).find("mtp.0.other.weight: "), 0u);
}

TEST(v4_checkpoint, stages_beyond_those_that_are_announced_load_with_a_warning) {
  EditedCheckpoint more(kTinyV4);
  add_stages(more, 2);
  more.config["num_nextn_predict_layers"] = 1;
  const std::string directory = more.write();
  EXPECT_NO_THROW(Opened opened(directory));
  const std::vector<model::Finding> found = findings(directory);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].rule, model::Rule::kMtpTensors);
  EXPECT_EQ(found[0].subject.find("mtp.1."), 0u);
}

// --- the data ---

TEST(v4_checkpoint, a_table_that_names_no_expert_is_refused) {
  for (const int64_t wrong : {int64_t{8}, int64_t{-1}}) {
    EditedCheckpoint edited(kTinyV4);
    edited.values_of<int64_t>("layers.0.ffn.gate.tid2eid")[2 * 7 + 1] = wrong;
    const Opened opened(edited.write());
    EXPECT_NE(test::message_of([&] {
                model::require_expert_tables(opened.model);
              }).find(fmt::format("token 7 has expert {} of 8", wrong)),
              std::string::npos);
  }
  EditedCheckpoint twice(kTinyV4);
  const auto table = twice.values_of<int64_t>("layers.0.ffn.gate.tid2eid");
  table[0] = table[1];
  const Opened opened(twice.write());
  EXPECT_THROW(model::require_expert_tables(opened.model), Error);
}

TEST(v4_checkpoint, forms_that_are_wide_enough_keep_every_value) {
  const std::vector<double> expected = sums_of(Opened(kTinyV4).model);
  const std::filesystem::path out = test::scratch_file("v4_form");
  for (const CheckpointForm form : {CheckpointForm::kBF16, CheckpointForm::kFp8, CheckpointForm::kFp8E8M0,
                                    CheckpointForm::kMxfp4Experts}) {
    const model::ConvertResult result = convert(kTinyV4, out, form);
    EXPECT_EQ(sums_of(Opened(out).model), expected);
    EXPECT_TRUE(findings(out).empty());
    if (form == CheckpointForm::kMxfp4Experts) {
      EXPECT_TRUE(result.requantized.empty()) << "the form that it had";
    }
    std::filesystem::remove_all(out);
  }
  EXPECT_NE(test::message_of([&] { convert(kTinyV4, out, CheckpointForm::kFusedFp8); }), "");
}

TEST(v4_checkpoint, a_synthetic_one_binds_and_stands_in_for_another_seed) {
  const std::string config(checkpoint::MappedFile(kTinyV4 + "/config.json").text());
  const auto write = [&](const std::string& json, uint64_t seed, int64_t layers) {
    const std::filesystem::path out = test::scratch_file(fmt::format("v4_synth_{}", seed));
    model::write_synthesis(model::plan_synthesis(json, "c", {layers, std::nullopt, seed}), out, nullptr,
                           [](int64_t) {});
    return out;
  };
  const std::filesystem::path a = write(config, 1, 3), b = write(config, 2, 3);
  const Opened one(a), two(b);
  EXPECT_TRUE(findings(a).empty());
  EXPECT_EQ(one.model.bound_bytes, Opened(kTinyV4).model.bound_bytes);
  EXPECT_NO_THROW(model::require_expert_tables(one.model));
  EXPECT_NE(sums_of(one.model), sums_of(two.model));
  EXPECT_NO_THROW(model::require_interchangeable(one.model, two.model));
  nlohmann::json other = nlohmann::json::parse(config);
  other["compress_rope_theta"] = 80000.0;
  const Opened three(write(other.dump(), 3, 3));
  EXPECT_NE(test::message_of([&] {
              model::require_interchangeable(one.model, three.model);
            }).find("compress_rope_theta 80000"),
            std::string::npos);
  double square = 0.0;
  std::vector<double> row(256);
  for (int64_t r = 0; r < 128; ++r) {
    exact_row(one.model.weights.layers[0].experts[0].gate, r, row.data());
    for (const double value : row) square += value * value / 128;
  }
  EXPECT_NEAR(square, 1.0, 0.1) << "products with a vector of variance 1 have variance 1";
  for (const auto& directory : {a, b}) std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace fulgurite
