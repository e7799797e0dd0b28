// The k largest of each row of fp32 logits, exactly, in ascending order of position, on Hopper.
//
// A cluster of C CTAs shares a row: CTA c takes the c-th part of what the row sees, and each of its warps a contiguous
// part of that. Logits become 32-bit keys that order as the contract says, and stay in registers (a CTA of
// 512 threads holds 16384; a longer part is read again for each pass).
//   1. Radix select from the top: 11, 11, 10 bits. Each CTA counts its keys' digits in shared memory, finely and in
//      32 coarse sums. After one cluster barrier, one warp of each CTA reads the coarse sums of all CTAs, then the
//      64 bins that matter, and finds the digit of the k-th largest key. The search ends as soon as all keys of that
//      digit are wanted: two or three passes for most data.
//   2. Every warp counts what it will select; counts before it (in its CTA, in CTAs before it) give it its place.
//   3. Warps write their positions in order. Of keys equal to the last one, the first by position are taken.
// Limits: a row is read once (HBM or L2); many rows: about 30 instructions a key; few rows: the passes' barriers.

#include <algorithm>

#include "fulgurite/cuda/cluster.h"
#include "fulgurite/cuda/dependent_launch.h"
#include "fulgurite/cuda/discard.h"
#include "fulgurite/ops/index_select/index_select_cuda.h"

namespace fulgurite::index_select {
namespace {

using namespace fulgurite::cuda;

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kVectors = 8;                         // float4 of a thread that stay in registers
constexpr int kResident = kThreads * kVectors * 4;  // keys of a CTA
constexpr int kWarpStep = 32 * 4;                   // positions of one load of a warp
constexpr int kBins = 2048, kCoarse = 32, kFine = kBins / kCoarse, kPasses = 3;
static_assert(kBins == 4 * kThreads && kFine == 2 * 32);
// Digits of 11, 11 and 10 bits: where the pass's begins.
template <int kPass>
constexpr int kDigitShift = kPass < 0    ? 32
                            : kPass == 0 ? 21
                            : kPass == 1 ? 10
                                         : 0;
constexpr unsigned kAll = ~0u;

// What a pass finds: the digit of the k-th largest key.
struct Digit {
  uint32_t bin;
  uint32_t above;  // keys of larger digits
  uint32_t count;  // keys of this one
};

// A pass's own, so that a CTA may go on while others still read.
struct Histogram {
  alignas(16) uint32_t bins[kBins + 4];  // the last for keys of other upper digits
  uint32_t coarse[kCoarse];              // of kFine bins each
};

struct SharedMemory {
  Histogram histogram[kPasses];
  uint2 warp_counts[kWarps];
  uint2 cta_counts;
  Digit digit;
};

__device__ __forceinline__ void cluster_sync() {
  cluster_arrive_shared();
  cluster_wait();
}

// The same place in another CTA of the cluster.
__device__ __forceinline__ uint32_t remote_address(const void* shared, uint32_t rank) {
  return address_in(shared_address(shared), rank);
}

// --- keys ---

// Orders as the contract says. The addition makes -0 +0 and every NaN the same one, 0x7FFFFFFF; the last one lifts all
// numbers by as many as there are positive NaNs, so that this wraps to 0x7FFFFE, below -infinity's 0xFFFFFE.
// 0 is no key at all.
__device__ __forceinline__ uint32_t key_of(float score) {
  const uint32_t bits = __float_as_uint(__fadd_rn(score, 0.0f));
  return (bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u)) + 0x007FFFFFu;
}

struct Keys {
  uint32_t at[kVectors][4];
};

// What a warp of a CTA looks at: positions begin + 128 v + 4 lane + 0 .. 3 of its vectors v.
struct Part {
  const float* logits;
  int begin;    // of the warp
  int end;      // of the CTA
  int vectors;  // of the warp
  __device__ __forceinline__ int batches() const { return (vectors + kVectors - 1) / kVectors; }
  __device__ __forceinline__ int position(int vector) const {
    return begin + vector * kWarpStep + static_cast<int>(threadIdx.x % 32) * 4;
  }
};

__device__ __forceinline__ void load_keys(const Part& part, int batch, Keys& keys) {
  float4 values[kVectors];
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int vector = batch * kVectors + v, position = part.position(vector);
    values[v] = vector < part.vectors && position < part.end
                    ? __ldcg(reinterpret_cast<const float4*>(part.logits + position))
                    : float4{};
  }
#pragma unroll
  for (int v = 0; v < kVectors; ++v) {
    const int vector = batch * kVectors + v;
    uint32_t(&key)[4] = keys.at[v];
    key[0] = key_of(values[v].x);
    key[1] = key_of(values[v].y);
    key[2] = key_of(values[v].z);
    key[3] = key_of(values[v].w);
    if (vector >= part.vectors || part.begin + (vector + 1) * kWarpStep > part.end) {  // of the whole warp
      const int left = vector < part.vectors ? part.end - part.position(vector) : 0;
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (e >= left) key[e] = 0;
    }
  }
}

