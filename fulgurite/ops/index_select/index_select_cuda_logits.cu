// Index logits on Hopper. A page of 64 keys is the 64 rows of a wgmma, (query row, head) pairs are its columns.
//
// A CTA: two consumer warpgroups and a producer, one warp of a third. The producer brings pages (a tensor copy of the codes, a bulk
// copy of the scales) into a ring; every CTA takes an equal, contiguous share of all (group of query rows, page) pairs.
//   Split  kPages (decode): both warpgroups hold the same R query rows and take pages in turn. kRows (prefill): both
//          take every page, each for R rows of its own.
//   Form   kQuad: the four lanes of a quad hold a quarter of a row's heads each, exactly the four parts of the head
//          sum. kLane: columns are permuted so that one lane holds all heads of a (row, key) and makes the four
//          parts itself, without an exchange; it needs 4 rows or more.
// Wide products (N >= 128) are taken in turns, so that one warpgroup multiplies while the other sums heads; left alone
// they fall into step and the tensor cores idle half the time.
// Rows of a group may belong to different sequences: then the group's pages are visited once for each run of
// equal sequences, and rows outside the run store nothing.
// Limits: decode by HBM (8448 B a page), prefill by the tensor cores (512 clocks a page and 256 columns; the
// epilogue is 2 instructions a (key, head): 256 issue slots of them).

#include <algorithm>

#include "fulgurite/cuda/barrier.h"
#include "fulgurite/cuda/tma.h"
#include "fulgurite/cuda/wgmma.h"
#include "fulgurite/ops/index_select/index_select_cuda.h"

