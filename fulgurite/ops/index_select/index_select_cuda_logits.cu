// Index logits on Hopper. A page of 64 keys is the 64 rows of a wgmma, (query row, head) pairs are its columns.
//
// A CTA: consumer warpgroups and a producer, one warp of a last warpgroup. The producer brings pages (a tensor copy of
// the codes, a bulk copy of the scales) into a ring; every CTA takes an equal, contiguous share of all (group of query
// rows, page) pairs. Warpgroups hold one of `slices` of a group's rows each, and those of a slice take pages in turn.
// The head sum's four parts are made by the lanes of a quad, which hold a (row, key) together: 4 of them with a part
// each (one row), 2 with two parts, or 1 with all; columns of B are permuted accordingly, and one or two exchanges
// bring the parts together. Prefill uses four warpgroups of N = 128: with two of N = 256, a warpgroup's own chain of
// product, sums and stores takes twice the tensor cores' time.
// Rows of a group may belong to different sequences: then the group's pages are visited once for each run of
// equal sequences, and rows outside the run store nothing.
// Limits: decode by HBM (8448 B a page), prefill by the tensor cores (256 clocks for a page and 128 columns; the sums
// are 2 instructions a (key, head): 128 of each scheduler's slots, and about 60 others).

#include <algorithm>

#include "fulgurite/cuda/barrier.h"
#include "fulgurite/cuda/dependent_launch.h"
#include "fulgurite/cuda/tma.h"
#include "fulgurite/cuda/wgmma.h"
#include "fulgurite/ops/index_select/index_select_cuda.h"

namespace fulgurite::index_select {
namespace {

using namespace fulgurite::cuda;

constexpr int kDim = 128, kPage = kCudaPageTokens, kCodeBytes = kPage * kDim;
constexpr int kGroupThreads = 128;
constexpr int kMaxGroups = 2048;  // of a launch
constexpr int kQueriesName = 1;   // named barriers, one for each consumer warpgroup

template <int kHeads_, int kRows_, int kShare_, int kSlices_, int kWarpgroups_>
struct Config {
  static constexpr int kHeads = kHeads_;
  static constexpr int kRows = kRows_;    // query rows of a warpgroup
  static constexpr int kShare = kShare_;  // lanes of a quad that hold a (row, key) together
  static constexpr int kSlices = kSlices_;
  static constexpr int kWarpgroups = kWarpgroups_;
  static constexpr int kStep = kWarpgroups / kSlices;  // pages from one of a warpgroup to its next
  static constexpr int kGroupRows = kRows * kSlices;
  static constexpr int kColumns = kHeads * kRows;
  static constexpr int kOwned = kColumns / 4;            // columns of a lane,
  static constexpr int kLaneHeads = kHeads / kShare;     // which are some heads
  static constexpr int kLaneRows = kOwned / kLaneHeads;  // of these many rows
  static constexpr int kParts = 4 / kShare;              // of the head sum, in a lane
  static constexpr int kConsumers = kWarpgroups * kGroupThreads;
  static constexpr int kThreads = kConsumers + kGroupThreads;
  static constexpr int kStages = 12;  // of the ring, at most
  static constexpr int kGoodStages =
      kWarpgroups == 2 ? 8 : 12;  // more in flight cost decode up to 7 % (measured)
  static_assert(kRows * kShare % 4 == 0 && kLaneRows * kLaneHeads == kOwned);
};

template <class C>
struct alignas(1024) SharedMemory {
  uint8_t queries[C::kWarpgroups][C::kColumns * kDim];
  uint8_t codes[C::kStages][kCodeBytes];
  float scales[C::kStages][kPage];
  Barrier full[C::kStages], empty[C::kStages];
  int32_t group_end[kMaxGroups];  // pages of the groups up to and with this one
  int32_t warp_sums[C::kThreads / 32];
};

// --- which pages ---

struct Work {
  LogitsParams p;
  int group_rows;
  int groups;
  int stages;  // of the ring
};

__device__ __forceinline__ int visible_of(const LogitsParams& p, int row) {
  return static_cast<int>(static_cast<uint32_t>(p.places[row].position + 1) / static_cast<uint32_t>(p.ratio));
}

// Consecutive rows of one sequence within a group, and the pages that they need.
struct Run {
  int first, last, sequence, pages;
};

__device__ __forceinline__ int group_last(const Work& w, int group) {
  return min((group + 1) * w.group_rows, w.p.rows);
}

__device__ Run run_from(const Work& w, int first, int limit) {
  Run run{first, first, w.p.places[first].sequence, 0};
  int longest = 0;
  do {
    const int seen = visible_of(w.p, run.last);
    if (seen > w.p.skip_visible) longest = max(longest, seen);
    ++run.last;
  } while (run.last < limit && w.p.places[run.last].sequence == run.sequence);
  run.pages = (longest + kPage - 1) / kPage;
  return run;
}

__device__ int group_pages(const Work& w, int group) {
  int pages = 0;
  for (int row = group * w.group_rows, limit = group_last(w, group); row < limit;) {
    const Run run = run_from(w, row, limit);
    pages += run.pages;
    row = run.last;
  }
  return pages;
}

// A place in the list of all (group, run, page).
struct Cursor {
  int group, page;
  Run run;

