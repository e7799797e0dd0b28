#include "fulgurite/ops/largest_logits/largest_logits.h"

#include <gtest/gtest.h>

#include <cmath>

#include "fulgurite/ops/largest_logits/test_inputs.h"
#include "fulgurite/plan/catalog.h"
#include "test/gpu.h"
#include "test/op_test.h"

namespace fulgurite::largest_logits {
namespace {

const Target kHost{DeviceKind::kCpu, Isa::kPortable};

audit::OpReport judged(const Implementation& row, const Call& call, int threads, void* stream = nullptr) {
  cpu::ThreadPool workers(threads);
  const Buffer workspace(stream == nullptr ? kHostMemory : *test::gpu().accelerator->shared,
                         row.workspace_bytes(call.problem, threads));
  const Lane lane{threads, &workers, {workspace.data(), static_cast<size_t>(workspace.size())}, stream, true};
  return judge(row, call.problem, call.args, lane);
}

TEST(largest_logits, the_cpu_agrees_with_the_reference) {
  for (const Case& shape : kCases)
    for (const Kind kind : kKinds)
      for (const double temperature : {0.7, 1e-3, 100.0}) {
        const Call call(shape, kind, temperature, 3, kHost);
        const audit::OpReport report = judged(kCpu, call, shape.vocabulary > 10000 ? 1 : 3);
        EXPECT_TRUE(report.within()) << shape.what << " " << static_cast<int>(kind) << "\n"
                                     << describe(report);
      }
}

// The machine's GPU, or loops on the host in its place.
TEST(largest_logits, rows_of_a_gpu_agree_with_the_reference) {
  const Device gpu = test::gpu();
  const audit::TensorMemory memory(*gpu.accelerator->shared);
  void* const stream = gpu.accelerator->open_stream();
  for (const Implementation* const row : plan::catalog().largest_logits) {
    if (row->device != DeviceKind::kCuda) continue;
    for (const Case& shape : kCases)
      for (const Kind kind : kKinds)
        for (const double temperature : {0.7, 1e-3, 100.0}) {
          if (shape.vocabulary > 10000 && !cuda::is_built() && temperature != 0.7)
            continue;  // loops take their time
          const Call call(shape, kind, temperature, 3, gpu.target);
          if (row->supports(call.problem) || row->run == nullptr) continue;
          const audit::OpReport report = judged(*row, call, 2, stream);
          EXPECT_TRUE(report.within())
              << row->name << " " << shape.what << " " << static_cast<int>(kind) << "\n"
              << describe(report);
        }
  }
  gpu.accelerator->close_stream(stream);
}

TEST(largest_logits, ties_go_to_the_lower_id_zeros_are_equal_and_NaN_is_never_chosen) {
  const Call call({"", 1, 6, 3}, Kind::kOneValue, 1.0, 1, kHost);
  const float nan = std::nanf(""), row[] = {nan, -0.0f, -1.0f, 0.0f, 0.0f, nan};
  std::copy_n(row, 6, const_cast<float*>(call.args.logits.data));
  for (const Implementation* const implementation : {&kReference, &kCpu}) {
    test::run(*implementation, call.problem, call.args);
    for (int64_t i = 0; i < 3; ++i) {
      EXPECT_EQ(call.args.ids(0, i), (std::array{1, 3, 4})[static_cast<size_t>(i)]);
      EXPECT_FALSE(std::signbit(call.args.values(0, i)));
    }
    EXPECT_EQ(call.args.numbers(0), 4);
    EXPECT_DOUBLE_EQ(call.args.totals(0), 3.0 + std::exp(-1.0));
  }
}

TEST(largest_logits, the_audit_sees_an_id_and_a_total_that_are_wrong) {
  const Call call({"", 2, 50, 4}, Kind::kDrawn, 0.7, 1, kHost);
  Implementation wrong = kCpu;
  wrong.run = [](const Problem& problem, const Args& args, const Lane& lane) {
    kCpu.run(problem, args, lane);
    args.ids(1, 2) += 1;
    args.totals(0) *= 1.0 + 0x1p-40;
  };
  const audit::OpReport report = judged(wrong, call, 1);
  EXPECT_EQ(report.outputs[0].difference.beyond, 1);
  EXPECT_EQ(report.outputs[1].difference.beyond, 0);
  EXPECT_EQ(report.outputs[2].difference.beyond, 1);
}

TEST(largest_logits, names_the_tensor_that_breaks_the_contract) {
  const Call call({"", 2, 6, 3}, Kind::kDrawn, 1.0, 1, kHost);
  const auto message = [&](const auto& change) {
    Args args = call.args;
    change(args);
    return test::message_of([&] { check(call.problem, args); });
  };
  EXPECT_EQ(message([](Args&) {}), "");
  EXPECT_EQ(message([](Args& a) { a.values.extent[1] = 2; }),
            "largest_logits: values: expected shape [2, 3], found [2, 2]");
  EXPECT_EQ(message([](Args& a) { a.ids.extent[1] = 4; }),
            "largest_logits: count: expected a value in [1, 3], found 4");
  EXPECT_EQ(message([](Args& a) { a.logits.extent[1] = 5; }),
            "largest_logits: logits: expected shape [2, 6], found [2, 5]");
}

}  // namespace
}  // namespace fulgurite::largest_logits
