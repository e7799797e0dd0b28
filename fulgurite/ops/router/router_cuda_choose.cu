// A block a token, a thread an expert. A rank is counted: how many stand before this one. Values are compared
// as keys (unsigned) that rise with them, NaN below all; of equal ones the lower index stands before.

#include <cmath>

#include "fulgurite/cuda/number.h"
#include "fulgurite/ops/router/router_cuda_kernels.h"

namespace fulgurite::router {
namespace {

struct Params {
  const double* parts;  // [kParts, tokens, experts]
  const float* bias;
  const int32_t* ids;
  const int64_t* hash_table;
  int64_t hash_stride;
  int32_t* expert_ids;
  float* expert_weights;
  int64_t ids_stride, weights_stride;
  int tokens, experts, groups, groups_kept, chosen;
  float factor;
  Scoring scoring;
  bool hashed;
};

struct alignas(16) Shared {
  uint32_t keys[kMostExperts];
  float scores[kMostExperts], values[kMostExperts];  // s and z
  uint32_t group_keys[kMostGroups];
  float best[kMostGroups][2];
  bool group_stays[kMostGroups];
  int32_t chosen[kMostChosen];
  int of_warps[32];
};

__device__ uint32_t key_of(float value) {
  if (cuda::is_nan(value)) return 0;
  const uint32_t bits = __float_as_uint(__fadd_rn(value, 0.0f));  // -0 is +0
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// Those of keys[first, last) that stand before keys[own]; chunks of 32 are all before a warp's experts, or
// all after, but for their own.
template <class Before>
__device__ int count_chunk(const uint32_t* keys, const Before& before) {
  int count = 0;
#pragma unroll
  for (int i = 0; i < 32; i += 4) {
    const uint4 four = *reinterpret_cast<const uint4*>(keys + i);
    count += before(four.x, i) + before(four.y, i + 1) + before(four.z, i + 2) + before(four.w, i + 3);
  }
  return count;
}
__device__ int count_before(const uint32_t* keys, int first, int last, int own, uint32_t key) {
  int count = 0, i = first;
  const auto stands_before = [&](uint32_t other, int at) { return at < own ? other >= key : other > key; };
  for (; i < last && (i % 4 != 0 || i + 32 > last); ++i) count += i != own && stands_before(keys[i], i);
  for (; i + 32 <= last; i += 32) {
    if (i + 32 <= own)
      count += count_chunk(keys + i, [&](uint32_t other, int) { return other >= key; });
    else if (i > own)
      count += count_chunk(keys + i, [&](uint32_t other, int) { return other > key; });
    else
      count += count_chunk(keys + i, [&](uint32_t other, int at) { return stands_before(other, i + at); });
  }
  for (; i < last; ++i) count += i != own && stands_before(keys[i], i);
  return count;
}

// --- the score, as the contract has it ---

__device__ float sigmoid(float l) {
  return static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(l))));
}
__device__ float softplus(float l) {
  if (l > 20.0f) return l;
  const auto e = static_cast<float>(std::exp(static_cast<double>(l)));
  return static_cast<float>(std::log1p(static_cast<double>(e)));
}
__device__ float score(Scoring scoring, float l) {
  return scoring == Scoring::kSigmoid ? sigmoid(l) : __fsqrt_rn(softplus(l));
}

__device__ float logit(const Params& p, int64_t t, int expert) {
  double parts[kParts], sum = 0.0;
#pragma unroll
  for (int i = 0; i < kParts; ++i)
    parts[i] = __ldcg(p.parts + (static_cast<int64_t>(i) * p.tokens + t) * p.experts + expert);
#pragma unroll
  for (int i = 0; i < kParts; ++i) sum = __dadd_rn(sum, parts[i]);
  return static_cast<float>(sum);
}

// --- the choice ---

// All threads: the group of each, and whether it stays.
__device__ bool stays(const Params& p, Shared& shared, int expert, uint32_t key) {
  const int size = p.experts / p.groups, group = expert / size;
  if (expert < p.experts) {
    const int rank = count_before(shared.keys, group * size, (group + 1) * size, expert, key);
    if (rank < 2) shared.best[group][rank] = shared.values[expert];
  }
  __syncthreads();
  if (expert < p.groups) {
    const float* const best = shared.best[expert];
    shared.group_keys[expert] = key_of(size == 1 ? best[0] : __fadd_rn(best[0], best[1]));
  }
  __syncthreads();
  if (expert < p.groups)
    shared.group_stays[expert] =
        count_before(shared.group_keys, 0, p.groups, expert, shared.group_keys[expert]) < p.groups_kept;
  __syncthreads();
  return expert < p.experts && shared.group_stays[group];
}

