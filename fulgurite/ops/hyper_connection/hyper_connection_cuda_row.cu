// The row of both kernels, over chunks of tokens.

#include "fulgurite/cuda/generic.h"
#include "fulgurite/ops/hyper_connection/hyper_connection_cuda_kernels.h"

namespace fulgurite::hyper_connection {
namespace {

template <class Byte, int kRank>
bool is_aligned(const AnyView<Byte, kRank>& view) {
  bool aligned = cuda::is_aligned(view.data, 1);
  for (size_t i = 0; i + 1 < kRank; ++i) aligned &= view.stride[i] * view.element_bytes() % 16 == 0;
  return aligned;
}

bool is_aligned(const Args& args) {
  const auto floats = [](const auto& view) { return cuda::is_aligned(view.data, 4, view.stride[0]); };
  return is_aligned(args.streams) && is_aligned(args.block) && floats(args.replaced) && floats(args.fn) &&
         (!updates(args) || is_aligned(args.streams_out)) && is_aligned(args.collapsed);
}

Args of_tokens(const Problem& problem, const Args& args, int64_t first, int64_t count) {
  Args part = args;
  part.streams = args.streams.slice(0, first, count);
  if (args.block) {
    part.block = args.block.slice(0, first, count);
    part.post = args.post.slice(0, first, count);
    part.mix = args.mix.slice(0, first, count);
  }
  if (args.replaced) part.replaced = args.replaced.slice(0, first, count);
  if (updates(args)) part.streams_out = args.streams_out.slice(0, first, count);
  if (problem.kind == Kind::kLayer) {
    part.post_out = args.post_out.slice(0, first, count);
    part.mix_out = args.mix_out.slice(0, first, count);
  }
  part.collapsed = args.collapsed.slice(0, first, count);
  return part;
}

}  // namespace

void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cuda::require_aligned(is_aligned(args), "hyper_connection");
  auto* const sums = reinterpret_cast<double*>(lane.workspace.data());
  cuda::for_each_chunk(args.streams.extent[0], tokens_at_once(problem), [&](int64_t first, int64_t count) {
    const Args part = of_tokens(problem, args, first, count);
    launch_sums(problem, part, sums, lane);
    launch_mix(problem, part, sums, lane);
  });
}

}  // namespace fulgurite::hyper_connection
