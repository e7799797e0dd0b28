// Every form of the checkpoint in the preset `serving`: what it must equal there, and who runs it.

#include <set>

#include "test/converted.h"

namespace fulgurite {
namespace {

using test::Converted;

const Numerics kServing = Numerics::serving();

std::string tiny_trace(const std::string& numerics = "serving") {
  return test::form_trace(test::kTinyV32, parse_numerics(numerics));
}

// Codes stay codes and exponents are read as what they are; a wk stored in bf16 is what the fp8 one is read
// as.
TEST(convert_serving, forms_that_keep_codes_or_what_is_read_of_them_give_byte_identical_traces) {
  const std::string expected = tiny_trace();
  for (const char* const form : {"fp8", "fp8-e8m0", "fused-bf16"})
    EXPECT_TRUE(test::form_trace(Converted(test::kTinyV32, form).path(), kServing) == expected) << form;
}

// A linear of bf16 weights quantizes no activations: with the preset's knob for that the two are one model.
TEST(convert_serving, bf16_weights_give_what_fp8_ones_give_without_quantized_activations) {
  const Converted half(test::kTinyV32, "bf16");
  const std::string trace = test::form_trace(half.path(), kServing);
  EXPECT_TRUE(trace == tiny_trace("serving,activation_quant=none"));
  EXPECT_FALSE(trace == tiny_trace());
}

// The operations that the references run: all others have a kernel.
std::set<std::string> run_by_references(const plan::Plan& plan) {
  std::set<std::string> operations;
  for (const plan::Row& row : plan.rows)
    if (row.implementation == "reference") operations.insert(row.operation);
  return operations;
}

TEST(convert_serving, every_form_has_kernels) {
  for (const std::string_view form : model::form_names()) {
    const Converted converted(test::kTinyV32, std::string(form));
    const auto checkpoint = checkpoint::open(converted.path());
    const model::Model model = model::bind(checkpoint);
    for (const Numerics& numerics : test::kPresets)
      EXPECT_EQ(run_by_references(test::form_plan(model, numerics)), std::set<std::string>())
          << form << summary(numerics);
  }
}

std::vector<float> logits_of(const model::Model& model, plan::Candidates candidates) {
  constexpr int64_t kTokens = 24;
  plan::Options options = test::trace_options(kServing, kTokens, kTokens);
  options.candidates = candidates;
  execute::Session session(model, plan::make(model, test::device(2), options));
  const std::vector<int32_t> ids = test::golden_ids(1);
  const View<const float, 2> logits = session.forward(0, std::span(ids).first(kTokens));
  return {logits.data, logits.data + logits.size()};
}

// |a - b| / |b|, of all logits.
// Sums in another order tip a rounding now and then, no more; a form read wrongly is another model.
TEST(convert_serving, lossy_forms_give_what_their_references_give) {
  const test::TinyModel tiny;
  const std::vector<float> unconverted = logits_of(tiny.model, plan::Candidates::kAll);
  const std::string trace = tiny_trace();
  for (const char* const form : {"fp8-channel", "gate-fp8", "fused-fp8", "mxfp4-experts", "nvfp4-experts"}) {
    const Converted converted(test::kTinyV32, form);
    const auto checkpoint = checkpoint::open(converted.path());
    const model::Model model = model::bind(checkpoint);
    const std::vector<float> planned = logits_of(model, plan::Candidates::kAll);
    EXPECT_LT(test::distance(planned, logits_of(model, plan::Candidates::kReferencesOnly)), 0.05) << form;
    EXPECT_LT(test::distance(planned, unconverted), 0.5) << form;
    EXPECT_FALSE(test::form_trace(converted.path(), kServing) == trace) << form << " loses something";
  }
}

}  // namespace
}  // namespace fulgurite
