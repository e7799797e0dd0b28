#include "fulgurite/checkpoint/tensor_view.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "fulgurite/checkpoint/test_files.h"

namespace fulgurite::checkpoint {
namespace {

constexpr int64_t kLarge = int64_t{1} << 31;

int64_t size_of(DType dtype, const std::vector<int64_t>& shape) { return byte_size(dtype, shape, "x"); }

TEST(byte_size, is_the_product_of_bits_and_extents) {
  EXPECT_EQ(size_of(DType::kF32, {3, 9}), 108);
  EXPECT_EQ(size_of(DType::kF8_E4M3, {7168, 2048}), 7168 * 2048);
  EXPECT_EQ(size_of(DType::kF4, {3, 2}), 3);
  EXPECT_EQ(size_of(DType::kF6_E2M3, {4}), 3);
  EXPECT_EQ(size_of(DType::kI64, {}), 8);
}

TEST(byte_size, an_extent_of_zero_takes_no_bytes) {
  EXPECT_EQ(size_of(DType::kF32, {0}), 0);
  EXPECT_EQ(size_of(DType::kF32, {3, 0, 9}), 0);
  EXPECT_EQ(size_of(DType::kF4, {3, 0}), 0);
}

TEST(byte_size, sizes_up_to_63_bits_are_taken_and_larger_ones_refused) {
  EXPECT_EQ(size_of(DType::kU8, {kLarge, kLarge >> 3}), int64_t{1} << 59);
  EXPECT_EQ(refusal([] {
              size_of(DType::kU8, {kLarge, kLarge >> 2});
            }),
            "x: U8 [2147483648, 536870912] has a size beyond 63 bits");
}

TEST(byte_size, an_extent_of_zero_hides_no_overflow_whatever_the_order) {
  EXPECT_EQ(refusal([] {
              size_of(DType::kU8, {0, kLarge, kLarge});
            }),
            "x: U8 [0, 2147483648, 2147483648] has a size beyond 63 bits");
  EXPECT_EQ(refusal([] {
              size_of(DType::kU8, {kLarge, kLarge, 0});
            }),
            "x: U8 [2147483648, 2147483648, 0] has a size beyond 63 bits");
}

TEST(byte_size, a_part_of_a_byte_is_refused) {
  EXPECT_EQ(refusal([] { size_of(DType::kF4, {3}); }),
            "x: F4 [3] needs 12 bits, not a whole number of bytes");
  EXPECT_EQ(refusal([] { size_of(DType::kF6_E3M2, {2}); }),
            "x: F6_E3M2 [2] needs 12 bits, not a whole number of bytes");
}

TEST(byte_size, a_negative_extent_is_refused) {
  EXPECT_EQ(refusal([] { size_of(DType::kU8, {-1, -1}); }), "x: U8 [-1, -1] has a negative extent");
}

TEST(tensor_view, a_shape_without_end_is_cut_in_messages) {
  const std::vector<int64_t> shape(1000, 1);
  EXPECT_LT(describe(DType::kU8, shape).size(), 140u);
  EXPECT_EQ(describe(DType::kU8, {}), "U8 []");
}

struct Tensors {
  alignas(8) std::array<std::byte, 24> memory{};
  TensorView at(size_t offset, size_t bytes, DType dtype) const {
    return {"a.b", dtype, {static_cast<int64_t>(bytes)}, std::span(memory).subspan(offset, bytes)};
  }
};

TEST(tensor_view, an_address_must_be_a_multiple_of_the_size_of_an_element_to_be_aligned) {
  const Tensors tensors;
  EXPECT_TRUE(aligned(tensors.at(8, 8, DType::kF64)));
  EXPECT_FALSE(aligned(tensors.at(4, 8, DType::kF64)));
  EXPECT_TRUE(aligned(tensors.at(4, 8, DType::kF32)));
  EXPECT_FALSE(aligned(tensors.at(2, 8, DType::kF32)));
  EXPECT_TRUE(aligned(tensors.at(2, 8, DType::kBF16)));
  EXPECT_FALSE(aligned(tensors.at(1, 8, DType::kBF16)));
  EXPECT_TRUE(aligned(tensors.at(1, 8, DType::kF8_E4M3)));
  EXPECT_TRUE(aligned(tensors.at(1, 8, DType::kF4)));
  EXPECT_TRUE(aligned(tensors.at(1, 0, DType::kF64)));
}

TEST(typed_values, are_the_elements_in_place) {
  const std::array<float, 3> floats{1.0f, -2.5f, 0.0f};
  const TensorView f32{"f", DType::kF32, {3}, std::as_bytes(std::span(floats))};
  EXPECT_EQ(f32_values(f32).data(), floats.data());
  EXPECT_EQ(f32_values(f32).size(), 3u);
  const std::array<int32_t, 2> integers{7, -9};
  const TensorView i32{"i", DType::kI32, {2}, std::as_bytes(std::span(integers))};
  EXPECT_EQ(i32_values(i32).data(), integers.data());
  EXPECT_EQ(i32_values(i32).size(), 2u);
}

TEST(typed_values, another_dtype_is_refused) {
  const Tensors tensors;
  EXPECT_EQ(refusal([&] { f32_values(tensors.at(0, 8, DType::kI32)); }),
            "tensor \"a.b\": expected F32, found I32 [8]");
  EXPECT_EQ(refusal([&] { i32_values(tensors.at(0, 8, DType::kF32)); }),
            "tensor \"a.b\": expected I32, found F32 [8]");
}

TEST(typed_values, misaligned_bytes_are_refused) {
  const Tensors tensors;
  EXPECT_EQ(refusal([&] { f32_values(tensors.at(2, 8, DType::kF32)); }),
            "tensor \"a.b\": F32 [8] must be aligned to 4 bytes, its bytes in the file are not");
  EXPECT_EQ(refusal([&] { i32_values(tensors.at(1, 8, DType::kI32)); }),
            "tensor \"a.b\": I32 [8] must be aligned to 4 bytes, its bytes in the file are not");
}

}  // namespace
}  // namespace fulgurite::checkpoint
