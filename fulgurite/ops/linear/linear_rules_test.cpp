// What each row of a GPU takes, each clause from both sides. What a rule does not name it refuses.

#include <gtest/gtest.h>

#include "fulgurite/core/requantized.h"
#include "fulgurite/ops/linear/linear.h"
#include "test/op_test.h"

namespace fulgurite::linear {
namespace {

MatrixFormat blocks(BlockShape block, ScaleFormat scale = ScaleFormat::kF32,
                    ScaleLayout layout = ScaleLayout::kRowMajor) {
  return {MatrixForm::kE4M3Blocks, block, scale, layout};
}
const MatrixFormat kBlocks = blocks({128, 128});
const MatrixFormat kPacked = blocks({128, 128}, ScaleFormat::kE8M0, ScaleLayout::kPacked);

// q_a of the 671B model, as `serving` asks for it; cuBLASLt of CUDA 12.9.
Problem problem_on(const std::string& target) {
  Setting setting = test::serving_setting();
  setting.target = target_named(target);
  setting.target.cuda = {12090, 120900};
  return {setting, 7168, 1536, kBlocks, Output::kActivation, 256};
}

template <class Change>
std::string refusal(const Implementation& row, const std::string& target, const Change& change) {
  Problem problem = problem_on(target);
  change(problem);
  return test::refusal(row, problem);
}
std::string refusal(const Implementation& row, const std::string& target) {
  return refusal(row, target, [](Problem&) {});
}

constexpr const Implementation* kGpuRows[] = {&kCudaFp8, &kCublasltFp8, &kCuda};

TEST(linear_rules, every_row_names_the_architectures_that_it_takes) {
  EXPECT_EQ(refusal(kCudaFp8, "sm80"), "target sm80, takes sm90 or sm100 or sm120");
  EXPECT_EQ(refusal(kCublasltFp8, "sm120"), "target sm120, takes sm90 or sm100");
  for (const char* const target : {"sm80", "sm90", "sm100", "sm120"}) EXPECT_EQ(refusal(kCuda, target), "");
  for (const char* const target : {"sm90", "sm100", "sm120"}) EXPECT_EQ(refusal(kCudaFp8, target), "");
  for (const Implementation* const row : kGpuRows) {
    EXPECT_NE(refusal(*row, "cpu"), "") << row->name;
    EXPECT_NE(refusal(*row, "sm90", [](Problem& p) { p.setting.target.sm = 103; }), "") << row->name;
  }
}

TEST(linear_rules, the_fast_path_is_bf16_in_and_out) {
  for (const char* const target : {"sm90", "sm100", "sm120"}) {
    const auto with = [&](Activation activation) {
      return refusal(kCudaFp8, target, [&](Problem& p) { p.setting.numerics.activation = activation; });
    };
    EXPECT_EQ(with(Activation::kFp16), "activation = fp16, takes bf16");
    EXPECT_EQ(with(Activation::kFp32), "activation = fp32, takes bf16");
    EXPECT_EQ(refusal(kCudaFp8, target, [](Problem& p) { p.output = Output::kF32; }),
              "output f32, takes bf16");
  }
}

TEST(linear_rules, hopper_reads_scales_of_both_formats_as_stored) {
  const auto with = [](const MatrixFormat& format) {
    return refusal(kCudaHopper, "sm90", [&](Problem& p) { p.weight = format; });
  };
  EXPECT_EQ(with(kBlocks), "");
  EXPECT_EQ(with(blocks({128, 128}, ScaleFormat::kE8M0)), "");
  EXPECT_EQ(with(kPacked),
            "weight in e4m3 128x128, scales e8m0 packed in int32, takes e4m3 128x128, scales f32 or e4m3 "
            "128x128, scales e8m0");
}

TEST(linear_rules, hopper_takes_weights_of_bf16_and_results_of_f32) {
  const auto with = [](const auto& change) {
    return refusal(kCudaBf16, "sm90", [&](Problem& p) {
      p.weight = {MatrixForm::kBF16, {}};
      change(p);
    });
  };
  EXPECT_EQ(with([](Problem&) {}), "");
  EXPECT_EQ(with([](Problem& p) { p.output = Output::kF32; }), "");
  EXPECT_EQ(with([](Problem& p) { p.in = 12; }), "K = 12, needs K % 8 == 0");
  EXPECT_EQ(with([](Problem& p) { p.out = 12; }), "N = 12, needs N % 8 == 0");
  EXPECT_EQ(with([](Problem& p) { p.setting.numerics.activation = Activation::kFp32; }),
            "activation = fp32, takes bf16");
  EXPECT_EQ(with([](Problem& p) { p.setting.target.sm = 80; }), "target sm80, takes sm90");
  EXPECT_EQ(with([](Problem& p) { p.weight = kBlocks; }), "weight in e4m3 128x128, scales f32, takes bf16");
}

TEST(linear_rules, the_fast_path_takes_n_of_64_and_k_of_128) {
  const auto shaped = [](int64_t out, int64_t in) {
    return refusal(kCudaFp8, "sm90", [&](Problem& p) {
      p.out = out;
      p.in = in;
    });
  };
  EXPECT_EQ(shaped(64, 128), "");
  EXPECT_EQ(shaped(576, 7168), "");
  for (const int64_t n : {32, 96, 63, 0})
    EXPECT_EQ(shaped(n, 128), fmt::format("N = {}, needs N % 64 == 0", n));
  for (const int64_t k : {192, 64, 0}) EXPECT_EQ(shaped(64, k), fmt::format("K = {}, needs K % 128 == 0", k));
}

TEST(linear_rules, the_fast_path_reads_scales_of_one_format_an_architecture) {
  const auto with = [](const char* target, const MatrixFormat& format) {
    return refusal(kCudaFp8, target, [&](Problem& p) { p.weight = format; });
  };
  const MatrixFormat bytes = blocks({128, 128}, ScaleFormat::kE8M0);
  EXPECT_EQ(with("sm90", kBlocks), "");
  EXPECT_EQ(with("sm90", bytes), "weight in e4m3 128x128, scales e8m0, takes e4m3 128x128, scales f32");
  EXPECT_NE(with("sm90", kPacked), "");
  for (const char* const target : {"sm100", "sm120"}) {
    for (const MatrixFormat& format : {kBlocks, bytes, kPacked}) {
      EXPECT_EQ(with(target, format), "");
      Problem problem = problem_on(target);
      problem.weight = format;
      EXPECT_EQ(kCudaFp8.reads(problem), kPacked);
    }
    EXPECT_NE(with(target, blocks({128, 128}, ScaleFormat::kF32, ScaleLayout::kColumnMajor)), "");
    EXPECT_EQ(refusal(kCudaFp8, target,
                      [](Problem& p) { p.setting.numerics.activation_scale = ActivationScale::kFp32; }),
              "activation_scale = fp32, takes pow2");
  }
  EXPECT_EQ(kCudaFp8.reads(problem_on("sm90")), kBlocks);
  for (const BlockShape block : {BlockShape{32, 32}, BlockShape{1, 32}, BlockShape{1, kWhole},
                                 BlockShape{kWhole, kWhole}, BlockShape{0, 0}})
    EXPECT_NE(with("sm90", blocks(block)), "");
  EXPECT_EQ(with("sm90", {MatrixForm::kBF16, {}, ScaleFormat::kF32}), "weight in bf16, takes e4m3 128x128");
}

TEST(linear_rules, cublaslt_takes_blocks_on_sm90_and_groups_of_32_on_sm100) {
  const auto with = [](const char* target, const MatrixFormat& format) {
    return refusal(kCublasltFp8, target, [&](Problem& p) { p.weight = format; });
  };
  EXPECT_EQ(with("sm90", kBlocks), "");
  EXPECT_EQ(with("sm90", blocks({kWhole, kWhole})), "");
  EXPECT_NE(with("sm90", blocks({1, 32}, ScaleFormat::kE8M0)), "");
  EXPECT_NE(with("sm90", blocks({1, kWhole})), "");
  EXPECT_NE(with("sm90", blocks({32, 32})), "");
  if (kCublasltFp8.run != nullptr) return;  // a build with its kernel has none for sm100
  EXPECT_EQ(with("sm100", blocks({1, 32}, ScaleFormat::kE8M0)), "");
  EXPECT_NE(with("sm100", blocks({1, 32})), "") << "fp32 scales are not what it reads";
  EXPECT_EQ(with("sm100", kBlocks), "weight in e4m3 128x128, scales f32, takes e4m3 1x32");
}

TEST(linear_rules, cublaslt_asks_for_16_for_rows_of_four_scales_and_for_its_version) {
  const auto shaped = [](int64_t out, int64_t in) {
    return refusal(kCublasltFp8, "sm90", [&](Problem& p) {
      p.out = out;
      p.in = in;
    });
  };
  EXPECT_EQ(shaped(32, 512), "");
  EXPECT_EQ(shaped(24, 512), "N = 24, needs N % 16 == 0");
  EXPECT_EQ(shaped(32, 500), "K = 500, needs K % 128 == 0");
  EXPECT_EQ(shaped(32, 256), "K = 256 has 2 scales a row, takes multiples of 4");
  const auto version = [](int number) {
    return refusal(kCublasltFp8, "sm90", [&](Problem& p) { p.setting.target.cuda.cublaslt = number; });
  };
  EXPECT_EQ(version(0), "no cuBLASLt is known (none without a device), needs 12.9");
  EXPECT_EQ(version(120805), "cuBLASLt 12.8, needs 12.9");
  EXPECT_EQ(version(130000), "");
  EXPECT_EQ(
      refusal(kCublasltFp8, "sm90", [](Problem& p) { p.setting.numerics.activation = Activation::kFp16; }),
      "activation = fp16, takes bf16");
  EXPECT_EQ(refusal(kCublasltFp8, "sm90", [](Problem& p) { p.output = Output::kF32; }),
            "output f32, takes bf16");
}

TEST(linear_rules, the_generic_row_takes_everything_as_stored) {
  for (const Activation activation : {Activation::kFp32, Activation::kBf16, Activation::kFp16})
    for (const MatrixFormat& format :
         {kBlocks, blocks({32, 32}), blocks({1, 32}, ScaleFormat::kE8M0), blocks({1, kWhole}),
          blocks({kWhole, kWhole}), MatrixFormat{MatrixForm::kMxfp4, {1, 32}, ScaleFormat::kE8M0},
          MatrixFormat{MatrixForm::kNvfp4, {1, 16}, ScaleFormat::kE4M3},
          MatrixFormat{MatrixForm::kF32, {}, ScaleFormat::kF32}})
      for (const Output output : {Output::kActivation, Output::kF32})
        EXPECT_EQ(refusal(kCuda, "sm80",
                          [&](Problem& p) {
                            p.setting.numerics.activation = activation;
                            p.weight = format;
                            p.output = output;
                            p.out = 96;
                            p.in = 192;
                          }),
                  "")
            << describe(format);
  EXPECT_EQ(kCuda.reads, nullptr);
  EXPECT_EQ(refusal(kCuda, "sm90", [](Problem& p) { p.weight = kPacked; }),
            "weight in e4m3 128x128, scales e8m0 packed in int32, reads scales as stored");
}

// A value outside an enum: what a later format would be to this build.
TEST(linear_rules, what_is_unknown_is_refused_by_every_row) {
  for (const Implementation* const row : kGpuRows) {
    const auto unknown = [&](const auto& change) { return refusal(*row, "sm100", change); };
    EXPECT_NE(unknown([](Problem& p) { p.setting.numerics.activation = static_cast<Activation>(9); }), "");
    EXPECT_NE(unknown([](Problem& p) { p.output = static_cast<Output>(9); }), "");
    EXPECT_NE(unknown([](Problem& p) { p.weight.layout = static_cast<ScaleLayout>(9); }), "");
    EXPECT_NE(unknown([](Problem& p) { p.weight.scale = static_cast<ScaleFormat>(9); }), "");
    EXPECT_NE(unknown([](Problem& p) { p.weight.scale = ScaleFormat::kE4M3; }), "");
    EXPECT_NE(unknown([](Problem& p) { p.weight.block = {0, 0}; }), "");
    EXPECT_NE(unknown([](Problem& p) { p.setting.numerics.mma = Mma::kHopper; }), "");
    EXPECT_NE(unknown([](Problem& p) { p.setting.numerics.activation_scale = ActivationScale::kCheckpoint; }),
              "");
  }
}

// What a row reads it takes, and reading it again changes nothing.
TEST(linear_rules, a_row_takes_the_form_that_it_reads) {
  for (const char* const target : {"sm90", "sm100", "sm120"})
    for (const Implementation* const row : {&kCudaFp8, &kCublasltFp8})
      for (const MatrixFormat& format : {kBlocks, blocks({128, 128}, ScaleFormat::kE8M0),
                                         blocks({1, 32}, ScaleFormat::kE8M0), blocks({kWhole, kWhole})}) {
        Problem problem = problem_on(target);
        problem.weight = format;
        if (row->supports(problem)) continue;
        problem.weight = row->reads(problem);
        EXPECT_EQ(test::refusal(*row, problem), "") << target << " " << row->name << " " << describe(format);
        EXPECT_EQ(row->reads(problem), problem.weight);
      }
}

TEST(linear_rules, scales_of_another_format_than_planned_are_refused_by_name) {
  Random random(1);
  const inputs::Weight weight = inputs::make_weight(random, 128, 128, kBlocks, inputs::Scales::kPow2);
  const Requantized requantized({weight.matrix.as, 128, 128});
  const PreparedMatrix packed = requantized.packed();
  const auto x =
      inputs::make_tensor(random, inputs::Values::kNormal, DType::kBF16, std::array<int64_t, 2>{2, 128});
  const auto y = inputs::unwritten<2>(DType::kBF16, {2, 128});
  const auto message = [&](const MatrixFormat& planned, const PreparedMatrix& handed) {
    Problem problem = problem_on("sm100");
    problem.in = problem.out = 128;
    problem.weight = planned;
    return test::message_of([&] { check(problem, {x.view, &handed, y.view}); });
  };
  EXPECT_EQ(message(kPacked, packed), "");
  EXPECT_EQ(message(kBlocks, weight.matrix), "");
  EXPECT_EQ(
      message(kPacked, weight.matrix),
      "linear: weight: expected e4m3 128x128, scales e8m0 packed in int32, found e4m3 128x128, scales f32");
  EXPECT_EQ(
      message(kBlocks, packed),
      "linear: weight: expected e4m3 128x128, scales f32, found e4m3 128x128, scales e8m0 packed in int32");
}

}  // namespace
}  // namespace fulgurite::linear