namespace fulgurite::index_select {
namespace {

using namespace fulgurite::cuda;

constexpr int kDim = 128, kPage = kCudaPageTokens, kCodeBytes = kPage * kDim;
constexpr int kGroupThreads = 128, kConsumers = 2 * kGroupThreads, kThreads = 3 * kGroupThreads;
constexpr int kMaxGroups = 2048;  // of a launch
constexpr int kQueriesName = 1, kTurnName = 3;  // named barriers, one for each consumer warpgroup

enum class Form { kQuad, kLane };
enum class Split { kPages, kRows };

template <int kHeads_, int kRows_, Form kForm, Split kSplit>
struct Config {
  static constexpr int kHeads = kHeads_;
  static constexpr int kRows = kRows_;  // query rows of a warpgroup
  static constexpr bool kLaneForm = kForm == Form::kLane;
  static constexpr bool kSplitRows = kSplit == Split::kRows;
  static constexpr int kColumns = kHeads * kRows;
  static constexpr bool kTurns = kColumns >= 128;
  static constexpr int kGroupRows = kSplitRows ? 2 * kRows : kRows;  // of a CTA
  static constexpr int kOwned = kColumns / 4;                       // columns of a lane
  static constexpr int kStages = kColumns == 256 ? 12 : 16;
};

template <class C>
struct alignas(1024) SharedMemory {
  uint8_t queries[2][C::kColumns * kDim];
  uint8_t codes[C::kStages][kCodeBytes];
  float scales[C::kStages][kPage];
  Barrier full[C::kStages], empty[C::kStages];
  int32_t group_end[kMaxGroups];  // pages of the groups up to and with this one
  int32_t warp_sums[kThreads / 32];
};

// --- which pages ---

struct Work {
  LogitsParams p;
  int group_rows;
  int groups;
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
template <class Shared>
__device__ int count_pages(const Work& w, Shared& s) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int before = 0;
  for (int base = 0; base < w.groups; base += kThreads) {
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
    for (int i = 0; i < kThreads / 32; ++i) {
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
  const uint64_t policy = l2_policy(C::kSplitRows ? L2Policy::kNormal : L2Policy::kEvictFirst);
  const auto entry_at = [&](int page) {
    return page < cursor.run.pages ? w.p.page_table[cursor.run.sequence * w.p.table_stride + page] : 0;
  };
  int entry = 0, entry_run = -1;  // entry: of page cursor.page + lane
  for (int done = 0; done < count;) {
    const int pages = min(min(32, count - done), cursor.run.pages - cursor.page);
    if (entry_run != cursor.run.first) entry = entry_at(cursor.page + lane);
    const int next = entry_at(cursor.page + pages + lane);
    for (int i = 0; i < pages; ++i) {
      const int page = __shfl_sync(~0u, entry, i);
      const int stage = (done + i) % C::kStages, round = (done + i) / C::kStages;
      if (lane == 0) {
        barrier_wait(&s.empty[stage], (round & 1) ^ 1);
        barrier_expect(&s.full[stage], kCodeBytes + kPage * 4);
        tensor_load(s.codes[stage], map, 0, 0, page, &s.full[stage], policy);
        bulk_load(s.scales[stage], w.p.pages + page * kCudaPageBytes + kCodeBytes, kPage * 4, &s.full[stage],
                  policy);
      }
      __syncwarp();
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

// Column c of a warpgroup's B: its query row and head. Quad: row by row. Lane: lane q of a quad holds columns
// 8 j + 2 q + b; they are the heads of its rows 4 i + q, ascending in (j, b).
template <class C>
__device__ __forceinline__ int2 row_and_head(int column) {
  if constexpr (!C::kLaneForm) {
    return {column / C::kHeads, column % C::kHeads};
  } else {
    const int owned = column / 8 * 2 + column % 2;
    return {owned / C::kHeads * 4 + column % 8 / 2, owned % C::kHeads};
  }
}

// The query row and head of a lane's owned column.
template <class C>
__device__ __forceinline__ int2 owned_row_and_head(int owned, int quad_lane) {
  return row_and_head<C>(owned / 2 * 8 + 2 * quad_lane + owned % 2);
}

// Rows that a lane stores: Lane: its own; Quad: all.
template <class C>
constexpr int kStoredRows = C::kLaneForm ? C::kRows / 4 : C::kRows;

template <class C>
struct Consumer {
  const Work& w;
  SharedMemory<C>& s;
  const int warpgroup, thread, lane, quad_lane;
  float weights[C::kOwned];
  int seen[kStoredRows<C>];  // what the stored rows see; 0: not in this run

  __device__ __forceinline__ Consumer(const Work& work, SharedMemory<C>& shared)
      : w(work),
        s(shared),
        warpgroup(threadIdx.x / kGroupThreads),
        thread(threadIdx.x % kGroupThreads),
        lane(threadIdx.x % 32),
        quad_lane(threadIdx.x % 4) {}

  // First row of the warpgroup in a group.
  __device__ __forceinline__ int first_row(int group) const {
    return group * w.group_rows + (C::kSplitRows ? warpgroup * C::kRows : 0);
  }
  __device__ __forceinline__ int stored_row(int i) const { return C::kLaneForm ? 4 * i + quad_lane : i; }

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
      const int2 at = owned_row_and_head<C>(i, quad_lane);
      weights[i] =
          first + at.x < last ? w.p.weights[static_cast<int64_t>(first + at.x) * C::kHeads + at.y] : 0.0f;
    }
    shared_writes_fence();
    named_barrier_sync(kQueriesName + warpgroup, kGroupThreads);
  }

  __device__ __forceinline__ void find_seen(const Cursor& cursor) {
#pragma unroll
    for (int i = 0; i < kStoredRows<C>; ++i) {
      const int row = first_row(cursor.group) + stored_row(i);
      seen[i] = row >= cursor.run.first && row < cursor.run.last ? visible_of(w.p, row) : 0;
    }
  }

  // The product of page i of `count`. The other warpgroup's turn comes as the last of the four steps runs.
  __device__ __forceinline__ void multiply(int i, int count, float (&d)[C::kColumns / 2]) {
    const uint64_t keys = wgmma_operand(s.codes[i % C::kStages]), queries = wgmma_operand(s.queries[warpgroup]);
    const int turn = C::kSplitRows ? 2 * i + warpgroup : i, turns = C::kSplitRows ? 2 * count : count;
    if (C::kTurns && turn > 0) named_barrier_sync(kTurnName + warpgroup, kConsumers);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kDim / 32; ++k) {
      WgmmaE4m3<C::kColumns>::multiply(d, keys + 2 * k, queries + 2 * k, k > 0);
      if (k >= kDim / 32 - 2) wgmma_commit();
    }
    if constexpr (C::kTurns) {
      wgmma_wait<1>();
      if (turn + 1 < turns) named_barrier_arrive(kTurnName + 1 - warpgroup, kConsumers);
    }
    wgmma_wait<0>();
    wgmma_result(d);
  }

  // Quad: lanes 0 and 1 of a quad bring the sums of its first and second key together, for even rows; 2 and 3
  // for odd rows.
  __device__ __forceinline__ void store_quad(const float (&d)[C::kColumns / 2], const Cursor& cursor, float scale) {
    constexpr int kEach = C::kHeads / 4;
    const int second = lane & 1;
    const int key = cursor.page * kPage + thread / 32 * 16 + lane / 4 + 8 * second;
#pragma unroll
    for (int t = 0; t < C::kRows; ++t) {
      float parts[2] = {0.0f, 0.0f};
#pragma unroll
      for (int i = t * kEach; i < (t + 1) * kEach; ++i) {
        parts[0] = __fmaf_rn(weights[i], relu(d[i / 2 * 4 + i % 2]), parts[0]);
        parts[1] = __fmaf_rn(weights[i], relu(d[i / 2 * 4 + 2 + i % 2]), parts[1]);
      }
      float sum = second ? parts[1] : parts[0];
      const float other = second ? parts[0] : parts[1];
      sum = __fadd_rn(sum, __shfl_xor_sync(~0u, other, 1));
      sum = __fadd_rn(sum, __shfl_xor_sync(~0u, sum, 2));
      if (quad_lane / 2 == t % 2 && key < seen[t])
        w.p.logits[(first_row(cursor.group) + t) * w.p.logits_stride + key] = __fmul_rn(scale, sum);
    }
  }

  __device__ __forceinline__ void store_lane(const float (&d)[C::kColumns / 2], const Cursor& cursor,
                                             const float (&scale)[2]) {
    const int key = cursor.page * kPage + thread / 32 * 16 + lane / 4;
#pragma unroll
    for (int r = 0; r < kStoredRows<C>; ++r) {
      float parts[4][2] = {};
#pragma unroll
      for (int h = 0; h < C::kHeads; ++h) {
        const int i = r * C::kHeads + h;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& part = parts[h / 2 % 4][e];
          part = __fmaf_rn(weights[i], relu(d[i / 2 * 4 + 2 * e + i % 2]), part);
        }
      }
      float* out = w.p.logits + (first_row(cursor.group) + stored_row(r)) * w.p.logits_stride + key;
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float sum =
            __fadd_rn(__fadd_rn(parts[0][e], parts[1][e]), __fadd_rn(parts[2][e], parts[3][e]));
        if (key + 8 * e < seen[r]) out[8 * e] = __fmul_rn(scale[e], sum);
      }
    }
  }

