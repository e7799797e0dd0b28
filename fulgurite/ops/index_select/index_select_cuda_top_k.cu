// The k largest of each row of fp32 logits, exactly, in ascending order of position, on Hopper.
//
// A cluster of C CTAs shares a row: CTA c takes the c-th part of what the row sees, and each of its warps a contiguous
// part of that. Logits become 32-bit keys that order as the contract says, and stay in registers (a CTA of
// 512 threads holds 16384; a longer part is read again for each pass).
//   1. Radix select from the top: 11, 11, 10 bits. Each CTA counts its keys' digits in shared memory; CTA r adds the
//      r-th part of the bins over the cluster and gives it to all; every CTA finds the digit of the k-th largest key.
//      The search ends as soon as a digit's keys are all wanted: two passes for most data.
//   2. Every warp counts what it will select; counts before it (in its CTA, in CTAs before it) give it its place.
//   3. Warps write their positions in order. Of keys equal to the last one, the first by position are taken.
// Limits: a row is read once (HBM or L2); few rows: about 2.5 cluster barriers a pass.

#include <algorithm>

#include "fulgurite/cuda/barrier.h"
#include "fulgurite/ops/index_select/index_select_cuda.h"

namespace fulgurite::index_select {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kVectors = 8;                             // float4 of a thread that stay in registers
constexpr int kResident = kThreads * kVectors * 4;      // keys of a CTA
constexpr int kWarpStep = 32 * 4;                       // positions of one load of a warp
constexpr int kBins = 2048;
// Digits of 11, 11 and 10 bits: where the pass's begins.
template <int kPass>
constexpr int kDigitShift = kPass < 0 ? 32 : kPass == 0 ? 21 : kPass == 1 ? 10 : 0;
constexpr unsigned kAll = ~0u;

// What a pass finds: the digit of the k-th largest key.
struct Digit {
  uint32_t bin;
  uint32_t above;  // keys of larger digits
  uint32_t count;  // keys of this one
};

struct SharedMemory {
  alignas(16) uint32_t histogram[kBins];
  alignas(16) uint32_t merged[kBins];  // of the cluster
  uint32_t warp_sums[kWarps];
  uint2 warp_counts[kWarps];
  uint2 cta_counts[16];
  Digit digit;
};

// --- clusters ---

__device__ __forceinline__ uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// All threads of the cluster; what they wrote to shared memory anywhere in it is then seen.
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The same address in another CTA of the cluster.
__device__ __forceinline__ uint32_t cluster_address(const void* shared, uint32_t rank) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(cuda::shared_address(shared)), "r"(rank));
  return address;
}

__device__ __forceinline__ uint32_t load_cluster(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
  return v;
}

__device__ __forceinline__ void store_cluster(uint32_t address, uint32_t v) {
  asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}

__device__ __forceinline__ void store_cluster(uint32_t address, uint2 v) {
  asm volatile("st.shared::cluster.v2.u32 [%0], {%1, %2};" ::"r"(address), "r"(v.x), "r"(v.y) : "memory");
}

// --- keys ---

// Orders as the contract says; NaN is 1, below -infinity, and 0 is no key at all.
__device__ __forceinline__ uint32_t key_of(float score) {
  const uint32_t bits = __float_as_uint(__fadd_rn(score, 0.0f));  // -0 is +0
  const uint32_t key = bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
  return score != score ? 1u : key;
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
    const int vector = batch * kVectors + v, left = vector < part.vectors ? part.end - part.position(vector) : 0;
    keys.at[v][0] = left > 0 ? key_of(values[v].x) : 0;
    keys.at[v][1] = left > 1 ? key_of(values[v].y) : 0;
    keys.at[v][2] = left > 2 ? key_of(values[v].z) : 0;
    keys.at[v][3] = left > 3 ? key_of(values[v].w) : 0;
  }
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

__device__ __forceinline__ void clear_histogram(SharedMemory& s) {
#pragma unroll
  for (int i = threadIdx.x; i < kBins / 4; i += kThreads) reinterpret_cast<uint4*>(s.histogram)[i] = uint4{};
}

template <int kPass>
__device__ __forceinline__ void count_digits(const Part& part, Keys& keys, uint32_t prefix, SharedMemory& s) {
  for_batches(part, keys, [&](int batch) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (batch * kVectors + v >= part.vectors) break;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const uint32_t key = keys.at[v][e];
        if constexpr (kPass > 0)
          if (key >> kDigitShift<kPass - 1> != prefix) continue;
        atomicAdd(&s.histogram[key >> kDigitShift<kPass> & (kBins - 1)], 1u);
      }
    }
  });
}