  __device__ void next_run(const Work& w) {
    if (run.last == group_last(w, group)) ++group;
    run = run_from(w, run.last, group_last(w, group));
  }
  __device__ void seek(const Work& w, int first_group, int offset) {
    group = first_group;
    run = run_from(w, group * w.group_rows, group_last(w, group));
    while (offset >= run.pages) {
      offset -= run.pages;
      next_run(w);
    }
    page = offset;
  }
  // Not beyond the last page of all.
  __device__ __forceinline__ void advance(const Work& w, int pages) {
    page += pages;
    while (page >= run.pages) {
      page -= run.pages;
      next_run(w);
    }
  }
};

// Fills group_end; every thread takes part. Returns the pages of all groups.
template <class C>
__device__ int count_pages(const Work& w, SharedMemory<C>& s) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int before = 0;
  for (int base = 0; base < w.groups; base += C::kThreads) {
    const int group = base + static_cast<int>(threadIdx.x);
    int sum = group < w.groups ? group_pages(w, group) : 0;
#pragma unroll
    for (int apart = 1; apart < 32; apart *= 2) {
      const int other = __shfl_up_sync(~0u, sum, apart);
      if (lane >= apart) sum += other;
    }
    if (lane == 31) s.warp_sums[warp] = sum;
    __syncthreads();
    int all = 0;
    for (int i = 0; i < C::kThreads / 32; ++i) {
      if (i < warp) sum += s.warp_sums[i];
      all += s.warp_sums[i];
    }
    if (group < w.groups) s.group_end[group] = before + sum;
    before += all;
    __syncthreads();
  }
  return before;
}

// The cursor at page `at` of all.
template <class Shared>
__device__ Cursor cursor_at(const Work& w, const Shared& s, int at) {
  int low = 0, high = w.groups - 1;  // the first group whose end is beyond `at`
  while (low < high) {
    const int middle = (low + high) / 2;
    if (s.group_end[middle] > at)
      high = middle;
    else
      low = middle + 1;
  }
  Cursor cursor;
  cursor.seek(w, low, at - (low > 0 ? s.group_end[low - 1] : 0));
  return cursor;
}

// --- the producer ---

template <class C>
__device__ void produce(const Work& w, const CUtensorMap* map, SharedMemory<C>& s, Cursor cursor, int count) {
  const int lane = threadIdx.x % 32;
  const uint64_t policy = l2_policy(C::kSlices == 4 ? L2Policy::kNormal : L2Policy::kEvictFirst);
  const auto entry_at = [&](int page) {
    return page < cursor.run.pages ? w.p.page_table[cursor.run.sequence * w.p.table_stride + page] : 0;
  };
  int entry = 0, entry_run = -1;  // entry: of page cursor.page + lane
  int stage = 0;
  uint32_t parity = 1;  // of a ring not yet used
  for (int done = 0; done < count;) {
    const int pages = min(min(32, count - done), cursor.run.pages - cursor.page);
    if (entry_run != cursor.run.first) entry = entry_at(cursor.page + lane);
    const int next = entry_at(cursor.page + pages + lane);
    for (int i = 0; i < pages; ++i) {
      const int page = __shfl_sync(~0u, entry, i);
      if (lane == 0) {
        barrier_wait_idle(&s.empty[stage], parity);
        barrier_expect(&s.full[stage], kCodeBytes + kPage * 4);
        tensor_load(s.codes[stage], map, 0, 0, page, &s.full[stage], policy);
        bulk_load(s.scales[stage], w.p.pages + page * kCudaPageBytes + kCodeBytes, kPage * 4, &s.full[stage],
                  policy);
      }
      __syncwarp();
      if (++stage == w.stages) {
        stage = 0;
        parity ^= 1;
      }
    }
    entry = next;
    entry_run = cursor.run.first;
    done += pages;
    if (done < count) cursor.advance(w, pages);
  }
}

// --- the consumers ---

// max(0, x); a NaN stays.
__device__ __forceinline__ float relu(float x) {
  float y;
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(y) : "f"(x));
  return y;
}

