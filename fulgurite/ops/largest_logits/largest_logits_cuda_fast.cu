// A cluster of eight blocks shares a row; each keeps the keys of its part in shared memory, which is read once.
//   1. The largest key with the lowest id that has it, and how many keys there are: a greedy choice is done.
//   2. The key of the last one that is chosen, by digits of 11, 11 and 10 bits: each block counts its keys' digits, and after a
//      barrier of the cluster adds up those of all blocks.
//   3. Each warp counts what it will write of its part; what comes before it gives it its place.
// Limits: few rows, so barriers and latencies; weights in double, 40 instructions each.

#include "fulgurite/cuda/cluster.h"
#include "fulgurite/cuda/fast.h"
#include "fulgurite/ops/largest_logits/largest_logits_rules.h"

namespace fulgurite::largest_logits {
namespace {

constexpr unsigned kThreads = 1024, kWarps = kThreads / 32, kBlocks = 8;
constexpr int kBins = 2 * kThreads, kPasses = 3;
constexpr int kMostKeys = static_cast<int>(kMostVocabulary / kBlocks);  // of a block: 192 KB
constexpr int kAtOnce = 8;                                              // loads of a thread under way
constexpr unsigned kAll = ~0u;

struct Params {
  const float* logits;
  const double* temperatures;
  int32_t* ids;
  float* values;
  double* totals;
  int32_t* numbers;
  int64_t stride, ids_stride, values_stride;
  int vocabulary, count;
  int keys;  // of a block, a multiple of kThreads
};

// What a block tells the others.
struct Told {
  uint64_t largest;  // key, then ~id
  double weight;
  uint32_t numbers, above, equal;
};

struct Shared {
  uint32_t bins[kPasses][kBins];  // of each pass, so that others may still read
  Told told;
  uint64_t warp_largest[kWarps];
  double warp_weights[kWarps];
  uint2 warp_counts[kWarps];
  uint2 digit;  // and the keys of larger ones
};

__device__ void cluster_sync() {
  cuda::cluster_arrive_shared();
  cuda::cluster_wait();
}

template <class T>
__device__ T of_block(const T* shared, uint32_t rank) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  const uint32_t at = cuda::address_in(cuda::shared_address(shared), rank);
  T value;
  if constexpr (sizeof(T) == 8) {
    const uint2 pair = cuda::load_remote_pair(at);
    memcpy(&value, &pair, 8);
  } else {
    const uint32_t word = cuda::load_remote(at);
    memcpy(&value, &word, 4);
  }
  return value;
}

// The same sum in every lane, lanes in a tree.
template <class T>
__device__ T warp_sum(T value) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) value += __shfl_xor_sync(kAll, value, apart);
  return value;
}
__device__ uint2 warp_sum(uint2 value) {
  return {__reduce_add_sync(kAll, value.x), __reduce_add_sync(kAll, value.y)};
}

__device__ uint64_t warp_largest(uint64_t value) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) {
    const uint64_t other = __shfl_xor_sync(kAll, value, apart);
    value = other > value ? other : value;
  }
  return value;
}

__device__ uint32_t inclusive_sum(uint32_t value) {
#pragma unroll
  for (int apart = 1; apart < 32; apart *= 2) {
    const uint32_t other = __shfl_up_sync(kAll, value, apart);
    if (threadIdx.x % 32 >= apart) value += other;
  }
  return value;
}

// --- the parts of a block ---

struct Block {
  const Params& p;
  Shared& s;
  uint32_t* keys;
  uint32_t rank;
  int row, first, own;  // ids first .. first + own

  __device__ int warp() const { return threadIdx.x / 32; }
  __device__ int lane() const { return threadIdx.x % 32; }

