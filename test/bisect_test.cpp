// Dumps that are right pass, in any layout that a map can tell; a choice that was made otherwise is found.

#include "fulgurite/audit/bisect.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "fulgurite/audit/profiles.h"
#include "test/dump_files.h"
#include "test/gpu.h"
#include "test/op_test.h"

namespace fulgurite {
namespace {

using audit::BisectReport;
using audit::Dump;

BisectReport bisect(const test::Recorded& model, const Dump& dump, const Numerics& numerics,
                    const audit::BisectOptions& what = {false}) {
  const test::TinyModel tiny(model.directory());
  plan::Options options;
  options.numerics = numerics;
  return audit::bisect(tiny.model, test::device(2), options, dump, what);
}

Dump opened(const test::Recorded& model, const std::filesystem::path& path, const std::string& prefix = "",
            const std::string& map = "") {
  const test::TinyModel tiny(model.directory());
  audit::DumpMap names;
  if (!map.empty()) {
    std::ofstream(test::scratch_file("map.json")) << map;
    names = audit::DumpMap::read(test::scratch_file("map.json"), tiny.model.config.layers);
  }
  return Dump(checkpoint::TensorFiles::open(path), prefix, names, tiny.model.config);
}

void expect_within(const BisectReport& report) {
  EXPECT_TRUE(report.within()) << report.first_bad->name << ": " << report.first_bad->distance.relative_l2
                               << ", gate " << report.first_bad->gate.all;
}

// An implementation that is not ours, as the profile that says what it computes.
TEST(bisect, the_oracles_of_all_families_pass_as_huggingface) {
  for (const test::Recorded& model : test::kRecorded) {
    SCOPED_TRACE(model.name);
    const test::TinyModel tiny(model.directory());
    const Numerics numerics = parse_numerics(audit::profile_numerics("huggingface", tiny.model.config));
    const BisectReport report = bisect(model, opened(model, model.golden(), "seq0."), numerics);
    expect_within(report);
    EXPECT_GE(report.stages.size(), 13u);
  }
}

// The GPU's rows, which the tap looks into and puts values between.
TEST(bisect, on_a_gpu_the_first_bad_stage_is_the_cpus) {
  Numerics other = Numerics::serving();
  other.gate = Gate::kBf16;
  const test::TinyModel tiny(test::kRecordedV32.directory());
  plan::Options options;
  options.numerics = Numerics::serving();
  const Dump wrong = opened(test::kRecordedV32, test::dump_of(test::kRecordedV32, other, 36).write("gate"));
  const BisectReport found = audit::bisect(tiny.model, test::gpu(), options, wrong, {false});
  ASSERT_FALSE(found.within());
  EXPECT_EQ(found.first_bad->name, "layer0.index_weights");
}

// Tensor cores sum in an order of their own: that is noise, not a finding. (Generic rows sum as the CPU does.)
TEST(bisect, on_a_gpu_what_the_cpu_computes_passes) {
  plan::Options options;
  options.numerics = Numerics::serving();
  for (const test::Recorded& model : test::kRecorded) {
    SCOPED_TRACE(model.name);
    const test::TinyModel tiny(model.directory());
    const int64_t positions = cuda::is_built() ? 200 : 36;  // loops on the host are slow
    const Dump right = opened(model, test::dump_of(model, options.numerics, positions).write("right"));
    expect_within(audit::bisect(tiny.model, test::gpu(), options, right, {false}));
  }
}

// Of a pass by kernels, judged by the same kernels: what is put in the place of a tensor changes nothing.
TEST(bisect, what_the_same_plan_traced_is_the_same_stage_by_stage) {
  const Numerics fp32 = Numerics::fp32(), serving = Numerics::serving();
  Numerics codes = serving;  // of DeepSeek-V4's index keys
  codes.index_quant = IndexQuant::kFp8;
  for (const auto& [model, numerics] :
       {std::pair(test::kRecordedV32, serving), std::pair(test::kRecordedGlm5, fp32),
        std::pair(test::kRecordedV4, codes)}) {
    SCOPED_TRACE(model.name);
    const BisectReport report =
        bisect(model, opened(model, test::dump_of(model, numerics, 136).write("own")), numerics);
    expect_within(report);
    for (const audit::StageResult& stage : report.stages)
      EXPECT_EQ(stage.distance.relative_l2, 0.0) << stage.name;
  }
}

// References compute the last tokens alone: what they differ by is not shared out among all.
TEST(bisect, gates_do_not_shrink_with_the_prompt) {
  const auto gate_of_heads = [](int64_t positions) {
    const test::DumpFile own = test::dump_of(test::kRecordedV32, Numerics::serving(), positions);
    const BisectReport report =
        bisect(test::kRecordedV32, opened(test::kRecordedV32, own.write("own")), Numerics::serving());
    const auto heads = std::ranges::find(report.stages, "layer2.attn_heads", &audit::StageResult::name);
    EXPECT_NE(heads, report.stages.end());
    return heads == report.stages.end() ? audit::StageGate() : heads->gate;
  };
  const audit::StageGate few = gate_of_heads(32), many = gate_of_heads(400);
  EXPECT_TRUE(many.from_noise);
  EXPECT_GT(many.all, 0.6 * few.all);  // shared out among 400: 0.37
}

TEST(bisect, a_prompt_may_be_too_short_for_an_entry) {
  test::DumpFile file = test::dump_of(test::kRecordedV4, Numerics::serving(), 36);
  expect_within(
      bisect(test::kRecordedV4, opened(test::kRecordedV4, file.write("short")), Numerics::serving()));
  ASSERT_EQ(file["layer2.entries"].shape[0], 0);
  file["layer2.entries"].shape[1] = 7;
  EXPECT_EQ(test::message_of([&] { opened(test::kRecordedV4, file.write("odd")); }),
            "layer2.entries: expected F32 [0, 512], the dump has F32 [0, 7]");
}

TEST(bisect, a_choice_made_otherwise_is_the_first_stage_and_the_one_explanation) {
  Numerics other = Numerics::serving();
  other.gate = Gate::kBf16;
  const Dump dump = opened(test::kRecordedV32, test::dump_of(test::kRecordedV32, other, 80).write("gate"));
  const BisectReport report = bisect(test::kRecordedV32, dump, Numerics::serving(), {true});
  ASSERT_FALSE(report.within());
  EXPECT_EQ(report.first_bad->name, "layer0.index_weights");
  ASSERT_NE(report.single(), nullptr);
  EXPECT_EQ(report.single()->knobs, "gate=bf16");
  EXPECT_TRUE(report.single()->explains_all());
  EXPECT_GT(report.tried, 30);
}

TEST(bisect, a_row_that_no_choice_explains_is_named_with_its_place) {
  test::DumpFile file = test::dump_of(test::kRecordedGlm5, Numerics::fp32(), 80);
  float* const row = file["layer2.attn_heads"].as<float>() + 41 * 4 * 128;
  for (int64_t i = 0; i < 4 * 128; ++i) row[i] *= 1.001f;
  const BisectReport report =
      bisect(test::kRecordedGlm5, opened(test::kRecordedGlm5, file.write("row")), Numerics::fp32(), {true});
  ASSERT_FALSE(report.within());
  EXPECT_EQ(report.first_bad->name, "layer2.attn_heads");
  EXPECT_EQ(report.first_bad->distance.worst_row, 41);
  EXPECT_EQ(report.first_bad->distance.rows_beyond, 1);
  EXPECT_TRUE(report.explanations.empty()) << report.explanations[0].knobs;
}

TEST(bisect, stages_after_the_first_read_the_dumps_values) {
  test::DumpFile file = test::dump_of(test::kRecordedV32, Numerics::fp32(), 48);
  float* const q = file["layer1.q"].as<float>();
  for (int64_t i = 0; i < 48 * 8 * 128; ++i) q[i] *= 1.5f;
  const BisectReport report =
      bisect(test::kRecordedV32, opened(test::kRecordedV32, file.write("q")), Numerics::fp32());
  ASSERT_FALSE(report.within());
  EXPECT_EQ(report.first_bad->name, "layer1.q");
  std::vector<std::string> beyond;
  for (const audit::StageResult& stage : report.stages)
    if (!stage.within()) beyond.push_back(stage.name);
  EXPECT_EQ(beyond, (std::vector<std::string>{"layer1.q", "layer1.attn_heads"}));
}

TEST(bisect, members_that_are_none_are_a_finding) {
  test::DumpFile file = test::dump_of(test::kRecordedV32, Numerics::fp32(), 48);
  file["layer1.topk"].as<int32_t>()[5 * 48] = 999;
  file["layer2.topk"].as<int32_t>()[7 * 48] = 7;
  file["layer2.expert_ids"].as<int32_t>()[3 * 2 + 1] = 77;
  const BisectReport report =
      bisect(test::kRecordedV32, opened(test::kRecordedV32, file.write("members")), Numerics::fp32());
  std::vector<std::string> beyond;
  for (const audit::StageResult& stage : report.stages)
    if (!stage.within()) beyond.push_back(fmt::format("{} {}", stage.name, stage.distance.worst_row));
  EXPECT_EQ(beyond, (std::vector<std::string>{"layer1.topk 5", "layer2.topk 7", "layer2.expert_ids 3"}));
}

// A dump in bf16 of what an engine has in fp32 is rounded once more, and so is all that is made of it.
TEST(bisect, a_dump_that_is_stored_in_bf16_passes) {
  test::DumpFile file = test::dump_of(test::kRecordedV32, Numerics::serving(), 48);
  for (auto& [name, tensor] : file.tensors) {
    if (tensor.dtype != DType::kF32) continue;
    const auto count = tensor.bytes.size() / 4;
    for (size_t i = 0; i < count; ++i) {
      const bf16 narrow = to_bf16(tensor.as<float>()[i]);
      std::memcpy(tensor.bytes.data() + 2 * i, &narrow, 2);
    }
    tensor.bytes.resize(2 * count);
    tensor.dtype = DType::kBF16;
  }
  expect_within(
      bisect(test::kRecordedV32, opened(test::kRecordedV32, file.write("bf16")), Numerics::serving()));
}

TEST(bisect, an_error_of_every_root_is_fitted) {
  Numerics other = Numerics::fp32();
  other.rsqrt = Rsqrt::kError;
  other.rsqrt_error = -3e-4f;
  const Dump dump = opened(test::kRecordedGlm5, test::dump_of(test::kRecordedGlm5, other, 40).write("root"));
  const BisectReport report = bisect(test::kRecordedGlm5, dump, Numerics::fp32(), {true});
  ASSERT_NE(report.single(), nullptr);
  EXPECT_EQ(report.single()->knobs, "rsqrt=error:-0.0003");
}

// ---- maps

constexpr int64_t kPositions = 32;

// Each row's `count` parts of `size` bytes in another order: part i comes from order(i).
template <class Order>
void reorder(test::DumpedTensor& tensor, int64_t count, int64_t size, const Order& order) {
  const std::vector<std::byte> old = tensor.bytes;
  const int64_t parts = std::ssize(old) / size;
  for (int64_t p = 0; p < parts; ++p)
    std::copy_n(old.begin() + (p / count * count + order(p % count)) * size, size,
                tensor.bytes.begin() + p * size);
}

TEST(bisect, a_map_tells_names_rows_rope_shards_columns_and_scale) {
  test::DumpFile file = test::dump_of(test::kRecordedV32, Numerics::fp32(), kPositions);
  // Rows from the last; the rotated 64 of 128 columns in halves; heads in two shards; latent and rope in one.
  test::DumpedTensor& latent = file["layer0.q_latent"];
  reorder(latent, kPositions, latent.row_bytes(), [](int64_t r) { return kPositions - 1 - r; });
  file.rename("layer0.q_latent", "theirs.q_a");
  for (const int layer : {0, 1, 2, 3}) {
    const std::string ours = fmt::format("layer{}.q", layer);
    reorder(file[ours], 128, 4, [](int64_t i) {
      return i < 64 ? i : i < 96 ? 64 + 2 * (i - 64) : 64 + 2 * (i - 96) + 1;
    });
    const test::DumpedTensor whole = file[ours];
    for (const int64_t shard : {0, 1}) {
      test::DumpedTensor part{DType::kF32, {kPositions, 4, 128}, {}};
      for (int64_t t = 0; t < kPositions; ++t)
        part.bytes.insert(part.bytes.end(), whole.bytes.begin() + (t * 8 + shard * 4) * 512,
                          whole.bytes.begin() + (t * 8 + shard * 4 + 4) * 512);
      file.tensors[fmt::format("rank{}.{}.q", shard, layer)] = part;
    }
    file.tensors.erase(ours);
  }
  test::DumpedTensor row{DType::kF32, {1, kPositions, 576}, {}};
  for (int64_t t = 0; t < kPositions; ++t)
    for (const auto& [name, size] : {std::pair("layer3.kv_latent", 2048), std::pair("layer3.k_rope", 256)})
      row.bytes.insert(row.bytes.end(), file[name].bytes.begin() + t * size,
                       file[name].bytes.begin() + (t + 1) * size);
  file.tensors.erase("layer3.kv_latent"), file.tensors.erase("layer3.k_rope");
  file.tensors["cache.3"] = row;
  float* const weights = file["layer2.index_weights"].as<float>();
  for (int64_t i = 0; i < kPositions * 8; ++i) weights[i] *= 0.5f;
  const std::string map = R"({
    "layer0.q_latent": {"from": "theirs.q_a", "rows": "reversed"},
    "layer*.q": {"from": ["rank0.*.q", "rank1.*.q"], "axis": 1,
                 "rope": {"first": 64, "dims": 64, "pairs": "halves"}},
    "layer3.kv_latent": {"from": "cache.3", "columns": [0, 512]},
    "layer3.k_rope": {"from": "cache.3", "columns": [512, 64]},
    "layer2.index_weights": {"from": "layer2.index_weights", "scale": 2.0}})";
  const std::filesystem::path path = file.write("mapped");
  expect_within(bisect(test::kRecordedV32, opened(test::kRecordedV32, path, "", map), Numerics::fp32()));
  // And each of them says something: without it the dump does not pass.
  for (const char* const part :
       {R"(, "rows": "reversed")",
        ",\n                 \"rope\": {\"first\": 64, \"dims\": 64, \"pairs\": \"halves\"}",
        R"(, "scale": 2.0)"}) {
    std::string less = map;
    less.erase(less.find(part), std::string(part).size());
    EXPECT_FALSE(
        bisect(test::kRecordedV32, opened(test::kRecordedV32, path, "", less), Numerics::fp32()).within())
        << part;
  }
}

