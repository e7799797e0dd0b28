// Four pairs of a head a thread, all tokens and heads in one launch.

#include "fulgurite/cuda/eight.h"
#include "fulgurite/cuda/fast.h"
#include "fulgurite/ops/rotary/rotary_rules.h"

namespace fulgurite::rotary {
namespace {

constexpr unsigned kThreads = 128;

template <class T>  // uint16_t: bf16, or float
struct Params {
  T* x;
  int64_t token_stride, head_stride;
  const TokenPlace* places;
  const float *cosine, *sine;
  int64_t cosine_stride, sine_stride;
  int heads, pairs;
};

__device__ void read_four(float (&v)[4], const uint16_t* at) {
  const uint2 raw = __ldcg(reinterpret_cast<const uint2*>(at));
  v[0] = cuda::low_bf16(raw.x), v[1] = cuda::high_bf16(raw.x);
  v[2] = cuda::low_bf16(raw.y), v[3] = cuda::high_bf16(raw.y);
}
__device__ void read_four(float (&v)[4], const float* at) {
  const float4 raw = __ldcg(reinterpret_cast<const float4*>(at));
  v[0] = raw.x, v[1] = raw.y, v[2] = raw.z, v[3] = raw.w;
}
__device__ void write_four(const float (&v)[4], uint16_t* at) {
  *reinterpret_cast<uint2*>(at) = {cuda::bf16_pair(v[0], v[1]), cuda::bf16_pair(v[2], v[3])};
}
__device__ void write_four(const float (&v)[4], float* at) {
  *reinterpret_cast<float4*>(at) = {v[0], v[1], v[2], v[3]};
}

__device__ void rotate(float& a, float& b, float c, float s) {
  const float turned = __fsub_rn(__fmul_rn(a, c), __fmul_rn(b, s));
  b = __fadd_rn(__fmul_rn(a, s), __fmul_rn(b, c));
  a = turned;
}

template <class T, Layout kLayout>
__global__ void rotate_heads(const __grid_constant__ Params<T> p) {
  cuda::release_successor();
  const int index = static_cast<int>(blockIdx.y * kThreads + threadIdx.x), fours = p.pairs / 4;
  const int head = index / fours, pair = index % fours * 4;
  if (head >= p.heads) return cuda::wait_for_predecessor();
  const int64_t position = p.places[blockIdx.x].position;
  const float4 c = __ldg(reinterpret_cast<const float4*>(p.cosine + position * p.cosine_stride + pair));
  const float4 s = __ldg(reinterpret_cast<const float4*>(p.sine + position * p.sine_stride + pair));
  T* const x = p.x + blockIdx.x * p.token_stride + head * p.head_stride;
  cuda::wait_for_predecessor();
  if constexpr (kLayout == Layout::kInterleaved) {
    cuda::Eight v;
    cuda::read(v, x + 2 * pair);
    rotate(v[0], v[1], c.x, s.x);
    rotate(v[2], v[3], c.y, s.y);
    rotate(v[4], v[5], c.z, s.z);
    rotate(v[6], v[7], c.w, s.w);
    cuda::write(v, x + 2 * pair);
  } else {
    float a[4], b[4];
    read_four(a, x + pair);
    read_four(b, x + p.pairs + pair);
    rotate(a[0], b[0], c.x, s.x);
    rotate(a[1], b[1], c.y, s.y);
    rotate(a[2], b[2], c.z, s.z);
    rotate(a[3], b[3], c.w, s.w);
    write_four(a, x + pair);
    write_four(b, x + p.pairs + pair);
  }
}

template <class T>
void launch(const Problem& problem, const Args& args, const Lane& lane) {
  const auto tokens = static_cast<unsigned>(args.x.extent[0]);
  const auto threads = static_cast<unsigned>(problem.heads * problem.dim / 8);
  const Params<T> params{reinterpret_cast<T*>(args.x.data),
                         args.x.stride[0],
                         args.x.stride[1],
                         args.places.data,
                         args.table.cosine.data,
                         args.table.sine.data,
                         args.table.cosine.stride[0],
                         args.table.sine.stride[0],
                         static_cast<int>(problem.heads),
                         static_cast<int>(problem.dim / 2)};
  const cuda::Grid grid{{tokens, (threads + kThreads - 1) / kThreads}, kThreads};
  if (problem.layout == Layout::kInterleaved)
    cuda::launch(lane, grid, rotate_heads<T, Layout::kInterleaved>, params);
  else
    cuda::launch(lane, grid, rotate_heads<T, Layout::kHalfSplit>, params);
}

bool is_aligned(const Args& args) {
  const int64_t bytes = args.x.element_bytes();
  const Table& table = args.table;
  return cuda::is_aligned(args.x.data, bytes, args.x.stride[0], args.x.stride[1]) &&
         cuda::is_aligned(table.cosine.data, 4, table.cosine.stride[0]) &&
         cuda::is_aligned(table.sine.data, 4, table.sine.stride[0]);
}

}  // namespace

void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  if (args.x.extent[0] == 0 || problem.heads == 0 || problem.dim == 0) return;
  cuda::require_aligned(is_aligned(args), "rotary");
  args.x.dtype == DType::kF32 ? launch<float>(problem, args, lane) : launch<uint16_t>(problem, args, lane);
}

}  // namespace fulgurite::rotary