// The cluster's histogram, in every CTA.
template <int kCluster>
__device__ __forceinline__ const uint32_t* merge(SharedMemory& s, uint32_t rank) {
  if constexpr (kCluster == 1) {
    __syncthreads();
    return s.histogram;
  }
  cluster_sync();
  constexpr int kOwn = kBins / kCluster;
#pragma unroll
  for (int i = threadIdx.x; i < kOwn; i += kThreads) {
    const int bin = static_cast<int>(rank) * kOwn + i;
    uint32_t from[kCluster], sum = 0;
#pragma unroll
    for (int c = 0; c < kCluster; ++c)
      from[c] = load_cluster(cluster_address(&s.histogram[bin], (rank + c) % kCluster));
#pragma unroll
    for (int c = 0; c < kCluster; ++c) sum += from[c];
#pragma unroll
    for (int c = 0; c < kCluster; ++c)
      store_cluster(cluster_address(&s.merged[bin], (rank + c) % kCluster), sum);
  }
  cluster_sync();
  return s.merged;
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

// The bin that holds the `wanted`-th largest; clears the histogram for the next pass.
__device__ __forceinline__ Digit find_digit(const uint32_t* bins, uint32_t wanted, SharedMemory& s) {
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int first = kBins - 4 * (thread + 1);  // threads descend
  static_assert(kBins == 4 * kThreads);
  const uint4 counts = *reinterpret_cast<const uint4*>(bins + first);
  const uint32_t sum = counts.x + counts.y + counts.z + counts.w;
  uint32_t upto = inclusive_sum(sum);
  if (lane == 31) s.warp_sums[warp] = upto;
  __syncthreads();
  clear_histogram(s);
  const uint32_t before = lane < warp ? s.warp_sums[lane] : 0;  // lanes below 16
  upto += __reduce_add_sync(kAll, before);
  if (upto >= wanted && upto - sum < wanted) {
    const uint32_t descending[4] = {counts.w, counts.z, counts.y, counts.x};
    uint32_t above = upto - sum;
    int i = 0;
    while (above + descending[i] < wanted) above += descending[i++];
    s.digit = {static_cast<uint32_t>(first + 3 - i), above, descending[i]};
  }
  __syncthreads();
  return s.digit;
}

// Keys whose upper bits exceed `prefix` are selected, and of those equal the first `wanted`.
struct Threshold {
  uint32_t prefix = 0;
  int shift = 32;
  uint32_t wanted;
  bool all_equal = false;  // every equal one is wanted
};

template <int kPass, int kCluster>
__device__ __forceinline__ void narrow(const Part& part, Keys& keys, SharedMemory& s, uint32_t rank,
                                       Threshold& t) {
  if (t.all_equal) return;
  count_digits<kPass>(part, keys, t.prefix, s);
  const Digit digit = find_digit(merge<kCluster>(s, rank), t.wanted, s);
  t.shift = kDigitShift<kPass>;
  t.prefix = t.prefix << (kDigitShift<kPass - 1> - t.shift) | digit.bin;  // from 0
  t.wanted -= digit.above;
  t.all_equal = digit.count == t.wanted;
}

// --- the choice ---

// x: keys that are selected in any case; y: those of which `wanted` are.
struct Bounds {
  uint32_t surely, perhaps;  // key >= surely; perhaps <= key < surely
  __device__ __forceinline__ explicit Bounds(const Threshold& t)
      : surely((t.prefix + (t.all_equal ? 0u : 1u)) << t.shift), perhaps(t.prefix << t.shift) {}
  __device__ __forceinline__ bool sure(uint32_t key) const { return key >= surely; }
  __device__ __forceinline__ bool maybe(uint32_t key) const { return key >= perhaps && key < surely; }
};

__device__ __forceinline__ uint2 operator+(uint2 a, uint2 b) { return {a.x + b.x, a.y + b.y}; }

// What is selected before this warp in the row.
template <int kCluster>
__device__ __forceinline__ uint2 count_before(const Part& part, Keys& keys, const Bounds& bounds,
                                              SharedMemory& s, uint32_t rank) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  uint2 own = {};
  for_batches(part, keys, [&](int) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        own.x += bounds.sure(keys.at[v][e]);
        own.y += bounds.maybe(keys.at[v][e]);
      }
  });
  own = {__reduce_add_sync(kAll, own.x), __reduce_add_sync(kAll, own.y)};
  if (lane == 0) s.warp_counts[warp] = own;
  __syncthreads();
  const uint2 of_lane = lane < kWarps ? s.warp_counts[lane] : uint2{};
  uint2 before = {__reduce_add_sync(kAll, lane < warp ? of_lane.x : 0),
                  __reduce_add_sync(kAll, lane < warp ? of_lane.y : 0)};
  if constexpr (kCluster > 1) {
    const uint2 of_cta = {__reduce_add_sync(kAll, of_lane.x), __reduce_add_sync(kAll, of_lane.y)};
    if (threadIdx.x < kCluster) store_cluster(cluster_address(&s.cta_counts[rank], threadIdx.x), of_cta);
    cluster_sync();
    const uint2 cta = lane < static_cast<int>(rank) ? s.cta_counts[lane] : uint2{};
    before = before + uint2{__reduce_add_sync(kAll, cta.x), __reduce_add_sync(kAll, cta.y)};
  }
  return before;
}

struct Row {
  const TopKParams& p;
  int32_t* out;
  const int32_t* page_table;
  __device__ __forceinline__ int32_t slot(int position) const {
    if (!p.slots) return position;
    return page_table[position / kCudaPageTokens] * kCudaPageTokens + position % kCudaPageTokens;
  }
};