TEST(bisect, a_map_tells_transposed_dimensions_and_a_list_of_rows) {
  test::DumpFile file = test::dump_of(test::kRecordedV32, Numerics::fp32(), kPositions);
  test::DumpedTensor& heads = file["layer1.attn_heads"];  // [32, 8, 64] -> [8, 32, 64]
  const std::vector<std::byte> old = heads.bytes;
  for (int64_t t = 0; t < kPositions; ++t)
    for (int64_t h = 0; h < 8; ++h)
      std::copy_n(old.begin() + (t * 8 + h) * 256, 256, heads.bytes.begin() + (h * kPositions + t) * 256);
  heads.shape = {8, kPositions, 64};
  test::DumpedTensor& out = file["layer2.attn_out"];
  reorder(out, 2, out.row_bytes(), [](int64_t r) { return 1 - r; });
  nlohmann::json rows;
  for (int64_t t = 0; t < kPositions; ++t) rows.push_back(t ^ 1);
  const nlohmann::json map{{"layer1.attn_heads", {{"from", "layer1.attn_heads"}, {"transpose", {1, 0, 2}}}},
                           {"layer2.attn_out", {{"from", "layer2.attn_out"}, {"rows", rows}}}};
  expect_within(bisect(test::kRecordedV32, opened(test::kRecordedV32, file.write("turned"), "", map.dump()),
                       Numerics::fp32()));
}