// The lines that the warp has read, but those that it shares with others.
__device__ __forceinline__ void discard_logits(const Part& part) {
  __syncwarp();
  if (!is_line(part.logits) || threadIdx.x % 8 != 0) return;
  for (int v = 0; v < part.vectors && part.position(v) + 32 <= part.end; ++v)
    discard_line(part.logits + part.position(v));
}

// Calls visit(batch) with the batch's keys loaded; keys of a single batch are loaded once (batch 0, before).
template <class Visit>
__device__ __forceinline__ void for_batches(const Part& part, Keys& keys, const Visit& visit) {
  const int batches = part.batches();
  for (int batch = 0; batch < batches; ++batch) {
    if (batches > 1) load_keys(part, batch, keys);
    visit(batch);
  }
}

// --- the search for the k-th largest ---

__device__ __forceinline__ void clear_histograms(SharedMemory& s) {
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass)
    reinterpret_cast<uint4*>(s.histogram[pass].bins)[threadIdx.x] = uint4{};
}

// Keys whose upper bits exceed those of `least` are selected, and of those equal the first `wanted`.
struct Threshold {
  uint32_t least = 0;  // smallest key with these upper bits
  int shift = 32;      // how many lower bits there are
  uint32_t wanted;
  bool all_equal = false;  // every equal one is wanted
};

template <int kPass>
__device__ __forceinline__ void count_digits(const Part& part, Keys& keys, uint32_t least, Histogram& h) {
  for_batches(part, keys, [&](int batch) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (batch * kVectors + v >= part.vectors) break;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const uint32_t digit = (keys.at[v][e] - least) >> kDigitShift<kPass>;
        constexpr uint32_t kDigits = 1u << (kDigitShift<kPass - 1> - kDigitShift<kPass>);
        atomicAdd(&h.bins[digit < kDigits ? digit : kBins], 1u);
      }
    }
  });
}

__device__ __forceinline__ uint32_t inclusive_sum(uint32_t value) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int apart = 1; apart < 32; apart *= 2) {
    const uint32_t other = __shfl_up_sync(kAll, value, apart);
    if (lane >= apart) value += other;
  }
  return value;
}

// Lanes hold counts in descending order of bins: the first lane with which `wanted` are reached, and what lies before.
struct Crossing {
  int lane;
  uint32_t before;
};
__device__ __forceinline__ Crossing crossing(uint32_t count, uint32_t wanted) {
  const uint32_t upto = inclusive_sum(count);
  const int lane = __ffs(static_cast<int>(__ballot_sync(kAll, upto >= wanted))) - 1;
  return {lane, __shfl_sync(kAll, upto - count, lane)};
}

// One warp: the bin of the `wanted`-th largest in the cluster's sum of histograms.
template <int kCluster>
__device__ __forceinline__ Digit find_digit(const Histogram& h, uint32_t wanted, uint32_t rank) {
  const int lane = threadIdx.x % 32;
  uint32_t coarse = 0;
  uint2 fine = {};
  const auto other = [&](int c) { return (rank + c) % kCluster; };
#pragma unroll
  for (int c = 0; c < kCluster; ++c)
    coarse += load_remote(remote_address(&h.coarse[kCoarse - 1 - lane], other(c)));
  const Crossing outer = crossing(coarse, wanted);
  const int last = (kCoarse - outer.lane) * kFine - 2 * lane - 2;  // of the lane's pair, the smaller
#pragma unroll
  for (int c = 0; c < kCluster; ++c) {
    const uint2 pair = load_remote_pair(remote_address(&h.bins[last], other(c)));
    fine.x += pair.x;
    fine.y += pair.y;
  }
  const Crossing inner = crossing(fine.x + fine.y, wanted - outer.before);
  Digit digit;
  digit.bin = (kCoarse - outer.lane) * kFine - 2 * inner.lane - 1;
  digit.above = outer.before + inner.before;
  digit.count = __shfl_sync(kAll, fine.y, inner.lane);
  if (digit.above + digit.count < wanted) {
    --digit.bin;
    digit.above += digit.count;
    digit.count = __shfl_sync(kAll, fine.x, inner.lane);
  }
  return digit;
}

