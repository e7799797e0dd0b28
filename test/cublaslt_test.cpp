// The fp8 linear of NVIDIA's library, on a GPU that has it: the bits of the reference of what the row states.

#include <gtest/gtest.h>

#include <cstring>

#include "fulgurite/audit/tensors.h"
#include "fulgurite/ops/linear/linear_audit.h"
#include "test/gpu.h"
#include "test/op_test.h"

namespace fulgurite {
namespace {

// A weight in memory that both sides read.
struct SharedWeight {
  SharedWeight(const Memory& memory, int64_t out, int64_t in)
      : made([&] {
          Random random(7);
          return inputs::make_weight(random, out, in,
                                     {MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32});
        }()),
        codes(memory, static_cast<int64_t>(made.data->size())),
        scales(memory, static_cast<int64_t>(made.scales->size() * sizeof(float))) {
    std::memcpy(codes.data(), made.data->data(), made.data->size());
    std::memcpy(scales.data(), made.scales->data(), made.scales->size() * sizeof(float));
    auto& blocks = std::get<BlockScaled>(made.matrix.as);
    blocks.data.data = reinterpret_cast<const e4m3*>(codes.data());
    blocks.scale.data = reinterpret_cast<const float*>(scales.data());
  }
  inputs::Weight made;
  Buffer codes, scales;
};

// How many results of `tokens` tokens differ from the reference.
int64_t differing(const Device& gpu, void* stream, const SharedWeight& weight, int64_t tokens) {
  const PreparedMatrix& matrix = weight.made.matrix;
  linear::Problem problem{
      {gpu.target, Numerics::serving().resolved(ActivationScale::kPow2, IndexQuant::kFp8)},
      matrix.in,
      matrix.out,
      format_of(matrix),
      linear::Output::kActivation,
      256};
  EXPECT_EQ(test::refusal(linear::kCublasltFp8, problem), "");
  const Buffer workspace(*gpu.accelerator->own, linear::kCublasltFp8.workspace_bytes(problem, 1));
  problem = linear::kCublasltFp8.states(problem);
  const audit::TensorMemory memory(*gpu.accelerator->shared);
  Random random(static_cast<uint64_t>(tokens));
  const audit::OwnedTensor<2> x(DType::kBF16, {tokens, matrix.in}), y(DType::kBF16, {tokens, matrix.out});
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < matrix.in; ++i)
      store(x.view(), t == 2 && i == 5 ? std::nanf("") : static_cast<float>(random.normal()), t, i);
  const Lane lane{1, nullptr, {workspace.data(), static_cast<size_t>(workspace.size())}, stream, true};
  const audit::OpReport report =
      linear::judge(linear::kCublasltFp8, problem, {ConstTensor<2>(x.view()), &matrix, y.view()}, lane);
  EXPECT_TRUE(report.within()) << describe(report);
  const audit::OwnedTensor<2> expected(DType::kBF16, y.view().extent);
  linear::kReference.run(problem, {ConstTensor<2>(x.view()), &matrix, expected.view()}, {});
  const std::vector<float> found = audit::values(y.view()), wanted = audit::values(expected.view());
  int64_t differ = 0;
  for (size_t i = 0; i < found.size(); ++i)
    differ += found[i] != wanted[i] && !(std::isnan(found[i]) && std::isnan(wanted[i]));
  return differ;
}

TEST(gpu, cublaslt_has_the_bits_of_its_reference) {
  const Device gpu = test::gpu();
  if (!test::has_hopper() || gpu.target.cuda.cublaslt == 0)
    GTEST_SKIP() << "needs Hopper's kernels, compute capability 9.0 and cuBLASLt";
  void* const stream = gpu.accelerator->open_stream();
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{144, 512}, {256, 1536}, {320, 7168}}) {
    const SharedWeight weight(*gpu.accelerator->shared, out, in);
    for (const int64_t tokens : {0, 1, 3, 4, 5, 17, 64, 130})
      EXPECT_EQ(differing(gpu, stream, weight, tokens), 0)
          << out << " x " << in << ", " << tokens << " tokens";
  }
  gpu.accelerator->close_stream(stream);
}

}  // namespace
}  // namespace fulgurite