// Column c of a warpgroup's B: its query row and head. Lane q of a quad owns columns 8 j + 2 q + b, ascending in
// (j, b): a part of the heads of each of its rows.
template <class C>
__device__ __forceinline__ int2 row_and_head(int column) {
  constexpr int kTogether = 8 / C::kShare;  // consecutive heads of a lane: kParts parts of two
  const int owned = column / 8 * 2 + column % 2, lane = column % 8 / 2;
  const int i = owned % C::kLaneHeads;
  return {owned / C::kLaneHeads * C::kParts + lane / C::kShare,
          i / kTogether * 8 + lane % C::kShare * kTogether + i % kTogether};
}

// A value that costs more to make again than a register.
template <class Int>
__device__ __forceinline__ Int kept(Int x) {
  asm volatile("" : "+r"(x));
  return x;
}

template <class C>
struct Consumer {
  const Work& w;
  SharedMemory<C>& s;
  const int warpgroup, thread, lane, quad_lane;
  float weights[C::kOwned];
  int key;                 // the lane's in a page (and 8 further, where it holds all of a row)
  int left[C::kLaneRows];  // of the lane's rows: they see the key of a page if this exceeds the page's first
  uint32_t out[C::kLaneRows];  // and where the logit of that key in page 0 lies

  __device__ __forceinline__ Consumer(const Work& work, SharedMemory<C>& shared)
      : w(work),
        s(shared),
        warpgroup(__shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0)),  // uniform, as all see
        thread(threadIdx.x % kGroupThreads),
        lane(threadIdx.x % 32),
        quad_lane(threadIdx.x % 4),
        key(kept(thread / 32 * 16 + lane / 4 + (C::kShare > 1 ? lane % 2 * 8 : 0))) {}

  // First row of the warpgroup in a group.
  __device__ __forceinline__ int first_row(int group) const {
    return group * w.group_rows + warpgroup % C::kSlices * C::kRows;
  }
  __device__ __forceinline__ void load_queries(int group) {
    const int first = first_row(group), last = group_last(w, group);
    constexpr int kPieces = kDim / 16;
    named_barrier_sync(kQueriesName + warpgroup, kGroupThreads);  // all have multiplied with the old ones
#pragma unroll 8
    for (int i = thread; i < C::kColumns * kPieces; i += kGroupThreads) {
      const int column = i / kPieces, piece = i % kPieces;
      const int2 at = row_and_head<C>(column);
      uint4 bytes = {};
      if (first + at.x < last) {
        const int64_t vector = static_cast<int64_t>(first + at.x) * C::kHeads + at.y;
        bytes = *reinterpret_cast<const uint4*>(w.p.q + vector * kDim + piece * 16);
      }
      *reinterpret_cast<uint4*>(&s.queries[warpgroup][column * kDim + (piece ^ column % 8) * 16]) = bytes;
    }
#pragma unroll
    for (int i = 0; i < C::kOwned; ++i) {
      const int2 at = row_and_head<C>(i / 2 * 8 + 2 * quad_lane + i % 2);
      weights[i] =
          first + at.x < last ? w.p.weights[static_cast<int64_t>(first + at.x) * C::kHeads + at.y] : 0.0f;
    }
    shared_writes_fence();
    named_barrier_sync(kQueriesName + warpgroup, kGroupThreads);
  }

  __device__ __forceinline__ void find_rows(const Cursor& cursor) {
#pragma unroll
    for (int r = 0; r < C::kLaneRows; ++r) {
      const int row = first_row(cursor.group) + r * C::kParts + quad_lane / C::kShare;
      const int seen = row >= cursor.run.first && row < cursor.run.last ? visible_of(w.p, row) : 0;
      left[r] = kept(seen - key);
      out[r] = kept(static_cast<uint32_t>(row) * static_cast<uint32_t>(w.p.logits_stride) +
                    static_cast<uint32_t>(key));
    }
  }

  // Every key against every column; the page's scales have been read, and it goes back to the producer.
  __device__ __forceinline__ void multiply(int stage, float (&d)[C::kColumns / 2]) {
    const uint64_t keys = wgmma_operand(s.codes[stage]), queries = wgmma_operand(s.queries[warpgroup]);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kDim / 32; ++k)
      WgmmaE4m3<C::kColumns>::multiply(d, keys + 2 * k, queries + 2 * k, k > 0);
    wgmma_commit();
    wgmma_wait<0>();
    __syncwarp();
    if (lane == 0) barrier_arrive(&s.empty[stage]);
    wgmma_result(d);
  }

  // A lane's part of the head sum of its r-th row, for the first and the second key.
  __device__ __forceinline__ float2 lane_sums(const float (&d)[C::kColumns / 2], int r) const {
    float parts[C::kParts][2] = {};
#pragma unroll
    for (int j = 0; j < C::kLaneHeads; ++j) {
      const int i = r * C::kLaneHeads + j;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& part = parts[j / 2 % C::kParts][e];
        part = __fmaf_rn(weights[i], relu(d[i / 2 * 4 + 2 * e + i % 2]), part);
      }
    }
    float2 sums;
    if constexpr (C::kParts == 1) sums = {parts[0][0], parts[0][1]};
    if constexpr (C::kParts == 2)
      sums = {__fadd_rn(parts[0][0], parts[1][0]), __fadd_rn(parts[0][1], parts[1][1])};
    if constexpr (C::kParts == 4)
      sums = {__fadd_rn(__fadd_rn(parts[0][0], parts[1][0]), __fadd_rn(parts[2][0], parts[3][0])),
              __fadd_rn(__fadd_rn(parts[0][1], parts[1][1]), __fadd_rn(parts[2][1], parts[3][1]))};
    return sums;
  }

  __device__ __forceinline__ void store(const float (&d)[C::kColumns / 2], int page,
                                        const float (&scale)[2]) {
    const int base = page * kPage;
#pragma unroll
    for (int r = 0; r < C::kLaneRows; ++r) {
      const float2 sums = lane_sums(d, r);
      float* at = w.p.logits + (out[r] + static_cast<uint32_t>(base));
      if constexpr (C::kShare == 1) {
        if (base < left[r]) at[0] = __fmul_rn(scale[0], sums.x);
        if (base + 8 < left[r]) at[8] = __fmul_rn(scale[1], sums.y);
      } else {  // even lanes take the first key, odd ones the second
        const bool odd = lane % 2 != 0;
        float sum = odd ? sums.y : sums.x;
        sum = __fadd_rn(sum, __shfl_xor_sync(~0u, odd ? sums.x : sums.y, 1));
        if constexpr (C::kShare == 4) sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, 2));
        const bool stores = C::kShare == 2 || quad_lane / 2 == r % 2;
        if (stores && base < left[r]) at[0] = __fmul_rn(scale[0], sum);
      }
    }
  }

  // Pages first, first + kStep, ... of the CTA's `count`.
  __device__ __forceinline__ void consume(Cursor cursor, int count) {
    const int first = warpgroup / C::kSlices;
    if (first >= count) return;
    if (first > 0) cursor.advance(w, first);
    int group = -1, stage = first;
    uint32_t parity = 0;
    float d[C::kColumns / 2];
    for (int i = first; i < count;) {
      if (cursor.group != group) load_queries(group = cursor.group);
      find_rows(cursor);
      const int pages =
          (min(cursor.run.pages - cursor.page, count - i) + C::kStep - 1) / C::kStep;  // of this run
      int page = cursor.page;
      for (int n = 0; n < pages; ++n, page += C::kStep) {
        barrier_wait(&s.full[stage], parity);
        const float scale[2] = {s.scales[stage][key], C::kShare == 1 ? s.scales[stage][key + 8] : 0.0f};
        multiply(stage, d);
        store(d, page, scale);
        stage += C::kStep;
        if (stage >= w.stages) {
          stage -= w.stages;
          parity ^= 1;
        }
      }
      i += pages * C::kStep;
      if (i < count) cursor.advance(w, pages * C::kStep);
    }
  }
};

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    logits_kernel(const __grid_constant__ Work w, const __grid_constant__ CUtensorMap map) {
  extern __shared__ __align__(1024) uint8_t raw[];
  auto& s = *reinterpret_cast<SharedMemory<C>*>(raw);
  if (shared_address(raw) % 1024 != 0) __trap();  // the tensor cores would read other rows
  if (threadIdx.x == 0) {
    for (int i = 0; i < C::kStages; ++i) {
      barrier_init(&s.full[i], 1);
      barrier_init(&s.empty[i], 4 * C::kSlices);  // warps
    }
    barrier_init_fence();
    prefetch_map(&map);
  }
  const int64_t pages = count_pages(w, s);  // with a __syncthreads
  const int begin = static_cast<int>(pages * blockIdx.x / gridDim.x);
  const int count = static_cast<int>(pages * (blockIdx.x + 1) / gridDim.x) - begin;
  Cursor cursor;
  if (count > 0) cursor = cursor_at(w, s, begin);
  if (count > 0 && threadIdx.x / 32 == C::kConsumers / 32 &&
      cursor.page + threadIdx.x % 32 < cursor.run.pages)
    prefetch_l2(w.p.page_table + cursor.run.sequence * w.p.table_stride + cursor.page + threadIdx.x % 32);
  wait_for_predecessor();
  release_successor();
  if (count == 0) return;
  if (threadIdx.x >= C::kConsumers) {
    if constexpr (C::kWarpgroups == 4) give_registers<32>();
    if (threadIdx.x < C::kConsumers + 32) produce<C>(w, &map, s, cursor, count);
  } else {
    if constexpr (C::kWarpgroups == 4) take_registers<112>();
    Consumer<C> consumer(w, s);
    consumer.consume(cursor, count);
  }
}