template <int kPass, int kCluster>
__device__ __forceinline__ void narrow(const Part& part, Keys& keys, SharedMemory& s, uint32_t rank,
                                       Threshold& t) {
  if (t.all_equal) return;
  Histogram& h = s.histogram[kPass];
  count_digits<kPass>(part, keys, t.least, h);
  __syncthreads();
  const uint4 counts = reinterpret_cast<const uint4*>(h.bins)[threadIdx.x];
  uint32_t sum = counts.x + counts.y + counts.z + counts.w;
#pragma unroll
  for (int apart = 1; apart < kFine / 4; apart *= 2) sum += __shfl_xor_sync(kAll, sum, apart);
  if (threadIdx.x % (kFine / 4) == 0) h.coarse[threadIdx.x / (kFine / 4)] = sum;
  if constexpr (kCluster == 1)
    __syncthreads();
  else
    cluster_sync();
  if (threadIdx.x < 32) {
    const Digit digit = find_digit<kCluster>(h, t.wanted, rank);
    if (threadIdx.x == 0) s.digit = digit;
  }
  __syncthreads();
  const Digit digit = s.digit;
  t.shift = kDigitShift<kPass>;
  t.least += digit.bin << t.shift;
  t.wanted -= digit.above;
  t.all_equal = digit.count == t.wanted;
}

// --- the choice ---

// Bit 4 v + e of a mask stands for key [v][e]. Where not all equal keys are wanted, the search has used all bits.
struct Masks {
  uint32_t sure, equal;
  __device__ __forceinline__ Masks(const Keys& keys, const Threshold& t) : sure(0), equal(0) {
    const uint32_t limit = t.all_equal ? t.least - 1 : t.least;  // a key is at least 1
#pragma unroll
    for (int i = 0; i < 4 * kVectors; ++i)
      if (keys.at[i / 4][i % 4] > limit) sure |= 1u << i;
    if (t.all_equal) return;
#pragma unroll
    for (int i = 0; i < 4 * kVectors; ++i)
      if (keys.at[i / 4][i % 4] == t.least) equal |= 1u << i;
  }
};

__device__ __forceinline__ uint2 operator+(uint2 a, uint2 b) { return {a.x + b.x, a.y + b.y}; }
__device__ __forceinline__ uint2 warp_sum(uint2 a) {
  return {__reduce_add_sync(kAll, a.x), __reduce_add_sync(kAll, a.y)};
}

// What is selected before this warp in the row (x), and of equal keys there are (y), given the warp's own. A
// cluster_wait must follow before the CTA ends or clears shared memory.
template <int kCluster>
__device__ __forceinline__ uint2 count_before(uint2 own, SharedMemory& s, uint32_t rank) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  own = warp_sum(own);
  if (lane == 0) s.warp_counts[warp] = own;
  __syncthreads();
  const uint2 of_lane = lane < kWarps ? s.warp_counts[lane] : uint2{};
  uint2 before = warp_sum(lane < warp ? of_lane : uint2{});
  if constexpr (kCluster > 1) {
    if (warp == 0) {
      const uint2 of_cta = warp_sum(of_lane);
      if (lane == 0) s.cta_counts = of_cta;
    }
    cluster_sync();
    uint2 cta = {};
    if (lane < static_cast<int>(rank)) cta = load_remote_pair(remote_address(&s.cta_counts, lane));
    before = before + warp_sum(cta);
    cluster_arrive_shared();
  }
  return before;
}

struct Row {
  const TopKParams& p;
  int32_t* selected;
  int32_t* slots;  // or null
  const int32_t* page_table;
  __device__ __forceinline__ int32_t slot(int position) const {
    return page_table[position / kCudaPageTokens] * kCudaPageTokens + position % kCudaPageTokens;
  }
};

