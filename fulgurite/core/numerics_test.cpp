#include "fulgurite/core/numerics.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "fulgurite/core/error.h"

namespace fulgurite {
namespace {

// docs/numerics.md, the table of knobs. The order of the values is the enum's.
struct Knob {
  const char* name;
  std::vector<std::string> values;
};
const std::vector<Knob> kKnobs = {
    {"activation", {"fp32", "bf16", "fp16"}},
    {"activation_quant", {"none", "e4m3"}},
    {"activation_scale", {"checkpoint", "fp32", "pow2"}},
    {"norm_input", {"unrounded", "rounded"}},
    {"rsqrt", {"correct", "two_step", "x86_12", "x86_14", "cuda", "error:0.001"}},
    {"mla", {"absorbed", "expanded"}},
    {"latent_cache", {"fp32", "bf16", "fp8"}},
    {"indexer_wk", {"fp32", "bf16", "fp8"}},
    {"gate", {"fp32", "bf16"}},
    {"gate_weight", {"stored", "fp8"}},
    {"hadamard", {"none", "q", "both"}},
    {"index_quant", {"none", "fp8", "fp4"}},
    {"index_scale", {"pow2", "fp32"}},
    {"indexer_rope", {"family", "interleaved", "half_split"}},
    {"index_norm", {"fp32", "bf16"}},
    {"index_norm_eps", {"1e-06", "1e-05", "1.2345679e-07"}},
    {"kv_quant", {"none", "e4m3"}},
    {"shared_clamp", {"off", "on"}},
    {"softmax_tile", {"none", "64", "128"}},
    {"softmax_merge", {"running", "independent"}},
    {"softmax_denominator", {"unrounded", "rounded"}},
    {"softmax_p", {"fp32", "bf16"}},
    {"qk_operands", {"fp32", "bf16"}},
    {"ties", {"lower", "higher"}},
    {"mma", {"exact", "hopper"}},
};

std::string value_of(const Numerics& numerics, std::string_view knob) {
  for (const auto& [name, value] : describe(numerics))
    if (name == knob) return value;
  return "no such knob";
}

std::string message(std::string_view text) {
  try {
    parse_numerics(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kRequest);
    return error.what();
  }
  return "";
}

TEST(numerics, every_knob_is_described_once_and_in_the_order_of_the_page) {
  const auto described = describe(Numerics::serving());
  ASSERT_EQ(described.size(), kKnobs.size());
  for (size_t i = 0; i < kKnobs.size(); ++i) EXPECT_EQ(described[i].first, kKnobs[i].name);
}

TEST(numerics, every_value_is_read_described_and_read_again_from_the_summary) {
  for (const std::string preset : {"fp32", "serving"}) {
    for (const Knob& knob : kKnobs) {
      for (const std::string& value : knob.values) {
        const std::string text = preset + "," + knob.name + "=" + value;
        const Numerics numerics = parse_numerics(text);
        EXPECT_EQ(value_of(numerics, knob.name), value) << text;
        EXPECT_EQ(parse_numerics(summary(numerics)), numerics) << summary(numerics);
      }
    }
  }
}

TEST(numerics, a_knob_changes_itself_alone) {
  for (const Knob& knob : kKnobs) {
    for (const std::string& value : knob.values) {
      const auto before = describe(Numerics::serving());
      const auto after = describe(parse_numerics(std::string("serving,") + knob.name + "=" + value));
      for (size_t i = 0; i < before.size(); ++i) {
        if (before[i].first == knob.name) continue;
        EXPECT_EQ(after[i], before[i]) << knob.name << "=" << value;
      }
    }
  }
}

TEST(numerics, the_presets_are_those_of_the_page) {
  EXPECT_EQ(parse_numerics("fp32"), Numerics::fp32());
  EXPECT_EQ(parse_numerics("serving"), Numerics::serving());
  EXPECT_EQ(summary(Numerics::fp32()), "fp32");
  EXPECT_EQ(summary(Numerics::serving()), "serving");
  const Numerics serving = Numerics::serving();
  for (const auto& [knob, value] :
       std::vector<std::pair<const char*, const char*>>{{"activation", "bf16"},
                                                        {"activation_quant", "e4m3"},
                                                        {"latent_cache", "fp8"},
                                                        {"indexer_wk", "bf16"},
                                                        {"gate", "fp32"},
                                                        {"hadamard", "both"},
                                                        {"index_quant", "fp8"},
                                                        {"index_scale", "pow2"},
                                                        {"softmax_tile", "64"},
                                                        {"softmax_p", "bf16"},
                                                        {"qk_operands", "bf16"},
                                                        {"mma", "exact"}})
    EXPECT_EQ(value_of(serving, knob), value);
}

TEST(numerics, a_summary_names_the_nearer_preset_and_what_differs) {
  EXPECT_EQ(summary(parse_numerics("serving,mla=expanded,ties=higher")), "serving,mla=expanded,ties=higher");
  EXPECT_EQ(summary(parse_numerics("fp32,rsqrt=error:1e-4")), "fp32,rsqrt=error:0.0001");
  EXPECT_EQ(summary(parse_numerics("serving,mla=expanded,mla=absorbed")), "serving");  // the last one counts
}

TEST(numerics, says_what_may_stand_where_something_else_stands) {
  EXPECT_EQ(message("exact"),
            "numerics: expected PRESET[,knob=value...] with preset fp32 or serving, found \"exact\"");
  EXPECT_EQ(message(""), "numerics: expected PRESET[,knob=value...] with preset fp32 or serving, found \"\"");
  EXPECT_EQ(message("mla=expanded"),
            "numerics: expected PRESET[,knob=value...] with preset fp32 or serving, found \"mla=expanded\"");
  EXPECT_EQ(message("serving,mla"), "numerics: expected knob=value, found \"mla\"");
  EXPECT_EQ(message("serving,"), "numerics: expected knob=value, found \"\"");
  EXPECT_EQ(message("serving,mla=fp8"), "numerics: mla: expected one of absorbed, expanded, found \"fp8\"");
  EXPECT_EQ(message("serving,mla="), "numerics: mla: expected one of absorbed, expanded, found \"\"");
  EXPECT_TRUE(
      message("serving,MLA=absorbed").starts_with("numerics: no knob \"MLA\"; there are activation, "));
  EXPECT_TRUE(message("serving,MLA=absorbed").ends_with("ties, mma, index_norm_eps"));
  for (const char* const number : {"", "x", "1e-6x", "nan", "inf", "1e99", " 1"})
    EXPECT_EQ(message(std::string("fp32,index_norm_eps=") + number),
              std::string("numerics: index_norm_eps: expected a number, found \"") + number + "\"");
  EXPECT_EQ(message("fp32,rsqrt=error:"), "numerics: rsqrt=error: expected a number, found \"\"");
  EXPECT_EQ(message("fp32,rsqrt=error"), "numerics: rsqrt=error needs its relative error: rsqrt=error:1e-4");
}

}  // namespace
}  // namespace fulgurite