// Among the experts of the groups that stay.
__device__ int rank_among_kept(const Params& p, const Shared& shared, int expert, uint32_t key) {
  if (p.groups == 1) return count_before(shared.keys, 0, p.experts, expert, key);
  const int size = p.experts / p.groups;
  int rank = 0;
  for (int g = 0; g < p.groups; ++g)
    if (shared.group_stays[g]) rank += count_before(shared.keys, g * size, (g + 1) * size, expert, key);
  return rank;
}

// Of the threads that say yes, ascending.
__device__ int position_of(Shared& shared, bool yes) {
  const unsigned ballot = __ballot_sync(~0u, yes), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (lane == 0) shared.of_warps[warp] = __popc(ballot);
  __syncthreads();
  int position = __popc(ballot & ((1u << lane) - 1));
  for (unsigned w = 0; w < warp; ++w) position += shared.of_warps[w];
  return position;
}

__device__ void choose_by_score(const Params& p, Shared& shared, int expert) {
  const uint32_t key = expert < p.experts ? shared.keys[expert] : 0;
  const bool kept = p.groups == 1 ? expert < p.experts : stays(p, shared, expert, key);
  const bool chosen = kept && rank_among_kept(p, shared, expert, key) < p.chosen;
  const int position = position_of(shared, chosen);
  if (chosen) shared.chosen[position] = expert;
}

// One thread: the table's experts, ascending.
__device__ void choose_by_table(const Params& p, Shared& shared, int64_t t) {
  const int64_t* const row = p.hash_table + __ldcg(p.ids + t) * p.hash_stride;
  for (int j = 0; j < p.chosen; ++j) {
    const auto expert = static_cast<int32_t>(row[j]);
    int at = j;
    for (; at > 0 && shared.chosen[at - 1] > expert; --at) shared.chosen[at] = shared.chosen[at - 1];
    shared.chosen[at] = expert;
  }
}

__global__ void __launch_bounds__(kMostExperts) choose(const __grid_constant__ Params p) {
  __shared__ Shared shared;
  cuda::release_successor();
  const int expert = static_cast<int>(threadIdx.x);
  const int64_t t = blockIdx.x;
  const float bias = p.hashed || expert >= p.experts ? 0.0f : p.bias[expert];
  cuda::wait_for_predecessor();
  if (expert < p.experts) {
    const float s = score(p.scoring, logit(p, t, expert)), z = __fadd_rn(s, bias);
    shared.scores[expert] = s;
    shared.values[expert] = z;
    shared.keys[expert] = key_of(z);
  }
  __syncthreads();
  if (!p.hashed)
    choose_by_score(p, shared, expert);
  else if (expert == 0)
    choose_by_table(p, shared, t);
  __syncthreads();
  if (expert >= p.chosen) return;
  float sum = 0.0f;
  for (int j = 0; j < p.chosen; ++j) sum = __fadd_rn(sum, shared.scores[shared.chosen[j]]);
  const int32_t own = shared.chosen[expert];
  p.expert_ids[t * p.ids_stride + expert] = own;
  p.expert_weights[t * p.weights_stride + expert] = __fmul_rn(__fdiv_rn(shared.scores[own], sum), p.factor);
}

}  // namespace

void launch_choice(const Problem& problem, const Args& args, const double* parts, const Lane& lane) {
  const auto tokens = static_cast<unsigned>(args.x.extent[0]),
             experts = static_cast<unsigned>(problem.experts);
  const Params params{parts,
                      args.bias.data,
                      args.ids.data,
                      args.hash_table.data,
                      args.hash_table.stride[0],
                      args.expert_ids.data,
                      args.expert_weights.data,
                      args.expert_ids.stride[0],
                      args.expert_weights.stride[0],
                      static_cast<int>(tokens),
                      static_cast<int>(experts),
                      static_cast<int>(problem.groups),
                      static_cast<int>(problem.groups_kept),
                      static_cast<int>(problem.experts_per_token),
                      problem.factor,
                      problem.scoring,
                      problem.hashed};
  const unsigned threads = std::max(experts, static_cast<unsigned>(problem.experts_per_token));
  cuda::launch(lane, {{tokens}, (threads + 31) / 32 * 32}, choose, params);
}

}  // namespace fulgurite::router