// --- launches ---

cudaError_t page_map(const LogitsParams& p, CUtensorMap* map) {
  ByteTensor tensor;
  tensor.data = p.pages;
  tensor.extent[0] = kDim;
  tensor.extent[1] = kPage;
  tensor.extent[2] = static_cast<uint64_t>(p.pool_pages);
  tensor.stride[0] = kDim;
  tensor.stride[1] = kCudaPageBytes;
  tensor.box_y = kPage;
  return make_map(tensor, map);
}

template <class C>
cudaError_t launch(const LogitsParams& p, cudaStream_t stream) {
  Work work{p, std::min(std::max(p.rows_together, 1), C::kGroupRows), 0, 0};
  if (p.rows * p.logits_stride > int64_t{1} << 32) return cudaErrorInvalidValue;  // 32-bit places of logits
  work.groups = (p.rows + work.group_rows - 1) / work.group_rows;
  if (work.groups > kMaxGroups) return cudaErrorInvalidValue;
  work.stages = p.pages_in_flight > 0 ? std::clamp(p.pages_in_flight, 4, C::kStages) : C::kGoodStages;
  CUtensorMap map;
  if (const cudaError_t error = page_map(p, &map); error != cudaSuccess) return error;

  constexpr int kBytes = sizeof(SharedMemory<C>);
  const cudaError_t sized =
      cudaFuncSetAttribute(logits_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (sized != cudaSuccess) return sized;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(p.ctas));
  config.blockDim = dim3(C::kThreads);
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  cudaLaunchAttribute attribute = dependent_launch(true);
  config.attrs = &attribute;
  config.numAttrs = p.launch == Launch::kProgrammatic ? 1 : 0;
  return cudaLaunchKernelEx(&config, logits_kernel<C>, work, map);
}

