#include "fulgurite/cuda/linear_sum.h"
#include "fulgurite/ops/linear/linear.h"

namespace fulgurite::linear {
namespace {

// Index: an element of y.
struct SumCodes {
  cuda::CodedRows x;
  cuda::Matrix weight;
  int64_t group;
  Tensor<2> y;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t t = index / y.extent[1], n = index % y.extent[1];
    store(y, cuda::sum_of_codes(x, t, weight, n, group), t, n);
  }
};

struct SumProducts {
  ConstTensor<2> x;
  cuda::Matrix weight;
  WeightReading reading;
  Tensor<2> y;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t t = index / y.extent[1], n = index % y.extent[1];
    store(y, cuda::sum_of_products(x, t, weight, n, reading), t, n);
  }
};

int64_t workspace_bytes(const Problem& problem, int) {
  cuda::Scratch scratch;
  if (quantizes(problem)) cuda::coded_rows(scratch, problem.largest_batch, problem.in);
  return scratch.used();
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const int64_t tokens = args.x.extent[0];
  const cuda::Matrix weight(*args.weight);
  if (!quantizes(problem))
    return cuda::for_each(lane, tokens * problem.out,
                          SumProducts{args.x, weight, reading_of(problem), args.y});
  cuda::Scratch scratch(lane);
  const cuda::CodedRows x = cuda::coded_rows(scratch, tokens, problem.in);
  cuda::for_each(lane, tokens * x.groups(),
                 cuda::QuantizeGroups{args.x, activation_rounding(problem.setting.numerics), x});
  cuda::for_each(lane, tokens * problem.out, SumCodes{x, weight, group_columns(problem.weight), args.y});
}

}  // namespace

const Implementation kCuda{"cuda", supports_generic, workspace_bytes, run, DeviceKind::kCuda};

}  // namespace fulgurite::linear
