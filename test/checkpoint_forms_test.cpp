// The same model in other forms of the checkpoint gives the same bits: scales of the tiny model are powers of two, so its
// weights are exact in BF16 and F32, and every form is summed in the same order.

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <list>
#include <nlohmann/json.hpp>

#include "fulgurite/checkpoint/writer.h"
#include "test/tiny_model.h"

namespace fulgurite {
namespace {

namespace fs = std::filesystem;

// The tensors of the tiny model, linears dequantized to `dtype`.
class Dequantized {
 public:
  Dequantized(const test::TinyModel& tiny, DType dtype) {
    for (const model::TensorName& name : tiny.model.names) {
      const checkpoint::TensorView& stored = *tiny.checkpoint.find(name.name);
      if (name.form != model::Form::kLinear) {
        tensors_.push_back(stored);
        continue;
      }
      const auto scales = checkpoint::f32_values(*tiny.checkpoint.find(model::scale_name(name)));
      const int64_t blocks = (name.columns + 127) / 128;
      std::vector<std::byte>& bytes =
          owned_.emplace_back(static_cast<size_t>(name.rows * name.columns * bits(dtype) / 8));
      for (int64_t i = 0; i < name.rows * name.columns; ++i) {
        const int64_t row = i / name.columns, column = i % name.columns;
        const float value = to_float(e4m3{static_cast<uint8_t>(stored.bytes[static_cast<size_t>(i)])}) *
                            scales[static_cast<size_t>(row / 128 * blocks + column / 128)];
        if (dtype == DType::kF32) {
          std::memcpy(&bytes[static_cast<size_t>(i * 4)], &value, 4);
        } else {
          const bf16 half = to_bf16(value);
          EXPECT_EQ(to_float(half), value);
          std::memcpy(&bytes[static_cast<size_t>(i * 2)], &half, 2);
        }
      }
      tensors_.push_back({name.name, dtype, stored.shape, bytes});
    }
  }
  std::span<const checkpoint::TensorView> tensors() const { return tensors_; }

 private:
  std::list<std::vector<std::byte>> owned_;
  std::vector<checkpoint::TensorView> tensors_;
};

std::vector<float> logits_of(const model::Model& model) {
  plan::Options options;
  options.context = 256;
  options.logits = plan::LogitRows::kAll;
  execute::Session session(model, plan::make(model, test::device(2), options));
  const std::vector<int32_t> ids = test::golden_ids(0);
  const View<const float, 2> logits = session.forward(0, std::span(ids).first(200));
  return {logits.data, logits.data + logits.size()};
}

TEST(checkpoint_forms, dequantized_single_file_checkpoints_give_the_same_bits) {
  const test::TinyModel tiny;
  const std::vector<float> expected = logits_of(tiny.model);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const fs::path directory = test::scratch_file("dequantized");
    fs::create_directories(directory);
    nlohmann::json config = nlohmann::json::parse(tiny.checkpoint.config_text());
    config.erase("quantization_config");
    std::ofstream(directory / "config.json") << config.dump();
    checkpoint::write_safetensors(directory / "model.safetensors", Dequantized(tiny, dtype).tensors());
    const auto checkpoint = checkpoint::open(directory);
    EXPECT_TRUE(logits_of(model::bind(checkpoint)) == expected) << name(dtype);
    fs::remove_all(directory);
  }
}

}  // namespace
}  // namespace fulgurite
