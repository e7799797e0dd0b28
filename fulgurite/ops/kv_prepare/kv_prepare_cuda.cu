#include <algorithm>

#include "fulgurite/cuda/generic.h"
#include "fulgurite/cuda/rows.h"
#include "fulgurite/ops/kv_prepare/kv_prepare.h"

namespace fulgurite::kv_prepare {
namespace {

Support supports(const Problem& problem) {
  return first_refusal({cuda::takes_generic(problem.setting), kReference.supports(problem)});
}

float* rows_of(const Problem& problem, cuda::Scratch& scratch) {
  return scratch.take<float>(cuda::kChunk * problem.head_dim);
}

// Index: a token, counted from `first`.
struct Prepare {
  Problem problem;
  Args args;
  int64_t first;
  float* rows;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t t = first + index;
    const TokenPlace place = args.places(t);
    const cuda::Row row{rows + index * problem.head_dim, problem.head_dim, args.kv.dtype};
    for (int64_t i = 0; i < row.width; ++i) row.x[i] = load(args.kv, t, i);
    row.normalize(args.weight, problem.eps, problem.setting.numerics);
    rotary::rotate(rotary::Layout::kInterleaved, args.table.cosine[place.position].data,
                   args.table.sine[place.position].data, problem.rope, row.x + row.width - problem.rope);
    row.round();
    store_kv_row(args.cache, place.sequence, place.position % problem.ring,
                 {row.x, static_cast<size_t>(row.width)}, problem.setting.numerics.kv_quant);
  }
};

int64_t workspace_bytes(const Problem& problem, int) {
  cuda::Scratch scratch;
  rows_of(problem, scratch);
  return scratch.used();
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cuda::Scratch scratch(lane);
  float* const rows = rows_of(problem, scratch);
  cuda::for_each_chunk(args.kv.extent[0], cuda::kChunk, [&](int64_t first, int64_t count) {
    cuda::for_each(lane, count, Prepare{problem, args, first, rows});
  });
}

}  // namespace

const Implementation kCuda{"cuda", supports, workspace_bytes, run, DeviceKind::kCuda};

}  // namespace fulgurite::kv_prepare