// Bit 4 v + e of lane l stands for position 128 v + 4 l + e. Returns word l of the warp's bits in the order of positions:
// within each eight lanes nibbles are transposed, then words go where they belong.
__device__ __forceinline__ uint32_t in_order(uint32_t mask) {
  const int lane = threadIdx.x % 32;
  constexpr uint32_t kLower[3] = {0x0F0F0F0Fu, 0x00FF00FFu, 0x0000FFFFu};
#pragma unroll
  for (int i = 2; i >= 0; --i) {
    const int apart = 1 << i, bits = 4 << i;
    const bool upper = (lane & apart) != 0;
    const uint32_t kept = upper ? mask & ~kLower[i] : mask & kLower[i];
    const uint32_t given = upper ? mask << bits & ~kLower[i] : mask >> bits & kLower[i];
    mask = kept | __shfl_xor_sync(kAll, given, apart);
  }
  return __shfl_sync(kAll, mask, lane / 4 + lane % 4 * 8);
}

// The first `count` set bits.
__device__ __forceinline__ uint32_t lowest_bits(uint32_t bits, uint32_t count) {
  uint32_t rest = bits;
  for (uint32_t i = 0; i < count && rest != 0; ++i) rest &= rest - 1;
  return bits & ~rest;
}

// Writes a batch's positions, lane l those of its 32 positions; `before` moves on.
__device__ __forceinline__ void write_selected(const Part& part, int batch, const Masks& masks,
                                               const Threshold& t, uint2& before, const Row& row) {
  if (!__any_sync(kAll, (masks.sure | masks.equal) != 0)) return;
  uint32_t bits = in_order(masks.sure), first = before.x;
  before.x += __reduce_add_sync(kAll, __popc(bits));
  if (!t.all_equal) {
    const uint32_t equal = in_order(masks.equal), upto = before.y + inclusive_sum(__popc(equal));
    const uint32_t earlier = upto - __popc(equal);
    bits |= lowest_bits(equal, t.wanted - min(earlier, t.wanted));
    first += min(before.y, t.wanted);
    before.y = __shfl_sync(kAll, upto, 31);
  }
  const uint32_t count = __popc(bits);
  const uint32_t at = first + inclusive_sum(count) - count;
  if (bits == 0) return;
  const int position = part.begin + batch * kVectors * kWarpStep + static_cast<int>(threadIdx.x % 32) * 32;
  int32_t* out = row.selected + at;
  for (uint32_t left = bits; left != 0; left &= left - 1)
    *out++ = position + __ffs(static_cast<int>(left)) - 1;
  if (row.slots == nullptr) return;
  const int32_t slot = row.slot(position);  // all 32 lie in one page
  out = row.slots + at;
  for (uint32_t left = bits; left != 0; left &= left - 1) *out++ = slot + __ffs(static_cast<int>(left)) - 1;
}

// A row that sees no more than k: all of it.
__device__ void write_all(const Row& row, int seen, uint32_t thread, uint32_t threads) {
  for (uint32_t i = thread; i < static_cast<uint32_t>(row.p.topk); i += threads) {
    const bool sees = static_cast<int>(i) < seen;
    row.selected[i] = sees ? static_cast<int>(i) : -1;
    if (row.slots != nullptr) row.slots[i] = sees ? row.slot(static_cast<int>(i)) : -1;
  }
}

// Resident keys are loaded already.
template <int kCluster>
__device__ __forceinline__ void choose(const Part& part, Keys& keys, const Row& row, SharedMemory& s,
                                       uint32_t rank) {
  Threshold t;
  t.wanted = static_cast<uint32_t>(row.p.topk);
  narrow<0, kCluster>(part, keys, s, rank, t);
  narrow<1, kCluster>(part, keys, s, rank, t);
  narrow<2, kCluster>(part, keys, s, rank, t);
  if (part.batches() == 1) {
    const Masks masks(keys, t);
    uint2 before = {static_cast<uint32_t>(__popc(masks.sure)), static_cast<uint32_t>(__popc(masks.equal))};
    before = count_before<kCluster>(before, s, rank);
    write_selected(part, 0, masks, t, before, row);
  } else {
    uint2 before = {};
    for_batches(part, keys, [&](int) {
      const Masks masks(keys, t);
      before = before +
               uint2{static_cast<uint32_t>(__popc(masks.sure)), static_cast<uint32_t>(__popc(masks.equal))};
    });
    before = count_before<kCluster>(before, s, rank);
    for_batches(part, keys, [&](int batch) { write_selected(part, batch, Masks(keys, t), t, before, row); });
  }
  if constexpr (kCluster > 1) cluster_wait();
}

__device__ __forceinline__ int visible_of(const TopKParams& p, TokenPlace place) {
  const auto tokens = static_cast<uint32_t>(place.position + 1);
  return static_cast<int>(p.ratio == 1 ? tokens : tokens / static_cast<uint32_t>(p.ratio));
}

