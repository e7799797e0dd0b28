#pragma once
// The tiny model in another form: its linears dequantized.

#include <gtest/gtest.h>

#include <cstring>
#include <list>
#include <span>
#include <vector>

#include "test/tiny_model.h"

namespace fulgurite::test {

// The tensors of the tiny model, linears dequantized to `dtype`.
class Dequantized {
 public:
  Dequantized(const TinyModel& tiny, DType dtype) {
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

}  // namespace fulgurite::test
