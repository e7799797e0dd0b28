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
    {"scale_form", {"multiplied", "divided"}},
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
                                                        {"index_quant", "family"},
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
}

TEST(numerics, the_ends_of_a_range_belong_to_it) {
  for (const char* const text : {"fp32,index_norm_eps=1e-12", "fp32,index_norm_eps=0.1",
                                 "fp32,rsqrt=error:0.499", "fp32,rsqrt=error:-0.499"})
    EXPECT_EQ(message(text), "");
}

TEST(numerics, a_knob_that_stands_twice_is_refused) {
  EXPECT_EQ(message("serving,mla=expanded,mla=absorbed"), "numerics: mla stands twice");
  EXPECT_EQ(message("serving,mla=expanded,ties=lower,mla=expanded"), "numerics: mla stands twice");
  EXPECT_EQ(message("fp32,rsqrt=two_step,rsqrt=error:0.1"), "numerics: rsqrt stands twice");
  EXPECT_EQ(message("fp32,index_norm_eps=1e-5,index_norm_eps=1e-5"), "numerics: index_norm_eps stands twice");
}

TEST(numerics, what_the_user_wrote_is_printable_and_short_in_a_message) {
  const std::string bad = "\x1b[31m" + std::string(5000, 'x');
  for (const std::string& text : {bad, "serving," + bad, "serving," + bad + "=1", "serving,mla=" + bad,
                                  "serving,index_norm_eps=" + bad, "serving,rsqrt=error:" + bad}) {
    EXPECT_LT(message(text).size(), 700u) << text.substr(0, 40);
    EXPECT_EQ(message(text).find('\x1b'), std::string::npos) << text.substr(0, 40);
    EXPECT_NE(message(text).find("\\x1b[31mxxx"), std::string::npos) << message(text);
  }
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
  for (const char* const number :
       {"", "x", "1e-6x", "nan", "inf", "1e99", " 1", "0", "-1e-6", "9e-13", "0.2"})
    EXPECT_EQ(
        message(std::string("fp32,index_norm_eps=") + number),
        std::string("numerics: index_norm_eps: expected a number in [1e-12, 0.1], found \"") + number + "\"");
  for (const char* const number : {"", "nan", "inf", "0.5", "-0.5", "1e30"})
    EXPECT_EQ(
        message(std::string("fp32,rsqrt=error:") + number),
        std::string("numerics: rsqrt=error: expected a number in (-0.5, 0.5), found \"") + number + "\"");
  EXPECT_EQ(message("fp32,rsqrt=error"), "numerics: rsqrt=error needs its relative error: rsqrt=error:1e-4");
}

}  // namespace
}  // namespace fulgurite
