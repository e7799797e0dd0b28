// A warp a head, in registers: lane i holds columns 8i .. 8i + 7 and 256 + 8i .. 256 + 8i + 7, so that the last eight lanes hold
// the pairs that are rotated.

#include "fulgurite/cuda/eight.h"
#include "fulgurite/cuda/fast.h"
#include "fulgurite/cuda/head_norm.h"
#include "fulgurite/ops/query_prepare/query_prepare_rules.h"

namespace fulgurite::query_prepare {
namespace {

constexpr int kHalf = kDim / 2, kFirstRotated = 24;  // the first lane of them
constexpr unsigned kFewHeads = 132 * 4, kWarps = 4;  // of a block, where heads are many

template <class T>  // uint16_t: bf16, or float
struct Params {
  T* q;
  int64_t token_stride, head_stride;
  const TokenPlace* places;
  const float *cosine, *sine;
  int64_t cosine_stride, sine_stride;
  float* normed;  // or null
  int64_t normed_token_stride, normed_head_stride;
  int rows, heads;
  float epsilon;
  bool two_step_rsqrt;
};

template <class T>
__global__ void prepare_heads(const __grid_constant__ Params<T> p) {
  cuda::release_successor();
  const int row = static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / 32), lane = threadIdx.x % 32;
  if (row >= p.rows) return cuda::wait_for_predecessor();
  const int t = row / p.heads, h = row % p.heads;
  const int64_t position = p.places[t].position;
  float cosine[4] = {}, sine[4] = {};
  if (lane >= kFirstRotated) {
    cuda::read_four(cosine, p.cosine + position * p.cosine_stride + 4 * (lane - kFirstRotated));
    cuda::read_four(sine, p.sine + position * p.sine_stride + 4 * (lane - kFirstRotated));
  }
  cuda::wait_for_predecessor();
  T* const q = p.q + t * p.token_stride + h * p.head_stride + 8 * lane;
  cuda::Eight head[2];
  cuda::read(head[0], q);
  cuda::read(head[1], q + kHalf);
  const float mean = cuda::mean_square_of_512(head);
  const float r = cuda::reciprocal_root(__fadd_rn(mean, p.epsilon), p.two_step_rsqrt);
#pragma unroll
  for (int c = 0; c < 2; ++c) {
#pragma unroll
    for (int i = 0; i < 8; ++i) head[c][i] = __fmul_rn(head[c][i], r);
    cuda::round<T>(head[c]);
  }
  if (p.normed != nullptr) {
    float* const to = p.normed + t * p.normed_token_stride + h * p.normed_head_stride + 8 * lane;
    cuda::write(head[0], to);
    cuda::write(head[1], to + kHalf);
  }
  if (lane >= kFirstRotated) cuda::rotate_eight(head[1], cosine, sine);
  cuda::write(head[0], q);
  cuda::write(head[1], q + kHalf);
}

template <class T>
void launch(const Problem& problem, const Args& args, const Lane& lane) {
  const auto rows = static_cast<unsigned>(args.q.extent[0] * problem.heads);
  const Params<T> params{reinterpret_cast<T*>(args.q.data),
                         args.q.stride[0],
                         args.q.stride[1],
                         args.places.data,
                         args.table.cosine.data,
                         args.table.sine.data,
                         args.table.cosine.stride[0],
                         args.table.sine.stride[0],
                         args.normed.data,
                         args.normed.stride[0],
                         args.normed.stride[1],
                         static_cast<int>(rows),
                         static_cast<int>(problem.heads),
                         problem.eps,
                         problem.setting.numerics.rsqrt == Rsqrt::kTwoStep};
  const unsigned warps = rows <= kFewHeads ? 1 : kWarps;
  cuda::launch(lane, {{(rows + warps - 1) / warps}, 32 * warps}, prepare_heads<T>, params);
}

bool is_aligned(const Args& args) {
  const auto table = [](const View<const float, 2>& view) {
    return cuda::is_aligned(view.data, 4, view.stride[0]);
  };
  return cuda::is_aligned(args.q.data, args.q.element_bytes(), args.q.stride[0], args.q.stride[1]) &&
         table(args.table.cosine) && table(args.table.sine) &&
         (!args.normed ||
          cuda::is_aligned(args.normed.data, 4, args.normed.stride[0], args.normed.stride[1]));
}

}  // namespace

void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  if (args.q.extent[0] == 0 || problem.heads == 0) return;
  cuda::require_aligned(is_aligned(args), "query_prepare");
  args.q.dtype == DType::kF32 ? launch<float>(problem, args, lane) : launch<uint16_t>(problem, args, lane);
}

}  // namespace fulgurite::query_prepare
