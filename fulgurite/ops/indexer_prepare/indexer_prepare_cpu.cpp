// A unit of work is one query head or one key: a vector that is read, turned in fp32 in the thread's scratch
// memory and written in the form of the operand.

#include <algorithm>
#include <span>

#include "fulgurite/core/bf16.h"
#include "fulgurite/core/hadamard.h"
#include "fulgurite/core/rounding.h"
#include "fulgurite/cpu/fp4_rounding.h"
#include "fulgurite/cpu/kernels.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare.h"

namespace fulgurite::indexer_prepare {
namespace {

constexpr int64_t kSmall = 1 << 14;  // elements that are not worth waking another thread

Support supports(const Problem& problem) { return kReference.supports(problem); }

// What one thread works in.
struct Scratch {
  float* x;  // [head_dim]
  float* weight;
  float* bias;
};

Scratch cut_scratch(const Problem& problem, cpu::Cutter& cutter) {
  return {cutter.take<float>(problem.head_dim), cutter.take<float>(problem.head_dim),
          cutter.take<float>(problem.head_dim)};
}

int64_t bytes_per_thread(const Problem& problem) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, cutter);
  return cutter.bytes();
}

int64_t workspace_bytes(const Problem& problem, int threads) { return threads * bytes_per_thread(problem); }

// What every vector of a call reads.
struct Run {
  const Problem& problem;
  const Args& args;
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  const Numerics& numerics = problem.setting.numerics;
  int64_t dim = problem.head_dim;
  DType type = args.q.dtype;  // of activations
  bool interleaved = layout_in_force(problem) == rotary::Layout::kInterleaved;
  float heads_root = inverse_root(problem.heads);
  float dim_root = inverse_root(dim);

  void read(const ConstTensor<1>& row, float* x) const {
    const float* const values = cpu::as_floats(kernels, row, 0, dim, x);
    if (values != x) std::copy_n(values, dim, x);
  }
  // Only values that the step before made are not of the type yet.
  void round(float* x, int64_t count) const { cpu::round_floats(kernels, type, x, count); }
  void rotate(int64_t position, float* x) const {
    kernels.rotate(args.table.cosine[position].data, args.table.sine[position].data, problem.rope / 2,
                   interleaved, x + problem.rope_first);
    round(x + problem.rope_first, problem.rope);
  }
  void hadamard(float* x) const {
    kernels.hadamard(x, dim, dim_root);
    round(x, dim);
  }
  // Returns the scale of codes, otherwise 1.
  float write(float* x, const Tensor<1>& row) const {
    if (numerics.index_quant == IndexQuant::kFp8)
      return kernels.quantize_e4m3(x, dim, index_rounding(numerics),
                                   reinterpret_cast<uint8_t*>(row.as<e4m3>().data));
    if (numerics.index_quant == IndexQuant::kFp4) cpu::round_to_fp4(x, dim);
    cpu::write_floats(kernels, x, 0, dim, row);
    return 1.0f;
  }
};

// The mean of n terms: a double sum, ascending, as the contract has it.
template <class Term>
float mean_of(int64_t n, const Term& term) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += term(i);
  return static_cast<float>(sum / static_cast<double>(n));
}

void layer_norm(const Run& run, const Scratch& scratch) {
  float* const x = scratch.x;
  const float mean = mean_of(run.dim, [&](int64_t i) { return static_cast<double>(x[i]); });
  for (int64_t i = 0; i < run.dim; ++i) x[i] = x[i] - mean;
  const float variance = mean_of(run.dim, [&](int64_t i) { return static_cast<double>(x[i]) * x[i]; });
  const float r = reciprocal_sqrt(variance + run.numerics.index_norm_eps, run.numerics);
  for (int64_t i = 0; i < run.dim; ++i) x[i] = (x[i] * r) * scratch.weight[i] + scratch.bias[i];
  run.round(x, run.dim);
}

void take_parameters(const Run& run, const Scratch& scratch) {
  std::copy_n(run.args.k_weight.data, run.dim, scratch.weight);
  std::copy_n(run.args.k_bias.data, run.dim, scratch.bias);
  if (run.numerics.index_norm == IndexNorm::kFp32) return;
  run.kernels.round_bf16(scratch.weight, run.dim);
  run.kernels.round_bf16(scratch.bias, run.dim);
}

void prepare_query(const Run& run, int64_t t, int64_t h, float* x) {
  const Args& args = run.args;
  run.read(args.q[t][h], x);
  run.rotate(args.places(t).position, x);
  if (args.rotated_q) std::copy_n(x, run.dim, args.rotated_q[t][h].data);
  if (run.numerics.hadamard != Hadamard::kNone) run.hadamard(x);
  const float q_scale = run.write(x, args.q_operand[t][h]);
  float gate = args.gate(t, h);
  if (!run.problem.keys && run.numerics.gate == Gate::kBf16) gate = round_to_bf16(gate);
  args.weights(t, h) = ((gate * run.heads_root) * q_scale) * run.dim_root;  // times 1 is exact
}

void prepare_key(const Run& run, int64_t t, const Scratch& scratch) {
  const Args& args = run.args;
  const TokenPlace place = args.places(t);
  run.read(args.k[t], scratch.x);
  layer_norm(run, scratch);
  run.rotate(place.position, scratch.x);
  if (args.rotated_k) std::copy_n(scratch.x, run.dim, args.rotated_k[t].data);
  if (run.numerics.hadamard == Hadamard::kBoth) run.hadamard(scratch.x);
  const float scale = run.write(scratch.x, args.key_cache.key(place.sequence, place.position));
  if (run.numerics.index_quant == IndexQuant::kFp8)
    args.key_cache.scale(place.sequence, place.position) = scale;
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const Run run{problem, args};
  const int64_t units = problem.heads + (problem.keys ? 1 : 0), count = args.q.extent[0] * units;
  const Lane here{1, nullptr, lane.workspace};
  cpu::parallel_for(count * run.dim < kSmall ? here : lane, count,
                    [&](int64_t begin, int64_t end, int thread) {
                      cpu::Cutter cutter(lane.workspace.data() + thread * bytes_per_thread(problem));
                      const Scratch scratch = cut_scratch(problem, cutter);
                      if (problem.keys) take_parameters(run, scratch);
                      for (int64_t unit = begin; unit < end; ++unit) {
                        const int64_t t = unit / units, h = unit % units;
                        if (h < problem.heads)
                          prepare_query(run, t, h, scratch.x);
                        else
                          prepare_key(run, t, scratch);
                      }
                    });
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::indexer_prepare
