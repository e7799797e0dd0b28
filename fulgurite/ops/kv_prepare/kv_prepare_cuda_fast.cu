// A warp a token, in registers: lane i holds columns 8i .. 8i + 7 and 256 + 8i .. 256 + 8i + 7, so that eight neighbours hold a
// group of 64, and the last eight lanes the pairs that are rotated.

#include "fulgurite/cuda/eight.h"
#include "fulgurite/cuda/fast.h"
#include "fulgurite/cuda/head_norm.h"
#include "fulgurite/ops/kv_prepare/kv_prepare_rules.h"

namespace fulgurite::kv_prepare {
namespace {

constexpr int kHalf = kDim / 2, kFirstRotated = 24;   // the first lane of them
constexpr unsigned kFewTokens = 132 * 4, kWarps = 4;  // of a block, where tokens are many
constexpr KvRow kRow{LatentCache::kFp8, kDim - kRope, kRope};

template <class T>  // uint16_t: bf16, or float
struct Params {
  const T* kv;
  int64_t kv_stride;
  const float* weight;
  const TokenPlace* places;
  const float *cosine, *sine;
  int64_t cosine_stride, sine_stride;
  KvRows cache;
  int tokens, ring;
  float epsilon;
  bool two_step_rsqrt;
  bool quantizes;  // what is not rotated
};

// --- what is stored ---

__device__ void take_values(const cuda::CodedEight& coded, cuda::Eight& v) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t word = i < 4 ? coded.codes.x : coded.codes.y;
    v[i] = __fmul_rn(cuda::e4m3_to_float(static_cast<uint8_t>(word >> i % 4 * 8)), coded.scale);
  }
}

// Eight neighbours from `first` on; all lanes take part.
template <class T, LatentCache kForm>
__device__ void store(const Params<T>& p, cuda::Eight& v, std::byte* row, std::byte* scales, int first) {
  const bool rotated = first >= kRow.nope;
  cuda::CodedEight coded{};
  if (p.quantizes) coded = cuda::quantized<8>(v);
  if constexpr (kForm == LatentCache::kFp8) {
    if (rotated) return cuda::write(v, reinterpret_cast<uint16_t*>(row + kRow.nope) + (first - kRow.nope));
    *reinterpret_cast<uint2*>(row + first) = coded.codes;
    if (first % KvRow::kGroup == 0)
      scales[first / KvRow::kGroup] = static_cast<std::byte>(__float_as_uint(coded.scale) >> 23);
  } else {
    if (p.quantizes && !rotated) take_values(coded, v);
    if constexpr (kForm == LatentCache::kFp32)
      cuda::write(v, reinterpret_cast<float*>(row) + first);
    else
      cuda::write(v, reinterpret_cast<uint16_t*>(row) + first);
  }
}

template <class T, LatentCache kForm>
__global__ void prepare_rows(const __grid_constant__ Params<T> p) {
  cuda::release_successor();
  const int t = static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / 32), lane = threadIdx.x % 32;
  if (t >= p.tokens) return cuda::wait_for_predecessor();
  const TokenPlace place = p.places[t];
  cuda::Eight weight[2], v[2];
  cuda::read(weight[0], p.weight + 8 * lane);
  cuda::read(weight[1], p.weight + kHalf + 8 * lane);
  float cosine[4] = {}, sine[4] = {};
  if (lane >= kFirstRotated) {
    cuda::read_four(cosine, p.cosine + place.position * p.cosine_stride + 4 * (lane - kFirstRotated));
    cuda::read_four(sine, p.sine + place.position * p.sine_stride + 4 * (lane - kFirstRotated));
  }
  const int index = static_cast<int>(static_cast<uint32_t>(place.position) % static_cast<uint32_t>(p.ring));
  std::byte* const row = p.cache.at(place.sequence, index);
  std::byte* const scales = p.cache.scales_at(place.sequence, index);
  cuda::wait_for_predecessor();
  const T* const kv = p.kv + t * p.kv_stride + 8 * lane;
  cuda::read(v[0], kv);
  cuda::read(v[1], kv + kHalf);
  const float r = cuda::reciprocal_root(__fadd_rn(cuda::mean_square_of_512(v), p.epsilon), p.two_step_rsqrt);
#pragma unroll
  for (int c = 0; c < 2; ++c) {
#pragma unroll
    for (int i = 0; i < 8; ++i) v[c][i] = __fmul_rn(weight[c][i], __fmul_rn(v[c][i], r));
    cuda::round<T>(v[c]);
  }
  if (lane >= kFirstRotated) {
    cuda::rotate_eight(v[1], cosine, sine);
    cuda::round<T>(v[1]);
  }
  store<T, kForm>(p, v[0], row, scales, 8 * lane);
  store<T, kForm>(p, v[1], row, scales, kHalf + 8 * lane);
}

template <class T>
void launch(const Problem& problem, const Args& args, const Lane& lane) {
  const auto tokens = static_cast<unsigned>(args.kv.extent[0]);
  const Numerics& numerics = problem.setting.numerics;
  const Params<T> params{reinterpret_cast<const T*>(args.kv.data),
                         args.kv.stride[0],
                         args.weight.data,
                         args.places.data,
                         args.table.cosine.data,
                         args.table.sine.data,
                         args.table.cosine.stride[0],
                         args.table.sine.stride[0],
                         args.cache,
                         static_cast<int>(tokens),
                         static_cast<int>(problem.ring),
                         problem.eps,
                         numerics.rsqrt == Rsqrt::kTwoStep,
                         numerics.kv_quant == KvQuant::kE4m3};
  const unsigned warps = tokens <= kFewTokens ? 1 : kWarps;
  const cuda::Grid grid{{(tokens + warps - 1) / warps}, 32 * warps};
  const auto with = [&](auto* kernel) { cuda::launch(lane, grid, kernel, params); };
  switch (args.cache.row.form) {
    case LatentCache::kFp32:
      return with(prepare_rows<T, LatentCache::kFp32>);
    case LatentCache::kBf16:
      return with(prepare_rows<T, LatentCache::kBf16>);
    case LatentCache::kFp8:
      return with(prepare_rows<T, LatentCache::kFp8>);
  }
}

bool is_aligned(const Args& args) {
  const auto& blocks = args.cache.blocks;
  const auto table = [](const View<const float, 2>& view) {
    return cuda::is_aligned(view.data, 4, view.stride[0]);
  };
  return cuda::is_aligned(args.kv.data, args.kv.element_bytes(), args.kv.stride[0]) &&
         cuda::is_aligned(args.weight.data, 4) && table(args.table.cosine) && table(args.table.sine) &&
         cuda::is_aligned(blocks.data, 1, blocks.stride[0], blocks.stride[1]);
}

}  // namespace

void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  if (args.kv.extent[0] == 0) return;
  cuda::require_aligned(is_aligned(args), "kv_prepare");
  args.kv.dtype == DType::kF32 ? launch<float>(problem, args, lane) : launch<uint16_t>(problem, args, lane);
}

}  // namespace fulgurite::kv_prepare