  __device__ __forceinline__ void consume(Cursor cursor, int count) {
    int group = -1, run_first = -1;
    float d[C::kColumns / 2];
    const int first = C::kSplitRows ? 0 : warpgroup, step = C::kSplitRows ? 1 : 2;
    if (first >= count) return;
    if (first > 0) cursor.advance(w, first);
    for (int i = first;;) {
      const int stage = i % C::kStages, round = i / C::kStages;
      if (cursor.group != group) load_queries(group = cursor.group);
      if (cursor.run.first != run_first) {
        run_first = cursor.run.first;
        find_seen(cursor);
      }
      barrier_wait(&s.full[stage], round & 1);
      const int key = thread / 32 * 16 + lane / 4;
      float scale[2];
      if constexpr (C::kLaneForm) {
        scale[0] = s.scales[stage][key];
        scale[1] = s.scales[stage][key + 8];
      } else {
        scale[0] = s.scales[stage][key + 8 * (lane & 1)];
      }
      multiply(i, count, d);
      __syncwarp();
      if (lane == 0) barrier_arrive(&s.empty[stage]);
      if constexpr (C::kLaneForm)
        store_lane(d, cursor, scale);
      else
        store_quad(d, cursor, scale[0]);
      i += step;
      if (i >= count) break;
      cursor.advance(w, step);
    }
  }
};

template <class C>
__global__ void __launch_bounds__(kThreads, 1)
    logits_kernel(const __grid_constant__ Work w, const __grid_constant__ CUtensorMap map) {
  extern __shared__ uint8_t raw[];
  auto& s = *reinterpret_cast<SharedMemory<C>*>((reinterpret_cast<uintptr_t>(raw) + 1023) / 1024 * 1024);
  if (threadIdx.x == 0) {
    for (int i = 0; i < C::kStages; ++i) {
      barrier_init(&s.full[i], 1);
      barrier_init(&s.empty[i], C::kSplitRows ? 8 : 4);  // warps
    }
    barrier_init_fence();
    prefetch_map(&map);
  }
  const int64_t pages = count_pages(w, s);  // with a __syncthreads
  const int begin = static_cast<int>(pages * blockIdx.x / gridDim.x);
  const int count = static_cast<int>(pages * (blockIdx.x + 1) / gridDim.x) - begin;
  Cursor cursor;
  if (count > 0) cursor = cursor_at(w, s, begin);
  if (count > 0 && threadIdx.x / 32 == kConsumers / 32 && cursor.page + threadIdx.x % 32 < cursor.run.pages)
    prefetch_l2(w.p.page_table + cursor.run.sequence * w.p.table_stride + cursor.page + threadIdx.x % 32);
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  if (count == 0) return;
  if (threadIdx.x >= kConsumers) {
    if constexpr (C::kColumns == 256) give_registers<32>();
    if (threadIdx.x < kConsumers + 32) produce<C>(w, &map, s, cursor, count);
  } else {
    if constexpr (C::kColumns == 256) take_registers<232>();
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
  Work work{p, C::kSplitRows ? C::kGroupRows : std::clamp(p.rows_together, 1, C::kGroupRows), 0};
  work.groups = (p.rows + work.group_rows - 1) / work.group_rows;
  if (work.groups > kMaxGroups) return cudaErrorInvalidValue;
  CUtensorMap map;
  if (const cudaError_t error = page_map(p, &map); error != cudaSuccess) return error;

  constexpr int kBytes = sizeof(SharedMemory<C>) + 1024;
  const cudaError_t sized =
      cudaFuncSetAttribute(logits_kernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (sized != cudaSuccess) return sized;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(p.ctas));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = p.launch == Launch::kProgrammatic ? 1 : 0;
  return cudaLaunchKernelEx(&config, logits_kernel<C>, work, map);
}

template <int kHeads>
cudaError_t launch_heads(const LogitsParams& p, cudaStream_t stream) {
  if (p.rows_together == 1) return launch<Config<kHeads, 1, Form::kQuad, Split::kPages>>(p, stream);
  if (p.rows_together == 2) return launch<Config<kHeads, 2, Form::kQuad, Split::kPages>>(p, stream);
  if (p.rows_together <= 4) return launch<Config<kHeads, 4, Form::kLane, Split::kPages>>(p, stream);
  return launch<Config<kHeads, 256 / kHeads, Form::kLane, Split::kRows>>(p, stream);
}

}  // namespace

cudaError_t launch_logits(const LogitsParams& p, cudaStream_t stream) {
  if (p.rows == 0) return cudaSuccess;
  if (p.rows < 0 || p.ctas < 1 || p.ratio < 1 || p.pool_pages < 1) return cudaErrorInvalidValue;
  switch (p.heads) {
    case 8: return launch_heads<8>(p, stream);
    case 16: return launch_heads<16>(p, stream);
    case 32: return launch_heads<32>(p, stream);
    case 64: return launch_heads<64>(p, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace fulgurite::index_select
