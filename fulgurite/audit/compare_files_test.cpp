#include "fulgurite/audit/compare_files.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/checkpoint/writer.h"
#include "test/op_test.h"
#include "test/tiny_model.h"

namespace fulgurite::audit {
namespace {

struct Named {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> f32;
  std::vector<int32_t> i32;
};

checkpoint::SafetensorsFile file_of(const std::string& file, const std::vector<Named>& tensors) {
  std::vector<checkpoint::TensorView> views;
  for (const Named& t : tensors)
    views.push_back({t.name, t.i32.empty() ? DType::kF32 : DType::kI32, t.shape,
                     t.i32.empty() ? std::as_bytes(std::span(t.f32)) : std::as_bytes(std::span(t.i32))});
  const auto path = test::scratch_file(file);
  checkpoint::write_safetensors(path, views);
  return checkpoint::SafetensorsFile::open(path);
}

TensorDifference difference(const Named& a, const Named& b) {
  return compare_files(file_of("a.safetensors", {a}), "", file_of("b.safetensors", {b}), "").tensors.at(0);
}

TEST(compare_files, equal_tensors_have_no_distance) {
  const Named x{"layer0.hidden", {2, 2}, {1, 2, 3, std::nanf("")}, {}};
  EXPECT_EQ(difference(x, x).distance(), 0.0);
}

TEST(compare_files, one_wrong_row_is_seen_among_many) {
  Named a{"x", {1000, 4}, std::vector<float>(4000, 1.0f), {}}, b = a;
  a.f32[4 * 700 + 2] = 1.5f;
  const TensorDifference d = difference(a, b);
  EXPECT_DOUBLE_EQ(d.worst_row_l2, 0.25);
  EXPECT_EQ(d.worst_row, 700);
  EXPECT_EQ(d.largest_at, (std::vector<int64_t>{700, 2}));
  EXPECT_DOUBLE_EQ(d.largest, 0.5);
  EXPECT_NEAR(d.relative_l2, 0.5 / std::sqrt(4000.0), 1e-12);
}

TEST(compare_files, a_NaN_or_infinity_on_one_side_is_beyond_any_tolerance) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const auto& [left, right] :
       {std::pair{std::nanf(""), 1.0f}, {1.0f, std::nanf("")}, {infinity, 1.0f}, {infinity, -infinity}}) {
    const TensorDifference d = difference({"x", {1, 2}, {1.0f, left}, {}}, {"x", {1, 2}, {1.0f, right}, {}});
    EXPECT_EQ(d.mask_mismatches, 1);
    EXPECT_FALSE(d.distance() <= 1e30);
  }
  EXPECT_EQ(difference({"x", {1}, {-infinity}, {}}, {"x", {1}, {-infinity}, {}}).distance(), 0.0);
}

TEST(compare_files, a_difference_from_zeros_is_beyond_any_tolerance) {
  EXPECT_FALSE(difference({"x", {2}, {1e-30f, 0}, {}}, {"x", {2}, {0, 0}, {}}).distance() <= 1e30);
}

TEST(compare_files, index_tensors_are_sets_and_minus_one_is_no_member) {
  const TensorDifference same =
      difference({"layer0.topk", {1, 4}, {}, {3, 1, 2, -1}}, {"layer0.topk", {1, 4}, {}, {-1, 1, 2, 3}});
  EXPECT_EQ(same.distance(), 0.0);
  const TensorDifference d = difference({"layer0.topk", {2, 4}, {}, {0, 1, 2, 3, 4, 5, 6, 7}},
                                        {"layer0.topk", {2, 4}, {}, {0, 1, 2, 3, 4, 5, 6, 8}});
  EXPECT_DOUBLE_EQ(d.smallest_overlap, 0.75);
  EXPECT_EQ(d.rows_that_differ, 1);
  EXPECT_EQ(d.worst_row, 1);
  // A subset is no match.
  EXPECT_GT(difference({"topk", {1, 2}, {}, {1, -1}}, {"topk", {1, 2}, {}, {1, 2}}).distance(), 0.0);
}

TEST(compare_files, an_empty_tensor_has_nothing_to_compare_however_many_its_rows) {
  EXPECT_EQ(difference({"x", {int64_t{1} << 40, 0}, {}, {}}, {"x", {int64_t{1} << 40, 0}, {}, {}}).distance(),
            0.0);
}

TEST(compare_files, a_set_that_names_a_member_twice_is_no_set) {
  EXPECT_EQ(difference({"topk", {1, 4}, {}, {5, 5, 5, -1}}, {"topk", {1, 4}, {}, {5, -1, -1, -1}}).problem,
            "row 0 names 5 twice");
}

TEST(compare_files, other_shapes_or_kinds_are_a_problem_that_no_tolerance_takes) {
  EXPECT_EQ(
      difference({"x", {2, 3}, std::vector<float>(6), {}}, {"x", {3, 2}, std::vector<float>(6), {}}).problem,
      "F32 [2, 3] against F32 [3, 2]");
  EXPECT_FALSE(difference({"x", {1}, {1}, {}}, {"x", {1}, {}, {1}}).distance() <= 1e30);
}

TEST(compare_files, of_more_positions_the_last_are_compared_but_entries_are_none) {
  const Named three{"layer1.q", {3, 2}, {9, 9, 1, 2, 3, 4}, {}}, two{"layer1.q", {2, 2}, {1, 2, 3, 4}, {}};
  EXPECT_EQ(difference(three, two).distance(), 0.0);
  EXPECT_EQ(difference(two, three).distance(), 0.0);
  const Named other{"layer1.q", {2, 2}, {9, 9, 1, 2}, {}};  // the first two
  EXPECT_GT(difference(three, other).distance(), 0.1);
  Named entries = three, fewer = two;
  entries.name = fewer.name = "layer1.entries";
  EXPECT_EQ(difference(entries, fewer).problem, "F32 [3, 2] against F32 [2, 2]");
}

TEST(compare_files, the_first_beyond_follows_the_computation_and_not_the_alphabet) {
  const std::vector<Named> right{{"layer10.hidden", {1}, {1}, {}},
                                 {"layer2.attn_out", {1}, {1}, {}},
                                 {"layer2.q", {1}, {1}, {}},
                                 {"logits", {1}, {1}, {}}};
  std::vector<Named> wrong = right;
  for (Named& tensor : wrong) tensor.f32[0] = 2;
  const Comparison c =
      compare_files(file_of("a.safetensors", wrong), "", file_of("b.safetensors", right), "");
  std::vector<std::string> order;
  for (const TensorDifference& d : c.tensors) order.push_back(d.name);
  EXPECT_EQ(order, (std::vector<std::string>{"layer2.q", "layer2.attn_out", "layer10.hidden", "logits"}));
  EXPECT_EQ(c.first_beyond(1e-5)->name, "layer2.q");
  EXPECT_EQ(c.first_beyond(2.0), nullptr);
}

TEST(compare_files, prefixes_are_taken_off_and_the_rest_is_listed) {
  const Comparison c =
      compare_files(file_of("a.safetensors", {{"x", {1}, {1}, {}}, {"y", {1}, {1}, {}}}), "",
                    file_of("b.safetensors",
                            {{"seq0.x", {1}, {1}, {}}, {"seq0.z", {1}, {1}, {}}, {"seq1.y", {1}, {1}, {}}}),
                    "seq0.");
  ASSERT_EQ(c.tensors.size(), 1u);
  EXPECT_EQ(c.only_a, std::vector<std::string>{"y"});
  EXPECT_EQ(c.only_b, std::vector<std::string>{"z"});
}

}  // namespace
}  // namespace fulgurite::audit
