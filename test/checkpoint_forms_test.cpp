// The same model in other forms of the checkpoint gives the same bits: scales of the tiny model are powers of
// two, so its weights are exact in BF16 and F32, and every form is summed in the same order.

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "fulgurite/checkpoint/writer.h"
#include "test/dequantized.h"

namespace fulgurite {
namespace {

namespace fs = std::filesystem;

std::vector<float> logits_of(const model::Model& model, const Numerics& numerics) {
  plan::Options options;
  options.numerics = numerics;
  options.context = 256;
  options.logits = plan::LogitRows::kAll;
  execute::Session session(model, plan::make(model, test::device(2), options));
  const std::vector<int32_t> ids = test::golden_ids(0);
  const View<const float, 2> logits = session.forward(0, std::span(ids).first(200));
  return {logits.data, logits.data + logits.size()};
}

// Without blocks nothing quantizes activations: `serving` is compared with itself on bf16 weights.
TEST(checkpoint_forms, dequantized_single_file_checkpoints_give_the_same_bits) {
  const test::TinyModel tiny;
  const std::vector<float> expected = logits_of(tiny.model, Numerics::fp32());
  const std::vector<float> unquantized =
      logits_of(tiny.model, parse_numerics("serving,activation_quant=none"));
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const fs::path directory = test::scratch_file("dequantized");
    fs::create_directories(directory);
    nlohmann::json config = nlohmann::json::parse(tiny.checkpoint.config_text());
    config.erase("quantization_config");
    std::ofstream(directory / "config.json") << config.dump();
    checkpoint::write_safetensors(directory / "model.safetensors", test::Dequantized(tiny, dtype).tensors());
    const auto checkpoint = checkpoint::open(directory);
    const model::Model model = model::bind(checkpoint);
    EXPECT_TRUE(logits_of(model, Numerics::fp32()) == expected) << name(dtype);
    EXPECT_TRUE(logits_of(model, Numerics::serving()) == unquantized) << name(dtype);
    fs::remove_all(directory);
  }
}

}  // namespace
}  // namespace fulgurite
