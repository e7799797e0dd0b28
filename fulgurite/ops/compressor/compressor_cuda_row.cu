// The row of both launches, over chunks of tokens.

#include "fulgurite/cuda/fast.h"
#include "fulgurite/cuda/generic.h"
#include "fulgurite/ops/compressor/compressor_cuda_windows.h"
#include "fulgurite/ops/indexer_projection/indexer_projection_cuda.h"

namespace fulgurite::compressor {
namespace {

using Rows = View<const bf16, 2>;

const uint16_t* bits(const bf16* values) { return reinterpret_cast<const uint16_t*>(values); }

// u and the product in g: two matrices, one reading of x.
void launch_products(const Problem& problem, const Args& args, float* products, const Lane& lane) {
  const auto &wkv = std::get<Rows>(args.wkv->as), &wgate = std::get<Rows>(args.wgate->as);
  const int64_t columns = width(problem);
  indexer_projection::cuda::Params params;
  params.x = reinterpret_cast<const uint16_t*>(args.x.data);
  params.x_stride = args.x.stride[0];
  params.wk = bits(wkv.data);
  params.wk_stride = wkv.stride[0];
  params.w = bits(wgate.data);
  params.w_stride = wgate.stride[0];
  params.gate = products + columns;
  params.gate_stride = 2 * columns;
  params.tokens = static_cast<int>(args.x.extent[0]);
  params.hidden = static_cast<int>(problem.hidden);
  params.heads = static_cast<int>(columns);
  params.dependent = !lane.waits;
  params.processors = problem.setting.target.multiprocessors;
  params.key_rows = static_cast<int>(columns);
  params.wide = products;
  params.wide_stride = 2 * columns;
  indexer_projection::cuda::launch(params, static_cast<cudaStream_t>(lane.stream));
  cuda::launched(lane);
}

bool is_aligned(const Args& args) {
  const auto rows = [](const PreparedMatrix& matrix) {
    const auto& view = std::get<Rows>(matrix.as);
    return cuda::is_aligned(view.data, 2, view.stride[0]);
  };
  return cuda::is_aligned(args.x.data, 2, args.x.stride[0]) && rows(*args.wkv) && rows(*args.wgate);
}

Args of_tokens(const Args& args, int64_t first, int64_t count) {
  Args part = args;
  part.x = args.x.slice(0, first, count);
  part.places = args.places.slice(0, first, count);
  if (args.projected) part.projected = args.projected.slice(0, first, count);
  if (args.pooled) part.pooled = args.pooled.slice(0, first, count);
  return part;
}

}  // namespace

void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cuda::require_aligned(is_aligned(args), "compressor");
  auto* const products = reinterpret_cast<float*>(lane.workspace.data());
  cuda::for_each_chunk(args.x.extent[0], tokens_at_once(problem), [&](int64_t first, int64_t count) {
    const Args part = of_tokens(args, first, count);
    launch_products(problem, part, products, lane);
    launch_windows(problem, part, products, lane);
  });
}

}  // namespace fulgurite::compressor