  // Keys beyond the vocabulary are 0, as NaN's.
  __device__ void load() const {
    const float* const logits = p.logits + row * p.stride + first;
    uint64_t largest = 0;
    uint32_t numbers = 0;
    for (int begin = threadIdx.x; begin < p.keys; begin += kAtOnce * kThreads) {
      float values[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int i = begin + j * static_cast<int>(kThreads);
        values[j] = i < own ? __ldcg(logits + i) : __uint_as_float(0x7FFFFFFFu);
      }
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int i = begin + j * static_cast<int>(kThreads);
        const uint32_t key = key_of(values[j]);
        if (i < p.keys) keys[i] = key;
        const uint64_t mine = uint64_t{key} << 32 | ~static_cast<uint32_t>(first + i);
        if (key != 0 && mine > largest) largest = mine;
        numbers += key != 0 ? 1 : 0;
      }
    }
    largest = warp_largest(largest);
    numbers = __reduce_add_sync(kAll, numbers);
    if (lane() == 0) {
      s.warp_largest[warp()] = largest;
      s.warp_counts[warp()] = {numbers, 0};
    }
    __syncthreads();
    if (warp() != 0) return;
    largest = warp_largest(s.warp_largest[lane()]);
    numbers = __reduce_add_sync(kAll, s.warp_counts[lane()].x);
    if (lane() == 0) {
      s.told.largest = largest;
      s.told.numbers = numbers;
    }
  }

  __device__ void weigh(uint32_t largest_key, double temperature) const {
    const float largest = logit_of(largest_key);
    double sum = 0.0;
    for (int i = threadIdx.x; i < own && temperature > 0.0; i += kThreads)
      if (keys[i] != 0) sum += weight(logit_of(keys[i]), largest, temperature);
    sum = warp_sum(sum);
    if (lane() == 0) s.warp_weights[warp()] = sum;
    __syncthreads();
    if (warp() != 0) return;
    sum = warp_sum(s.warp_weights[lane()]);
    if (lane() == 0) s.told.weight = sum;
  }

  // Of the keys that begin as `least` does.
  __device__ void count_digits(int pass, uint32_t least) const {
    const int shift = shift_of(pass), before = pass == 0 ? 32 : shift_of(pass - 1);
    for (int i = threadIdx.x; i < own; i += kThreads) {
      const uint32_t key = keys[i];
      if (key == 0 || (uint64_t{key ^ least} >> before) != 0) continue;
      atomicAdd(&s.bins[pass][key >> shift & (kBins - 1)], 1u);
    }
  }
  __device__ static int shift_of(int pass) { return pass == 0 ? 21 : pass == 1 ? 10 : 0; }

  // The digit of the `wanted`-th largest, and how many keys have larger ones; all threads.
  __device__ uint2 find_digit(int pass, uint32_t wanted) const {
    const int high = kBins - 1 - 2 * static_cast<int>(threadIdx.x);  // this thread's two bins, from the top
    uint2 counts{};                                                  // of the lower and the higher one
#pragma unroll
    for (uint32_t other = 0; other < kBlocks; ++other) {
      const uint2 pair =
          of_block(reinterpret_cast<const uint2*>(&s.bins[pass][high - 1]), (rank + other) % kBlocks);
      counts.x += pair.x;
      counts.y += pair.y;
    }
    uint32_t upto = inclusive_sum(counts.x + counts.y);
    if (lane() == 31) s.warp_counts[warp()] = {upto, 0};
    __syncthreads();
    const uint32_t of_warp = s.warp_counts[lane()].x;
    upto += __reduce_add_sync(kAll, lane() < warp() ? of_warp : 0);
    const uint32_t above = upto - counts.x - counts.y;
    if (above < wanted && upto >= wanted) {
      const bool higher = above + counts.y >= wanted;
      s.digit = {static_cast<uint32_t>(higher ? high : high - 1), above + (higher ? 0 : counts.y)};
    }
    __syncthreads();
    return s.digit;
  }

  // Of the warp's keys; the warp's are the warp()-th part of the block's.
  __device__ int warp_first() const { return warp() * (p.keys / static_cast<int>(kWarps)); }
  __device__ int warp_end() const { return warp_first() + p.keys / static_cast<int>(kWarps); }

  __device__ void count_chosen(uint32_t least) const {
    uint2 counts{};
    for (int i = warp_first() + lane(); i < warp_end(); i += 32) {
      counts.x += keys[i] > least ? 1 : 0;
      counts.y += keys[i] == least ? 1 : 0;
    }
    counts = warp_sum(counts);
    if (lane() == 0) s.warp_counts[warp()] = counts;
    __syncthreads();
    if (warp() != 0) return;
    counts = warp_sum(s.warp_counts[lane()]);
    if (lane() != 0) return;
    s.told.above = counts.x;
    s.told.equal = counts.y;
  }

  // `before`: chosen keys above the last one before the warp's, and equal ones.
  __device__ void write(uint32_t least, uint32_t ties, uint2 before) const {
    const uint32_t earlier = (1u << lane()) - 1;
    for (int i = warp_first() + lane(); i < warp_end(); i += 32) {
      const uint32_t key = keys[i];
      const uint32_t above = __ballot_sync(kAll, key > least), equal = __ballot_sync(kAll, key == least);
      const uint32_t above_here = before.x + __popc(above & earlier),
                     equal_here = before.y + __popc(equal & earlier);
      if (key > least || (key == least && equal_here < ties)) {
        const int64_t at = above_here + min(equal_here, ties);
        p.ids[row * p.ids_stride + at] = first + i;
        p.values[row * p.values_stride + at] = logit_of(key);
      }
      before.x += __popc(above);
      before.y += __popc(equal);
    }
  }

  __device__ void write_rest(uint32_t found) const {
    for (int i = static_cast<int>(found + threadIdx.x); i < p.count; i += kThreads) {
      p.ids[row * p.ids_stride + i] = -1;
      p.values[row * p.values_stride + i] = 0.0f;
    }
  }
};