template <int kHeads>
cudaError_t launch_heads(const LogitsParams& p, cudaStream_t stream) {
  constexpr int kRows = 128 / kHeads;
  if (p.rows_together == 1) return launch<Config<kHeads, 1, 4, 1, 2>>(p, stream);
  if (p.rows_together == 2) return launch<Config<kHeads, 2, 2, 1, 4>>(p, stream);
  if (p.rows_together <= 4) return launch<Config<kHeads, 2, 2, 2, 4>>(p, stream);
  return launch<Config<kHeads, kRows, kRows == 2 ? 2 : 1, 4, 4>>(p, stream);
}

}  // namespace

cudaError_t launch_logits(const LogitsParams& p, cudaStream_t stream) {
  if (p.rows == 0) return cudaSuccess;
  if (p.wide_keys != nullptr) return launch_wide_logits(p, stream);
  if (p.rows < 0 || p.ctas < 1 || p.ratio < 1 || p.pool_pages < 1) return cudaErrorInvalidValue;
  switch (p.heads) {
    case 8:
      return launch_heads<8>(p, stream);
    case 16:
      return launch_heads<16>(p, stream);
    case 32:
      return launch_heads<32>(p, stream);
    case 64:
      return launch_heads<64>(p, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace fulgurite::index_select
