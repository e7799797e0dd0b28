// A warp a token, in registers: lane i holds latents 8i .. 8i + 7 and 256 + 8i .. 256 + 8i + 7, so that 16
// neighbours hold a group of 128, and pair i of the rotated part.

#include "fulgurite/cuda/eight.h"
#include "fulgurite/cuda/fast.h"
#include "fulgurite/cuda/head_norm.h"
#include "fulgurite/ops/latent_prepare/latent_prepare_rules.h"

namespace fulgurite::latent_prepare {
namespace {

constexpr int kHalf = kLatent / 2;
constexpr unsigned kFewTokens = 132 * 4, kWarps = 4;  // of a block, where tokens are many

template <class T>  // uint16_t: bf16, or float
struct Params {
  const T* kv;
  int64_t kv_stride;
  const float* weight;
  const TokenPlace* places;
  const float *cosine, *sine;
  int64_t cosine_stride, sine_stride;
  std::byte* cache;
  int64_t part_stride, row_stride;  // in bytes; parts are sequences, or pages
  const int32_t* pages;             // null: none
  int64_t table_stride;
  int tokens;
  float epsilon;
  bool two_step_rsqrt;
};

// The one place that knows how the cache's rows lie.
template <class T>
__device__ std::byte* row_at(const Params<T>& p, const TokenPlace& place) {
  if (p.pages == nullptr) return p.cache + place.sequence * p.part_stride + place.position * p.row_stride;
  const auto position = static_cast<uint32_t>(place.position);
  const int page = __ldg(p.pages + place.sequence * p.table_stride + position / kPageTokens);
  return p.cache + page * p.part_stride + position % kPageTokens * p.row_stride;
}

__device__ float2 read_pair(const uint16_t* at) {
  const uint32_t pair = __ldcg(reinterpret_cast<const uint32_t*>(at));
  return {cuda::low_bf16(pair), cuda::high_bf16(pair)};
}
__device__ float2 read_pair(const float* at) { return __ldcg(reinterpret_cast<const float2*>(at)); }

// --- the norm ---

template <class T>
__device__ void normalize(cuda::Eight (&latent)[2], const cuda::Eight (&weight)[2], float r) {
#pragma unroll
  for (int c = 0; c < 2; ++c) {
#pragma unroll
    for (int i = 0; i < 8; ++i) latent[c][i] = __fmul_rn(weight[c][i], __fmul_rn(latent[c][i], r));
    cuda::round<T>(latent[c]);
  }
}

// --- what is stored ---

template <LatentCache kForm>
__device__ void store_latent(const cuda::Eight& v, std::byte* row, int first) {
  if constexpr (kForm == LatentCache::kFp32) {
    cuda::write(v, reinterpret_cast<float*>(row) + first);
  } else if constexpr (kForm == LatentCache::kBf16) {
    cuda::write(v, reinterpret_cast<uint16_t*>(row) + first);
  } else {
    const cuda::CodedEight coded = cuda::quantized<16>(v);
    *reinterpret_cast<uint2*>(row + first) = coded.codes;
    if (first % LatentRow::kGroup == 0)
      reinterpret_cast<float*>(row + kLatent)[first / LatentRow::kGroup] = coded.scale;
  }
}

template <LatentCache kForm>
__device__ void store_rotated(float a, float b, std::byte* row, int pair) {
  const LatentRow form{kForm, kLatent, kRope};
  std::byte* const to = row + form.rope_offset();
  if constexpr (kForm == LatentCache::kFp32)
    reinterpret_cast<float2*>(to)[pair] = {a, b};
  else
    reinterpret_cast<uint32_t*>(to)[pair] = cuda::bf16_pair(a, b);
}

template <class T>
__device__ float rounded(float value) {
  return sizeof(T) == 2 ? cuda::bf16_rounded(value) : value;
}

template <class T, LatentCache kForm>
__global__ void prepare_rows(const __grid_constant__ Params<T> p) {
  cuda::release_successor();
  const int t = static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / 32), lane = threadIdx.x % 32;
  if (t >= p.tokens) return cuda::wait_for_predecessor();
  const TokenPlace place = p.places[t];
  cuda::Eight weight[2], latent[2];
  cuda::read(weight[0], p.weight + 8 * lane);
  cuda::read(weight[1], p.weight + kHalf + 8 * lane);
  const float c = __ldg(p.cosine + place.position * p.cosine_stride + lane),
              s = __ldg(p.sine + place.position * p.sine_stride + lane);
  cuda::wait_for_predecessor();
  const T* const kv = p.kv + t * p.kv_stride;
  cuda::read(latent[0], kv + 8 * lane);
  cuda::read(latent[1], kv + kHalf + 8 * lane);
  const float2 x = read_pair(kv + kLatent + 2 * lane);
  std::byte* const row = row_at(p, place);
  const float first = __fsub_rn(__fmul_rn(x.x, c), __fmul_rn(x.y, s)),
              second = __fadd_rn(__fmul_rn(x.x, s), __fmul_rn(x.y, c));
  store_rotated<kForm>(rounded<T>(first), rounded<T>(second), row, lane);
  const float mean = cuda::mean_square_of_512(latent);
  normalize<T>(latent, weight, cuda::reciprocal_root(__fadd_rn(mean, p.epsilon), p.two_step_rsqrt));
  store_latent<kForm>(latent[0], row, 8 * lane);
  store_latent<kForm>(latent[1], row, kHalf + 8 * lane);
}

template <class T>
void launch(const Problem& problem, const Args& args, const Lane& lane) {
  const auto tokens = static_cast<unsigned>(args.kv.extent[0]);
  const auto& rows = args.cache.rows;
  const Params<T> params{reinterpret_cast<const T*>(args.kv.data),
                         args.kv.stride[0],
                         args.weight.data,
                         args.places.data,
                         args.table.cosine.data,
                         args.table.sine.data,
                         args.table.cosine.stride[0],
                         args.table.sine.stride[0],
                         rows.data,
                         rows.stride[0],
                         rows.stride[1],
                         args.cache.pages.table.data,
                         args.cache.pages.table.stride[0],
                         static_cast<int>(tokens),
                         problem.eps,
                         problem.setting.numerics.rsqrt == Rsqrt::kTwoStep};
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
  const auto& rows = args.cache.rows;
  return cuda::is_aligned(args.kv.data, args.kv.element_bytes(), args.kv.stride[0]) &&
         cuda::is_aligned(args.weight.data, 4) &&
         cuda::is_aligned(rows.data, 1, rows.stride[0], rows.stride[1]);
}

}  // namespace

void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  if (args.kv.extent[0] == 0) return;
  cuda::require_aligned(is_aligned(args), "latent_prepare");
  args.kv.dtype == DType::kF32 ? launch<float>(problem, args, lane) : launch<uint16_t>(problem, args, lane);
}

}  // namespace fulgurite::latent_prepare