// The cluster's.
struct Sums {
  uint64_t largest = 0;
  uint32_t numbers = 0;
};
__device__ Sums sums_of(const Shared& s) {
  Sums sums;
#pragma unroll
  for (uint32_t rank = 0; rank < kBlocks; ++rank) {
    const uint64_t largest = of_block(&s.told.largest, rank);
    sums.largest = largest > sums.largest ? largest : sums.largest;
    sums.numbers += of_block(&s.told.numbers, rank);
  }
  return sums;
}

__device__ double total_of(const Shared& s) {
  double total = 0.0;
  for (uint32_t rank = 0; rank < kBlocks; ++rank) total += of_block(&s.told.weight, rank);
  return total;
}

// Of more than one: all but the totals.
__device__ void choose(const Block& b, uint32_t found) {
  uint32_t least = 0, wanted = found;
  for (int pass = 0; pass < kPasses && found > 0; ++pass) {
    if (pass > 0) {
      b.count_digits(pass, least);
      cluster_sync();
    }
    const uint2 digit = b.find_digit(pass, wanted);
    least |= digit.x << Block::shift_of(pass);
    wanted -= digit.y;
  }
  __syncthreads();
  b.count_chosen(least);
  cluster_sync();
  if (found > 0) {
    const uint2 of_lane = b.s.warp_counts[b.lane()];
    uint2 before = warp_sum(b.lane() < b.warp() ? of_lane : uint2{});
    for (uint32_t rank = 0; rank < b.rank; ++rank) {
      before.x += of_block(&b.s.told.above, rank);
      before.y += of_block(&b.s.told.equal, rank);
    }
    b.write(least, wanted, before);
  }
  if (b.rank == 0) b.write_rest(found);
}

__global__ void __launch_bounds__(kThreads, 1) largest_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(16) uint32_t memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  cuda::release_successor();
  const uint32_t rank = cuda::cluster_rank();
  const int first = static_cast<int>(rank) * p.keys;
  const Block b{p,
                s,
                memory + sizeof(Shared) / 4,
                rank,
                static_cast<int>(blockIdx.x / kBlocks),
                first,
                min(p.keys, max(p.vocabulary - first, 0))};
  for (int i = threadIdx.x; i < kPasses * kBins; i += kThreads) s.bins[0][i] = 0;
  cuda::wait_for_predecessor();
  b.load();
  if (p.count > 1) {
    __syncthreads();
    b.count_digits(0, 0);
  }
  cluster_sync();
  const Sums sums = sums_of(s);
  const double temperature = p.temperatures[b.row];
  b.weigh(static_cast<uint32_t>(sums.largest >> 32), temperature);
  __syncthreads();
  if (p.count > 1)
    choose(b, min(static_cast<uint32_t>(p.count), sums.numbers));
  else
    cluster_sync();
  if (rank == 0 && threadIdx.x == 0) {
    p.totals[b.row] = total_of(s);
    p.numbers[b.row] = static_cast<int32_t>(sums.numbers);
    if (p.count == 1) {
      const bool any = sums.numbers > 0;
      p.ids[b.row * p.ids_stride] = any ? static_cast<int32_t>(~static_cast<uint32_t>(sums.largest)) : -1;
      p.values[b.row * p.values_stride] = any ? logit_of(static_cast<uint32_t>(sums.largest >> 32)) : 0.0f;
    }
  }
  cluster_sync();  // others have read what this block told
}

// --- launches ---

int keys_of_block(int64_t vocabulary) {
  const int64_t each = (vocabulary + kBlocks - 1) / kBlocks;
  return static_cast<int>((each + kThreads - 1) / kThreads * kThreads);
}

size_t shared_bytes(int64_t vocabulary) {
  return sizeof(Shared) + static_cast<size_t>(keys_of_block(vocabulary)) * sizeof(uint32_t);
}

}  // namespace

void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  if (args.logits.extent[0] == 0) return;
  const Params params{args.logits.data,
                      args.temperatures.data,
                      args.ids.data,
                      args.values.data,
                      args.totals.data,
                      args.numbers.data,
                      args.logits.stride[0],
                      args.ids.stride[0],
                      args.values.stride[0],
                      static_cast<int>(problem.vocabulary),
                      static_cast<int>(args.ids.extent[1]),
                      keys_of_block(problem.vocabulary)};
  static const cudaError_t allowed =
      cudaFuncSetAttribute(largest_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(sizeof(Shared) + kMostKeys * 4));
  cuda::check(allowed, "cudaFuncSetAttribute");
  const auto rows = static_cast<unsigned>(args.logits.extent[0]);
  cuda::launch(lane, {{rows * kBlocks}, kThreads, shared_bytes(problem.vocabulary), kBlocks}, largest_kernel,
               params);
}

}  // namespace fulgurite::largest_logits
