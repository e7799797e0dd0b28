#include "fulgurite/core/element.h"

#include <gtest/gtest.h>

#include <array>

namespace fulgurite {
namespace {

TEST(element, is_widened_when_read_and_rounded_once_when_written) {
  std::array<float, 6> f32{};
  std::array<bf16, 6> half{};
  const Tensor<2> wide = View<float, 2>(f32.data(), {2, 3}), narrow = View<bf16, 2>(half.data(), {2, 3});
  const float value = 1.0f + 0x1p-7f + 0x1p-9f;
  store(wide, value, 1, 2);
  store(narrow, value, 1, 2);
  EXPECT_EQ(f32[5], value);
  EXPECT_EQ(load(wide, 1, 2), value);
  EXPECT_EQ(to_float(half[5]), 1.0f + 0x1p-7f);
  EXPECT_EQ(load(ConstTensor<2>(narrow), 1, 2), 1.0f + 0x1p-7f);
  EXPECT_EQ(round_to(DType::kF32, value), value);
  EXPECT_EQ(round_to(DType::kBF16, value), 1.0f + 0x1p-7f);
}

TEST(element, a_slice_and_a_row_of_a_tensor_are_where_its_strides_say) {
  std::array<bf16, 24> half{};
  const Tensor<3> tensor = View<bf16, 3>(half.data(), {2, 3, 4});
  store(tensor.slice(2, 1, 2)[1], 3.0f, 2, 1);
  EXPECT_EQ(to_float(half[1 * 12 + 2 * 4 + 2]), 3.0f);
  EXPECT_EQ(load(tensor[1][2], 2), 3.0f);
  EXPECT_EQ(load(tensor.slice(0, 1, 1).slice(1, 2, 1), 0, 0, 2), 3.0f);
}

}  // namespace
}  // namespace fulgurite