// Over the lanes below, of counts 0 .. 4; adds all lanes' to `total`.
__device__ __forceinline__ uint32_t before_in_warp(uint32_t count, uint32_t& total) {
  const uint32_t below = (1u << threadIdx.x % 32) - 1;
  uint32_t before = 0;
#pragma unroll
  for (int bit = 0; bit < 3; ++bit) {
    const uint32_t lanes = __ballot_sync(kAll, count >> bit & 1);
    before += __popc(lanes & below) << bit;
    total += __popc(lanes) << bit;
  }
  return before;
}

__device__ __forceinline__ void write_selected(const Part& part, Keys& keys, const Threshold& t,
                                               const Bounds& bounds, uint2 before, const Row& row) {
  for_batches(part, keys, [&](int batch) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const uint32_t largest = max(max(keys.at[v][0], keys.at[v][1]), max(keys.at[v][2], keys.at[v][3]));
      if (!__any_sync(kAll, largest >= bounds.perhaps)) continue;
      uint32_t sure = 0, maybe = 0;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        sure += bounds.sure(keys.at[v][e]);
        maybe += bounds.maybe(keys.at[v][e]);
      }
      uint2 at = before;
      at.x += before_in_warp(sure, before.x);
      if (!t.all_equal) at.y += before_in_warp(maybe, before.y);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const bool is_sure = bounds.sure(keys.at[v][e]), is_maybe = bounds.maybe(keys.at[v][e]);
        if (is_sure || (is_maybe && at.y < t.wanted))
          row.out[at.x + min(at.y, t.all_equal ? 0 : t.wanted)] =
              row.slot(part.position(batch * kVectors + v) + e);
        at.x += is_sure;
        at.y += is_maybe;
      }
    }
  });
}

// A row that sees no more than k: all of it.
__device__ void write_all(const Row& row, int seen, uint32_t thread, uint32_t threads) {
  for (uint32_t i = thread; i < static_cast<uint32_t>(row.p.topk); i += threads)
    row.out[i] = static_cast<int>(i) < seen ? row.slot(static_cast<int>(i)) : -1;
}

template <int kCluster>
__global__ void __launch_bounds__(kThreads, 2) top_k_kernel(const __grid_constant__ TopKParams p) {
  __shared__ SharedMemory s;
  const uint32_t rank = kCluster == 1 ? 0 : cluster_rank();
  clear_histogram(s);
  __syncthreads();
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  for (int r = static_cast<int>(blockIdx.x) / kCluster; r < p.rows; r += static_cast<int>(gridDim.x) / kCluster) {
    const TokenPlace place = p.places[r];
    const int seen = static_cast<int>(static_cast<uint32_t>(place.position + 1) / static_cast<uint32_t>(p.ratio));
    const Row row{p, p.selected + r * p.selected_stride, p.page_table + place.sequence * p.table_stride};
    if (seen <= p.topk) {
      write_all(row, seen, rank * kThreads + threadIdx.x, kCluster * kThreads);
      continue;
    }
    constexpr int kStep = kCluster * kWarps * kWarpStep;
    const int vectors = (seen + kStep - 1) / kStep;  // of a warp
    const int cta_begin = static_cast<int>(rank) * vectors * kWarps * kWarpStep;
    const Part part{p.logits + r * p.logits_stride, cta_begin + static_cast<int>(threadIdx.x / 32) * vectors * kWarpStep,
                    min(seen, cta_begin + vectors * kWarps * kWarpStep), vectors};
    Keys keys;
    if (part.batches() == 1) load_keys(part, 0, keys);
    Threshold threshold;
    threshold.wanted = static_cast<uint32_t>(p.topk);
    narrow<0, kCluster>(part, keys, s, rank, threshold);
    narrow<1, kCluster>(part, keys, s, rank, threshold);
    narrow<2, kCluster>(part, keys, s, rank, threshold);
    const Bounds bounds(threshold);
    const uint2 before = count_before<kCluster>(part, keys, bounds, s, rank);
    write_selected(part, keys, threshold, bounds, before, row);
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
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = kCluster;
  attributes[0].val.clusterDim.y = 1;
  attributes[0].val.clusterDim.z = 1;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  config.attrs = attributes;
  config.numAttrs = p.launch == Launch::kProgrammatic ? 2 : 1;
  return cudaLaunchKernelEx(&config, top_k_kernel<kCluster>, p);
}

// As few CTAs a row as hold its keys; more where rows would leave processors idle.
int cluster_of(const TopKParams& p) {
  if (p.cluster != 0) return p.cluster;
  constexpr int kProcessors = 132, kLargest = 16;
  int cluster = 1;
  while (cluster < kLargest && p.context > int64_t{cluster} * kResident) cluster *= 2;
  while (cluster < kLargest && int64_t{2} * cluster * p.rows <= kProcessors &&
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
    case 1: return launch<1>(p, stream);
    case 2: return launch<2>(p, stream);
    case 4: return launch<4>(p, stream);
    case 8: return launch<8>(p, stream);
    case 16: return launch<16>(p, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace fulgurite::index_select
