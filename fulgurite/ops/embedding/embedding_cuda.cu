#include "fulgurite/cuda/generic.h"
#include "fulgurite/cuda/matrix.h"
#include "fulgurite/ops/embedding/embedding.h"

namespace fulgurite::embedding {
namespace {

Support supports(const Problem& problem) {
  return first_refusal({cuda::takes_generic(problem.setting), kReference.supports(problem)});
}

// Index: an element of out.
struct Embed {
  View<const int32_t, 1> ids;
  cuda::Matrix table;
  Tensor<2> out;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t t = index / out.extent[1], i = index % out.extent[1];
    store(out, static_cast<float>(table.exact(ids(t), i)), t, i);
  }
};

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const int64_t count = args.ids.extent[0] * problem.hidden;
  cuda::for_each(lane, count, Embed{args.ids, cuda::Matrix(*args.table), args.out});
}

}  // namespace

const Implementation kCuda{"cuda", supports, no_workspace<Problem>, run, DeviceKind::kCuda};

}  // namespace fulgurite::embedding
