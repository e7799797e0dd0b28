#pragma once
// What the tests of hyper_connection share: batches, and results that own their tensors.

#include <array>
#include <vector>

#include "fulgurite/audit/report.h"
#include "fulgurite/ops/hyper_connection/hyper_connection_audit.h"
#include "fulgurite/ops/hyper_connection/hyper_connection_cases.h"
#include "test/op_test.h"

namespace fulgurite::hyper_connection {

using inputs::TensorBuffer;
using inputs::Values;

inline constexpr DType kActivations[] = {DType::kF32, DType::kBF16, DType::kF16};

inline Problem problem_of(const Case& shape, DType activation = DType::kF32, Kind kind = Kind::kLayer,
                          Isa isa = cpu::best_isa()) {
  Problem problem{test::setting_of(activation, isa), shape.hidden};
  problem.kind = kind;
  problem.largest_batch = shape.tokens;
  return problem;
}

struct Batch {
  TensorBuffer<3> streams, mix;
  TensorBuffer<2> block, post, replaced, fn;
  TensorBuffer<1> base, scale;
};
// Coefficients of the site before as sites make them, fn such that m is around 1; the values are those of
// streams and block.
inline Batch make_batch(const Case& shape, Values values, DType activation = DType::kF32,
                        Kind kind = Kind::kLayer) {
  Random random(1);
  const int64_t n = kind == Kind::kHead ? 4 : 24, flat = 4 * shape.hidden;
  Batch batch{
      inputs::make_tensor(random, values, activation, std::array{shape.tokens, kStreams, shape.hidden}),
      inputs::unwritten<3>(DType::kF32, {shape.tokens, kStreams, kStreams}),
      inputs::make_tensor(random, values, activation, std::array{shape.tokens, shape.hidden}),
      inputs::unwritten<2>(DType::kF32, {shape.tokens, kStreams}),
      inputs::make_tensor(random, values, DType::kF32, std::array{shape.tokens, flat}),
      inputs::make_tensor(random, Values::kNormal, DType::kF32, std::array{n, flat}),
      inputs::make_tensor(random, Values::kNormal, DType::kF32, std::array{n}),
      inputs::make_tensor(random, Values::kNormal, DType::kF32,
                          std::array{int64_t{kind == Kind::kHead ? 1 : 3}})};
  const auto size = static_cast<float>(1.0 / std::sqrt(static_cast<double>(flat)));
  for (int64_t at = 0; at < n * flat; ++at)
    store(batch.fn.view, size * load(batch.fn.view, at / flat, at % flat), at / flat, at % flat);
  for (int64_t at = 0; at < shape.tokens * 16; ++at) {
    const auto value = static_cast<float>(random.uniform(0.0, 1.0));
    store(batch.mix.view, value, at / 16, at / 4 % 4, at % 4);
    if (at % 4 == 0) store(batch.post.view, 2.0f * value, at / 16, at / 4 % 4);
  }
  return batch;
}

enum class Reads { kStreams, kBlock, kReplaced };
inline constexpr Reads kAllReads[] = {Reads::kStreams, Reads::kBlock, Reads::kReplaced};

inline Args args_of(const Batch& batch, Reads reads) {
  Args args;
  args.streams = batch.streams.view;
  if (reads == Reads::kBlock) {
    args.block = batch.block.view;
    args.post = batch.post.view.as<float>();
    args.mix = batch.mix.view.as<float>();
  }
  if (reads == Reads::kReplaced) args.replaced = batch.replaced.view.as<float>();
  args.fn = batch.fn.view.as<float>();
  args.base = batch.base.view.as<float>();
  args.scale = batch.scale.view.as<float>();
  return args;
}

struct Result {
  TensorBuffer<3> streams, mix;
  TensorBuffer<2> post, collapsed;

  std::vector<float> all_but_streams() const {
    std::vector<float> all = mix.values();
    for (const float value : post.values()) all.push_back(value);
    for (const float value : collapsed.values()) all.push_back(value);
    return all;
  }
};
// Outputs of args; with own ones in their place.
inline Result make_result(Args& args) {
  const int64_t tokens = args.streams.extent[0];
  Result made{inputs::unwritten<3>(args.streams.dtype, args.streams.extent),
              inputs::unwritten<3>(DType::kF32, {tokens, kStreams, kStreams}),
              inputs::unwritten<2>(DType::kF32, {tokens, kStreams}),
              inputs::unwritten<2>(args.streams.dtype, {tokens, args.streams.extent[2]})};
  args.streams_out = made.streams.view;
  args.mix_out = made.mix.view.as<float>();
  args.post_out = made.post.view.as<float>();
  args.collapsed = made.collapsed.view;
  return made;
}

inline Result result(const Implementation& row, const Problem& problem, Args args, int threads = 1) {
  const Result made = make_result(args);
  test::run(row, problem, args, threads);
  return made;
}

inline audit::OpReport judged(const Implementation& row, const Problem& problem, Args args) {
  const Result made = make_result(args);
  const test::ExactBytes workspace(row.workspace_bytes(problem, 1));
  return judge(row, problem, args, {1, nullptr, workspace.bytes()});
}

}  // namespace fulgurite::hyper_connection