template <int kCluster>
__device__ __forceinline__ Part part_of(const TopKParams& p, int row, int seen, uint32_t rank) {
  constexpr int kStep = kCluster * kWarps * kWarpStep;
  const int vectors = (seen + kStep - 1) / kStep;  // of a warp
  const int cta_begin = static_cast<int>(rank) * vectors * kWarps * kWarpStep;
  return {p.logits + row * p.logits_stride,
          cta_begin + static_cast<int>(threadIdx.x / 32) * vectors * kWarpStep,
          min(seen, cta_begin + vectors * kWarps * kWarpStep), vectors};
}

template <int kCluster>
__global__ void __launch_bounds__(kThreads, 2) top_k_kernel(const __grid_constant__ TopKParams p) {
  __shared__ SharedMemory s;
  const uint32_t rank = kCluster == 1 ? 0 : cluster_rank();
  const int first = static_cast<int>(blockIdx.x) / kCluster, step = static_cast<int>(gridDim.x) / kCluster;
  clear_histograms(s);
  __syncthreads();
  TokenPlace place = p.places[first];  // no predecessor writes places
  wait_for_predecessor();
  release_successor();
  for (int r = first; r < p.rows; r += step) {
    const int seen = visible_of(p, place);
    const Row row{p, p.selected + r * p.selected_stride,
                  p.slots == nullptr ? nullptr : p.slots + r * p.selected_stride,
                  p.page_table + place.sequence * p.table_stride};
    const bool last = r + step >= p.rows;
    if (!last) place = p.places[r + step];
    if (seen <= p.topk) {
      write_all(row, seen, rank * kThreads + threadIdx.x, kCluster * kThreads);
      continue;
    }
    const Part part = part_of<kCluster>(p, r, seen, rank);
    Keys keys;
    if (part.batches() == 1) load_keys(part, 0, keys);
    choose<kCluster>(part, keys, row, s, rank);
    if (const int64_t bytes = int64_t{4} * p.rows * seen; bytes >= p.discard_from && bytes <= p.discard_to)
      discard_logits(part);
    if (!last) {  // the cluster has read the histograms
      __syncthreads();
      clear_histograms(s);
      __syncthreads();
    }
  }
}

// --- launches ---

template <int kCluster>
cudaError_t launch(const TopKParams& p, cudaStream_t stream) {
  if (kCluster > 8) {
    const cudaError_t allowed =
        cudaFuncSetAttribute(top_k_kernel<kCluster>, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (allowed != cudaSuccess) return allowed;
  }
  const int clusters = p.ctas > 0 ? std::clamp(p.ctas / kCluster, 1, p.rows) : p.rows;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(clusters * kCluster));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  cudaLaunchAttribute attributes[] = {cuda::cluster_of(kCluster), dependent_launch(true)};
  config.attrs = attributes;
  config.numAttrs = p.launch == Launch::kProgrammatic ? 2 : 1;
  return cudaLaunchKernelEx(&config, top_k_kernel<kCluster>, p);
}

// As few CTAs a row as hold its keys; more where rows would leave processors idle.
int cluster_of(const TopKParams& p) {
  if (p.cluster != 0) return p.cluster;
  constexpr int kProcessors = 132, kLargest = 16, kGood = 8;  // above 8, barriers cost more than they save
  int cluster = 1;
  while (cluster < kLargest && p.context > int64_t{cluster} * kResident) cluster *= 2;
  while (cluster < kGood && int64_t{2} * cluster * p.rows <= kProcessors &&
         p.context > int64_t{cluster} * kThreads * 4)
    cluster *= 2;
  while (p.ctas > 0 && cluster > p.ctas) cluster /= 2;
  return cluster;
}

}  // namespace

cudaError_t launch_top_k(const TopKParams& p, cudaStream_t stream) {
  if (p.rows == 0) return cudaSuccess;
  if (p.rows < 0 || p.topk < 1 || p.ratio < 1 || p.logits_stride % 4 != 0) return cudaErrorInvalidValue;
  switch (cluster_of(p)) {
    case 1:
      return launch<1>(p, stream);
    case 2:
      return launch<2>(p, stream);
    case 4:
      return launch<4>(p, stream);
    case 8:
      return launch<8>(p, stream);
    case 16:
      return launch<16>(p, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace fulgurite::index_select