// ---- profiles

TEST(profiles, every_setting_is_one_that_numerics_take_and_has_its_source) {
  for (const audit::Profile& profile : audit::profiles())
    for (const audit::ProfileKnob& knob : profile.knobs) {
      EXPECT_NO_THROW(parse_numerics(fmt::format("fp32,{}", knob.setting))) << profile.name;
      EXPECT_FALSE(knob.source.empty()) << profile.name << " " << knob.setting;
    }
}

TEST(profiles, each_can_be_planned_for_every_family_it_speaks_of) {
  for (const audit::Profile& profile : audit::profiles())
    for (const test::Recorded& model : test::kRecorded) {
      SCOPED_TRACE(fmt::format("{} {}", profile.name, model.name));
      const test::TinyModel tiny(model.directory());
      if (profile.v4_alone && !tiny.model.config.window) {
        EXPECT_THROW(audit::profile_numerics(profile.name, tiny.model.config), Error);
        continue;
      }
      plan::Options options;
      options.context = 64;
      options.numerics = parse_numerics(audit::profile_numerics(profile.name, tiny.model.config));
      EXPECT_NO_THROW(plan::make(tiny.model, test::device(1), options));
    }
}

TEST(profiles, the_page_prints_them) {
  const std::string page(checkpoint::MappedFile(test::kSource + "/docs/engine_profiles.md").text());
  for (const audit::Profile& profile : audit::profiles())
    for (const audit::ProfileKnob& knob : profile.knobs)
      for (const std::string_view part : {profile.name, knob.setting, knob.source, knob.uncertain})
        EXPECT_NE(page.find(part), std::string::npos) << profile.name << ": " << part;
}

}  // namespace
}  // namespace fulgurite
