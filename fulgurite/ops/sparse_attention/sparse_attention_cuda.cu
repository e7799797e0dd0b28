#include "fulgurite/cuda/attend.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::sparse_attention {
namespace {

Support supports(const Problem& problem) {
  return first_refusal({cuda::takes_generic(problem.setting), kReference.supports(problem)});
}

cuda::AttendShape shape_of(const Problem& problem) {
  return {problem.heads, problem.topk, problem.latent, problem.setting.numerics};
}

struct Selected {
  Problem problem;
  Args args;

  FULGURITE_HOST_DEVICE int64_t count(int64_t t) const {
    int64_t count = 0;
    while (count < problem.topk && args.selected(t, count) >= 0) ++count;
    return count;
  }
  FULGURITE_HOST_DEVICE const std::byte* row(int64_t t, int64_t j) const {
    return args.cache.at(args.places(t).sequence, args.selected(t, j));
  }
  FULGURITE_HOST_DEVICE double operand(float x) const {
    const bool narrow = problem.setting.numerics.qk_operands == QkOperands::kBf16;
    return static_cast<double>(narrow ? round_to_bf16(x) : x);
  }

  FULGURITE_HOST_DEVICE float score(int64_t t, int64_t h, int64_t j) const {
    const std::byte* const key = row(t, j);
    double sum = 0.0;
    for (int64_t c = 0; c < problem.latent; ++c)
      sum += operand(load(args.q, t, h, c)) * operand(args.cache.row.latent_value(key, c));
    for (int64_t r = 0; r < problem.rope; ++r)
      sum += operand(load(args.q_rope, t, h, r)) * operand(args.cache.row.rope_value(key, r));
    return static_cast<float>(sum) * problem.scale;
  }
  FULGURITE_HOST_DEVICE float value(int64_t t, int64_t, int64_t j, int64_t c) const {
    return args.cache.row.latent_value(row(t, j), c);
  }
  FULGURITE_HOST_DEVICE float sink(int64_t) const { return kNoSink; }
  FULGURITE_HOST_DEVICE void store(int64_t t, int64_t h, int64_t c, float value) const {
    fulgurite::store(args.out, value, t, h, c);
  }
};

int64_t workspace_bytes(const Problem& problem, int) {
  cuda::Scratch scratch;
  cuda::attend_memory(shape_of(problem), problem.largest_batch, scratch);
  return scratch.used();
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cuda::attend(lane, shape_of(problem), Selected{problem, args}, args.q.extent[0]);
}

}  // namespace

const Implementation kCuda{"cuda", supports, workspace_bytes, run, DeviceKind::kCuda};

}  // namespace fulgurite::sparse_attention
