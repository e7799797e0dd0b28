// Expert by expert, ascending, each over the tokens that chose it, so that its weights are read once for all
// of them and a token's sum grows in ascending order of its experts. The threads share the columns of each
// product: a tile of gate and up becomes hidden values at once, a tile of down is added to the output at
// once. Activations that are not fp32 are widened first, and the sums rounded last.

#include <algorithm>
#include <numeric>
#include <utility>

#include "fulgurite/cpu/matmul.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/experts/experts.h"

namespace fulgurite::experts {
namespace {

constexpr int64_t kLargestChunk = 256;  // rows of one expert at a time: bounds the workspace of large batches
constexpr int64_t kMostTokens = 1024;   // that are widened at once, where activations are not fp32

Support supports(const Problem& problem) {
  const Numerics& n = problem.setting.numerics;
  Support quantization;
  if ((problem.experts > 0 && linear::quantizes(gate_problem(problem, Part::kRouted))) ||
      (problem.shared_width > 0 && linear::quantizes(gate_problem(problem, Part::kShared))))
    quantization = takes(n.activation_quant, {ActivationQuant::kNone});
  return first_refusal({takes(n.activation, {Activation::kFp32, Activation::kFp16}), quantization,
                        takes(n.mma, {Mma::kExact})});
}

struct Scratch {
  float* hidden;    // [chunk, width]: silu(gate) * up
  float* tiles;     // of each thread, two of [chunk, kWeightTile]
  float* decoded;   // of each thread, matmul_scratch
  int32_t* ends;    // [experts]: of each expert's entries
  int32_t* tokens;  // [entries]: by expert, then token
  float* weights;   // [entries]
  float* x;         // [batch, hidden], widened where it is not fp32
  float* sums;      // [batch, hidden], not yet rounded
};

int64_t chunk_rows(const Problem& problem) { return std::min(problem.largest_batch, kLargestChunk); }

bool widens(const Problem& problem) { return problem.setting.numerics.activation != Activation::kFp32; }

// Tokens that are done together.
int64_t batch_of(const Problem& problem) {
  return widens(problem) ? std::min(problem.largest_batch, kMostTokens) : problem.largest_batch;
}

int64_t decoded_floats(const Problem& problem) {
  return cpu::matmul_scratch(std::max({problem.hidden, problem.width, problem.shared_width}));
}

Scratch cut_scratch(const Problem& problem, int threads, cpu::Cutter& cutter) {
  const int64_t chunk = chunk_rows(problem);
  const int64_t entries = batch_of(problem) * std::max<int64_t>(problem.experts_per_token, 1);
  const int64_t widened = widens(problem) ? batch_of(problem) * problem.hidden : 0;
  return {cutter.take<float>(chunk * std::max(problem.width, problem.shared_width)),
          cutter.take<float>(2 * threads * chunk * cpu::kWeightTile),
          cutter.take<float>(threads * decoded_floats(problem)),
          cutter.take<int32_t>(problem.experts),
          cutter.take<int32_t>(entries),
          cutter.take<float>(entries),
          cutter.take<float>(widened),
          cutter.take<float>(widened)};
}

int64_t workspace_bytes(const Problem& problem, int threads) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, threads, cutter);
  return cutter.bytes();
}

// A batch.
struct Run {
  const Problem& problem;
  const Args& args;
  const cpu::Kernels& kernels;
  const Lane& lane;
  Scratch scratch;
  cpu::Rows x;
  View<float, 2> out;  // sums of the experts
  WeightReading reading;

  // The rounding of an activation.
  void round(float* values, int64_t count) const {
    cpu::round_floats(kernels, args.out.dtype, values, count);
  }
};

// Sorts (token, slot) by expert, then token.
void group_by_expert(const Args& args, const Scratch& scratch) {
  const View<const int32_t, 2>& ids = args.expert_ids;
  int32_t* const ends = scratch.ends;
  const auto experts = static_cast<int64_t>(args.experts.size());
  std::fill_n(ends, experts, 0);
  for (int64_t t = 0; t < ids.extent[0]; ++t)
    for (int64_t j = 0; j < ids.extent[1]; ++j) ++ends[ids(t, j)];
  int32_t begin = 0;
  for (int64_t e = 0; e < experts; ++e) begin += std::exchange(ends[e], begin);
  for (int64_t t = 0; t < ids.extent[0]; ++t) {
    for (int64_t j = 0; j < ids.extent[1]; ++j) {
      const int32_t entry = ends[ids(t, j)]++;
      scratch.tokens[entry] = static_cast<int32_t>(t);
      scratch.weights[entry] = args.expert_weights(t, j);
    }
  }
}

// One thread's part of a product: `count` columns, at most a tile.
struct Columns {
  const Run& run;
  int thread;
  int64_t first, count;

  float* tile() const { return run.scratch.tiles + 2 * thread * chunk_rows(run.problem) * cpu::kWeightTile; }
  float* gate() const { return tile() + chunk_rows(run.problem) * cpu::kWeightTile; }
  void multiply(const cpu::Rows& x, const PreparedMatrix& weight, float* y, int64_t y_stride) const {
    float* const decoded = run.scratch.decoded + thread * decoded_floats(run.problem);
    cpu::matmul(run.kernels, Lane{}, {x, &weight, first, count, y, y_stride, run.reading}, decoded);
  }
};

template <class Body>
void for_each_tile(const Run& run, int64_t columns, const Body& body) {
  const int64_t tiles = (columns + cpu::kWeightTile - 1) / cpu::kWeightTile;
  cpu::parallel_for(run.lane, tiles, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t first = begin * cpu::kWeightTile; first < std::min(columns, end * cpu::kWeightTile);
         first += cpu::kWeightTile)
      body(Columns{run, thread, first, std::min(cpu::kWeightTile, columns - first)});
  });
}

// What is done before down: the part's limit, and the weights of rows, if they are multiplied there.
struct Gating {
  float limit;
  const float* weights;

  float weight(int64_t row) const { return weights == nullptr ? 1.0f : weights[row]; }
};

// scratch.hidden = (silu(gate(x)) * up(x)) * weight
void compute_hidden(const Run& run, const Mlp& mlp, const cpu::Rows& x, const Gating& gating) {
  const int64_t width = mlp.gate.out;
  for_each_tile(run, width, [&](const Columns& columns) {
    columns.multiply(x, mlp.gate, columns.gate(), cpu::kWeightTile);
    columns.multiply(x, mlp.up, columns.tile(), cpu::kWeightTile);
    for (int64_t r = 0; r < x.count; ++r) {
      float* const gate = columns.gate() + r * cpu::kWeightTile;
      float* const up = columns.tile() + r * cpu::kWeightTile;
      float* const hidden = run.scratch.hidden + r * width + columns.first;
      run.round(gate, columns.count);
      run.round(up, columns.count);
      run.kernels.silu_mul_limited(gate, up, columns.count, gating.limit, gating.weight(r), hidden);
      run.round(hidden, columns.count);
    }
  });
}

// out[tokens[r]] = fma(weights[r], down(row r of scratch.hidden), it), null for ones; the tokens are distinct.
void add_output(const Run& run, const Mlp& mlp, std::span<const int32_t> tokens, const float* weights) {
  const cpu::Rows hidden{run.scratch.hidden, mlp.down.in, static_cast<int64_t>(tokens.size())};
  for_each_tile(run, mlp.down.out, [&](const Columns& columns) {
    columns.multiply(hidden, mlp.down, columns.tile(), cpu::kWeightTile);
    for (size_t r = 0; r < tokens.size(); ++r) {
      float* const y = columns.tile() + static_cast<int64_t>(r) * cpu::kWeightTile;
      run.round(y, columns.count);
      run.kernels.add_scaled(y, weights == nullptr ? 1.0f : weights[r], columns.count,
                             run.out[tokens[r]].data + columns.first);
    }
  });
}

void add_mlp(const Run& run, Part part, const Mlp& mlp, int64_t first_entry, int64_t end_entry) {
  const bool before_down = part == Part::kRouted && run.problem.weight_before_down;
  for (int64_t entry = first_entry; entry < end_entry; entry += kLargestChunk) {
    const int64_t rows = std::min(kLargestChunk, end_entry - entry);
    const int32_t* const tokens = run.scratch.tokens + entry;
    const float* const weights = part == Part::kRouted ? run.scratch.weights + entry : nullptr;
    compute_hidden(run, mlp, {run.x.base, run.x.stride, rows, tokens},
                   {limit_of(run.problem, part), before_down ? weights : nullptr});
    add_output(run, mlp, {tokens, static_cast<size_t>(rows)}, before_down ? nullptr : weights);
  }
}

void add_routed(const Run& run) {
  group_by_expert(run.args, run.scratch);
  int64_t begin = 0;
  for (size_t e = 0; e < run.args.experts.size(); ++e) {
    const int64_t end = run.scratch.ends[e];
    add_mlp(run, Part::kRouted, run.args.experts[e], begin, end);
    begin = end;
  }
}

// The shared expert is one that every token has chosen, without a weight: fma(1, y, sum) is the plain sum.
void add_shared(const Run& run) {
  const int64_t tokens = run.args.x.extent[0];
  std::iota(run.scratch.tokens, run.scratch.tokens + tokens, 0);
  add_mlp(run, Part::kShared, *run.args.shared, 0, tokens);
}

void run_batch(const Problem& problem, const Args& args, const Lane& lane, const Scratch& scratch) {
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  const View<float, 2> out =
      widens(problem) ? View<float, 2>(scratch.sums, args.out.extent) : args.out.as<float>();
  const Part part = problem.experts > 0 ? Part::kRouted : Part::kShared;
  const Run run{problem, args,
                kernels, lane,
                scratch, cpu::fp32_rows(kernels, args.x, scratch.x),
                out,     linear::reading_of(gate_problem(problem, part))};
  for (int64_t t = 0; t < out.extent[0]; ++t) std::fill_n(out[t].data, problem.hidden, 0.0f);
  add_routed(run);
  if (args.shared != nullptr) add_shared(run);
  for (int64_t t = 0; t < out.extent[0]; ++t)
    cpu::write_floats(kernels, out[t].data, 0, problem.hidden, args.out[t]);
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cpu::Cutter cutter(lane.workspace.data());
  const Scratch scratch = cut_scratch(problem, lane.threads, cutter);
  const int64_t tokens = args.x.extent[0];
  for (int64_t t = 0, count = 0; t < tokens; t += count) {
    count = std::min(batch_of(problem), tokens - t);
    run_batch(problem, of_tokens(problem, args, t, count), lane, scratch);
  }
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::experts
