// The activations of a batch are coded once. The tokens of each expert are a piece of work; pieces are done
// in waves, ascending: gate and up of all pieces of a wave, shared by groups of 128 hidden columns, each
// coded where it was made (or, where those are few, by 16 columns, and coded by the caller); then down, shared by output columns, each thread going through the pieces in
// order, so that a token's sum grows by ascending expert. So a layer of a few tokens waits for its threads
// twice, and each weight is packed once for all tokens of its piece. What limits: few tokens an expert,
// reading the weights; many, the products.

#include <algorithm>
#include <numeric>
#include <utility>

#include "fulgurite/cpu/bf16_matmul.h"
#include "fulgurite/cpu/fp8_matmul.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/ops/experts/experts.h"

namespace fulgurite::experts {
namespace {

constexpr int64_t kMostTokens =
    1024;  // of a batch: enough that packing the weights once more does not matter
constexpr int64_t kWaveRows = cpu::kLargestChunk;
constexpr int64_t kGroup = kActivationGroup;
// Fewer rows of groups than these for each thread would be shared unevenly, and are few to code.
constexpr int64_t kFewGroups = 4;

// What the products of a part read: codes, codes in the order of fp4 weights, or activations as they are.
enum class Operand { kCodes, kCodesForFp4, kCopies };
constexpr Operand kOperands[] = {Operand::kCodes, Operand::kCodesForFp4, Operand::kCopies};

Operand operand_of(const Problem& problem, Part part) {
  const linear::Problem gate = gate_problem(problem, part);
  if (!linear::quantizes(gate)) return Operand::kCopies;
  return is_fp4(gate.weight) ? Operand::kCodesForFp4 : Operand::kCodes;
}

cpu::ColumnOrder order_of(Operand operand) {
  return operand == Operand::kCodesForFp4 ? cpu::ColumnOrder::kFp4 : cpu::ColumnOrder::kNatural;
}

bool has(const Problem& problem, Part part) {
  return part == Part::kRouted ? problem.experts > 0 : problem.shared_width > 0;
}

// Is there a part that reads such operands?
bool any_part(const Problem& problem, Operand operand) {
  for (const Part part : {Part::kRouted, Part::kShared})
    if (has(problem, part) && operand_of(problem, part) == operand) return true;
  return false;
}

Support takes_part(const Problem& problem, Part part) {
  if (!has(problem, part)) return std::nullopt;
  const linear::Problem gate = gate_problem(problem, part);
  const Support others = linear::kReference.supports(gate);
  if (linear::quantizes(gate)) return first_refusal({others, cpu::takes_fp8_weight(gate.weight)});
  return first_refusal({others, takes(problem.setting.numerics.activation, {Activation::kBf16}),
                        cpu::takes_bf16_weight(gate.weight)});
}

Support supports(const Problem& problem) {
  return first_refusal({takes(problem.setting.numerics.mma, {Mma::kExact}), kReference.supports(problem),
                        takes_part(problem, Part::kRouted), takes_part(problem, Part::kShared)});
}

// Some tokens of one expert.
struct Piece {
  const Mlp* mlp;
  Part part;
  int64_t first, rows;        // entries
  cpu::OperandRows x;         // the batch's where all its tokens have chosen the expert,
  cpu::OperandMemory copy;    // else a copy of the rows that have
  cpu::OperandMemory hidden;  // silu(gate) * up

  int64_t groups() const { return (mlp->gate.out + kGroup - 1) / kGroup; }
  cpu::OperandRows hidden_rows() const {
    return {hidden.values, hidden.scales, rows, mlp->gate.out, x.order};
  }
};

struct Scratch {
  int32_t* ends;    // [experts]: of each expert's entries
  int32_t* tokens;  // [entries]: by expert, then token; the shared expert's last
  float* weights;   // [entries]
  Piece* pieces;    // of the batch
  cpu::OperandMemory operands[std::size(kOperands)];  // of the batch, each where a part reads it
  cpu::OperandMemory gathered;                        // of a wave
  cpu::OperandMemory hidden;                          // of a wave
  float* sums;                                        // [tokens, hidden]
  cpu::SumTiles gate, up;
  float* groups;  // of each thread, [rows, kGroup]: silu(gate) * up; of few groups, those of all pieces
  int64_t group_floats;  // of one thread
};

// The largest batch, in counts.
struct Sizes {
  int64_t tokens, entries, wave_rows, pieces, width;
};

Sizes sizes_of(const Problem& problem) {
  Sizes s{};
  s.tokens = std::min(problem.largest_batch, kMostTokens);
  const int64_t routed = s.tokens * problem.experts_per_token,
                shared = problem.shared_width > 0 ? s.tokens : 0;
  s.entries = routed + shared;
  s.wave_rows = std::min(s.entries, kWaveRows);
  s.pieces = std::min(routed, problem.experts + routed / kWaveRows) + shared / kWaveRows + 1;
  s.width = std::max(problem.width, problem.shared_width);
  return s;
}

Scratch cut_scratch(const Problem& problem, int threads, cpu::Cutter& cutter) {
  const Sizes s = sizes_of(problem);
  const auto operands = [&](Operand operand) {
    return cpu::cut_operand_memory(cutter, any_part(problem, operand) ? s.tokens : 0, problem.hidden);
  };
  return {cutter.take<int32_t>(problem.experts),
          cutter.take<int32_t>(s.entries),
          cutter.take<float>(s.entries),
          cutter.take<Piece>(s.pieces),
          {operands(Operand::kCodes), operands(Operand::kCodesForFp4), operands(Operand::kCopies)},
          cpu::cut_operand_memory(cutter, s.tokens > 1 ? s.wave_rows : 0, problem.hidden),
          cpu::cut_operand_memory(cutter, s.wave_rows, s.width),
          cutter.take<float>(s.tokens * problem.hidden),
          cpu::cut_sum_tiles(cutter, threads, s.wave_rows),
          cpu::cut_sum_tiles(cutter, threads, s.wave_rows),
          cutter.take<float>(threads * std::max(s.wave_rows, kFewGroups) * kGroup),
          std::max(s.wave_rows, kFewGroups) * kGroup};
}

int64_t workspace_bytes(const Problem& problem, int threads) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, threads, cutter);
  return cutter.bytes();
}

struct Batch {
  const Problem& problem;
  const Args& args;  // of the batch's tokens
  const cpu::Kernels& kernels;
  const Lane& lane;
  Scratch scratch;
  cpu::OperandRows operands[std::size(kOperands)];  // of all tokens

  const cpu::OperandRows& all(Part part) const {
    return operands[static_cast<size_t>(operand_of(problem, part))];
  }
  int64_t tokens() const { return args.x.extent[0]; }
  // The rounding of an activation.
  void round(float* values, int64_t count) const {
    cpu::round_floats(kernels, args.out.dtype, values, count);
  }
  ScaleRounding scale_rounding() const {
    const bool pow2 = problem.setting.numerics.activation_scale == ActivationScale::kPow2;
    return pow2 ? ScaleRounding::kPow2 : ScaleRounding::kNone;
  }
};

// Pieces that are done together.
struct Wave {
  std::span<Piece> pieces;
  bool first, last;  // of the batch
};

// --- who does what ---

// Sorts (token, slot) by expert, then token; every token's entry of the shared expert comes last.
void make_entries(const Args& args, const Scratch& scratch) {
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
  if (args.shared == nullptr) return;
  std::iota(scratch.tokens + begin, scratch.tokens + begin + args.x.extent[0], 0);
  std::fill_n(scratch.weights + begin, args.x.extent[0], 1.0f);  // fma(1, y_shared, y) is the plain sum
}

std::span<Piece> make_pieces(const Batch& batch) {
  Piece* piece = batch.scratch.pieces;
  const auto add = [&](const Mlp& mlp, Part part, int64_t first, int64_t end) {
    for (; first < end; first += kWaveRows)
      *piece++ = {&mlp, part, first, std::min(kWaveRows, end - first), {}, {}, {}};
  };
  int64_t first = 0;
  for (size_t e = 0; e < batch.args.experts.size(); ++e) {
    const int64_t end = batch.scratch.ends[e];
    add(batch.args.experts[e], Part::kRouted, first, end);
    first = end;
  }
  if (batch.args.shared != nullptr) add(*batch.args.shared, Part::kShared, first, first + batch.tokens());
  return {batch.scratch.pieces, piece};
}

// The first `rows` rows of memory, which then begins behind them.
cpu::OperandMemory take_rows(cpu::OperandMemory& memory, int64_t rows, int64_t columns) {
  const int64_t groups = (columns + kGroup - 1) / kGroup * rows;
  return std::exchange(memory, {memory.values + groups * kGroup, memory.scales + groups});
}

// Gives the pieces of a wave their memory.
void place(const Batch& batch, const Wave& wave) {
  cpu::OperandMemory copies = batch.scratch.gathered, hidden = batch.scratch.hidden;
  for (Piece& piece : wave.pieces) {
    piece.x = batch.all(piece.part);
    if (piece.rows < batch.tokens()) {
      piece.copy = take_rows(copies, piece.rows, batch.problem.hidden);
      piece.x = {piece.copy.values, piece.copy.scales, piece.rows, batch.problem.hidden, piece.x.order};
    }
    piece.hidden = take_rows(hidden, piece.rows, piece.mlp->gate.out);
  }
}

// The lane, or the caller alone where the products of a round are not worth waking the others.
Lane lane_for(const Batch& batch, const Wave& wave) {
  int64_t columns = 0, rows = 0;
  for (const Piece& piece : wave.pieces) {
    columns += piece.mlp->gate.out;
    rows = std::max(rows, piece.rows);
  }
  return cpu::lane_worth(batch.lane, rows, columns, batch.problem.hidden);
}

// --- the three rounds of a wave ---

// Fills the copies.
void gather(const Batch& batch, const Wave& wave) {
  const auto has_all = [](const Piece& piece) { return piece.copy.values == nullptr; };
  if (std::ranges::all_of(wave.pieces, has_all)) return;
  const int64_t groups = (batch.problem.hidden + kGroup - 1) / kGroup;
  cpu::parallel_for(lane_for(batch, wave), groups, [&](int64_t begin, int64_t end, int) {
    for (const Piece& piece : wave.pieces) {
      if (has_all(piece)) continue;
      const cpu::OperandRows& all = batch.all(piece.part);
      for (int64_t i = begin * piece.rows; i < end * piece.rows; ++i) {
        const int64_t from = i / piece.rows * all.rows + batch.scratch.tokens[piece.first + i % piece.rows];
        std::copy_n(all.values + from * kGroup, kGroup, piece.copy.values + i * kGroup);
        if (all.scales != nullptr) piece.copy.scales[i] = all.scales[from];
      }
    }
  });
}

void multiply(const Batch& batch, const Piece& piece, const cpu::OperandRows& x, const PreparedMatrix& weight,
              cpu::RowRange rows, const cpu::SumTile& tile) {
  if (operand_of(batch.problem, piece.part) != Operand::kCopies)
    cpu::fp8_sums(batch.kernels, x, weight, rows, tile);
  else
    cpu::bf16_sums(batch.kernels, x, weight, rows, tile);
}

// A row of one group of hidden columns, as down reads it.
void write_operand(const Batch& batch, const Piece& piece, int64_t row, const float* values, int64_t count) {
  uint16_t* const to = piece.hidden.values + row * kGroup;
  const Operand operand = operand_of(batch.problem, piece.part);
  if (operand != Operand::kCopies) {
    uint8_t codes[kGroup];
    piece.hidden.scales[row] =
        batch.kernels.quantize_e4m3(values, count, batch.scale_rounding() == ScaleRounding::kPow2, codes);
    batch.kernels.widen_e4m3(codes, count, 1.0f, to);
  } else {
    batch.kernels.narrow_bf16(values, count, to);
  }
  std::fill(to + count, to + kGroup, uint16_t{0});
  if (operand == Operand::kCodesForFp4) cpu::order_for_fp4(to);
}

// What is multiplied before down.
float weight_before_down(const Batch& batch, const Piece& piece, int64_t row) {
  return batch.problem.weight_before_down ? batch.scratch.weights[piece.first + row] : 1.0f;
}

// (silu(gate(x)) * up(x)) * weight of some columns, in fp32: of row r at to + r * stride.
void multiply_hidden(const Batch& batch, const Piece& piece, cpu::RowRange columns, int thread, float* to,
                     int64_t stride) {
  const int64_t lanes = cpu::tile_lanes(piece.rows);
  const cpu::SumTile gate = batch.scratch.gate[thread], up = batch.scratch.up[thread];
  const float limit = limit_of(batch.problem, piece.part);
  for (int64_t l = 0; l < columns.count; l += lanes) {
    const cpu::RowRange range{columns.first + l, std::min(lanes, columns.count - l)};
    multiply(batch, piece, piece.x, piece.mlp->gate, range, gate);
    multiply(batch, piece, piece.x, piece.mlp->up, range, up);
    for (int64_t r = 0; r < piece.rows; ++r) {
      float *const g = gate.sums + r * lanes, *const u = up.sums + r * lanes;
      batch.round(g, range.count);
      batch.round(u, range.count);
      batch.kernels.silu_mul_limited(g, u, range.count, limit, weight_before_down(batch, piece, r),
                                     to + r * stride + l);
    }
  }
  for (int64_t r = 0; r < piece.rows; ++r) batch.round(to + r * stride, columns.count);
}

// The rows of a group, as down reads them.
void write_group(const Batch& batch, const Piece& piece, int64_t group, const float* from, int64_t stride) {
  const int64_t columns = std::min(kGroup, piece.mlp->gate.out - group * kGroup);
  for (int64_t r = 0; r < piece.rows; ++r)
    write_operand(batch, piece, group * piece.rows + r, from + r * stride, columns);
}

// What of a piece's gate and up, of 16 columns or of a group, costs: packing, four rows' products, and its own rows'.
int64_t cost_of(const Piece& piece) { return 4 + piece.rows; }

// Shares the groups of all pieces, each coded where it was made.
void share_groups(const Batch& batch, const Wave& wave, const Lane& lane) {
  int64_t total = 0;
  for (const Piece& piece : wave.pieces) total += piece.groups() * cost_of(piece);
  cpu::parallel_for(lane, lane.threads, [&](int64_t begin, int64_t end, int thread) {
    float* const hidden = batch.scratch.groups + thread * batch.scratch.group_floats;
    int64_t before = 0;
    for (const Piece& piece : wave.pieces) {
      for (int64_t group = 0; group < piece.groups(); ++group, before += cost_of(piece)) {
        const int64_t owner = before * lane.threads / total, first = group * kGroup;
        if (owner < begin || owner >= end) continue;
        const cpu::RowRange columns{first, std::min(kGroup, piece.mlp->gate.out - first)};
        multiply_hidden(batch, piece, columns, thread, hidden, kGroup);
        write_group(batch, piece, group, hidden, kGroup);
      }
    }
  });
}

// Shares all pieces by 16 columns; then the caller codes their groups.
void share_columns(const Batch& batch, const Wave& wave, const Lane& lane) {
  int64_t total = 0;
  for (const Piece& piece : wave.pieces) total += cpu::panels_of(piece.mlp->gate.out) * cost_of(piece);
  cpu::parallel_for(lane, lane.threads, [&](int64_t begin, int64_t end, int thread) {
    float* hidden = batch.scratch.groups;
    int64_t before = 0;
    for (const Piece& piece : wave.pieces) {
      const int64_t out = piece.mlp->gate.out, panels = cpu::panels_of(out), stride = piece.groups() * kGroup;
      // The first column that belongs to a thread: the first panel that as much work precedes.
      const auto column_of = [&](int64_t owner) {
        const int64_t least = (owner * total + lane.threads - 1) / lane.threads - before;
        const int64_t panel = (std::max<int64_t>(least, 0) + cost_of(piece) - 1) / cost_of(piece);
        return std::min(out, panel * cpu::kPanelLanes);
      };
      const int64_t first = column_of(begin), last = column_of(end);
      if (first < last) multiply_hidden(batch, piece, {first, last - first}, thread, hidden + first, stride);
      hidden += piece.rows * stride;
      before += panels * cost_of(piece);
    }
  });
  const float* hidden = batch.scratch.groups;
  for (const Piece& piece : wave.pieces) {
    const int64_t stride = piece.groups() * kGroup;
    for (int64_t group = 0; group < piece.groups(); ++group)
      write_group(batch, piece, group, hidden + group * kGroup, stride);
    hidden += piece.rows * stride;
  }
}

void make_all_hidden(const Batch& batch, const Wave& wave) {
  const Lane lane = lane_for(batch, wave);
  int64_t groups = 0;
  for (const Piece& piece : wave.pieces) groups += piece.groups() * piece.rows;
  const bool few = lane.threads > 1 && groups < kFewGroups * lane.threads;
  (few ? share_columns : share_groups)(batch, wave, lane);
}

// sums += weight * down(hidden), for output columns [first, first + count).
void add_output(const Batch& batch, const Piece& piece, int64_t first, int64_t count,
                const cpu::SumTile& tile) {
  const int64_t lanes = cpu::tile_lanes(piece.rows), end = first + count;
  for (; first < end; first += lanes) {
    const cpu::RowRange range{first, std::min(lanes, end - first)};
    multiply(batch, piece, piece.hidden_rows(), piece.mlp->down, range, tile);
    for (int64_t r = 0; r < piece.rows; ++r) {
      float* const y = tile.sums + r * lanes;
      const int64_t entry = piece.first + r, token = batch.scratch.tokens[entry];
      batch.round(y, range.count);
      const float weight = batch.problem.weight_before_down ? 1.0f : batch.scratch.weights[entry];
      batch.kernels.add_scaled(y, weight, range.count,
                               batch.scratch.sums + token * batch.problem.hidden + first);
    }
  }
}

void add_all_outputs(const Batch& batch, const Wave& wave) {
  const int64_t hidden = batch.problem.hidden, panels = (hidden + cpu::kPanelLanes - 1) / cpu::kPanelLanes;
  cpu::parallel_for(lane_for(batch, wave), panels, [&](int64_t begin, int64_t end, int thread) {
    const int64_t first = begin * cpu::kPanelLanes, count = std::min(hidden, end * cpu::kPanelLanes) - first;
    const auto sums = [&](int64_t t) { return batch.scratch.sums + t * hidden + first; };
    if (wave.first)
      for (int64_t t = 0; t < batch.tokens(); ++t) std::fill_n(sums(t), count, 0.0f);
    for (const Piece& piece : wave.pieces) add_output(batch, piece, first, count, batch.scratch.gate[thread]);
    if (wave.last)
      for (int64_t t = 0; t < batch.tokens(); ++t)
        cpu::write_floats(batch.kernels, sums(t), first, count, batch.args.out[t]);
  });
}

// As many pieces from `begin` on as a wave holds.
size_t wave_end(std::span<const Piece> pieces, size_t begin) {
  size_t end = begin;
  for (int64_t rows = 0; end < pieces.size() && rows + pieces[end].rows <= kWaveRows; ++end)
    rows += pieces[end].rows;
  return end;
}

void run_batch(Batch batch) {
  const cpu::SourceRows source{batch.args.x, batch.tokens()};
  const Scratch& scratch = batch.scratch;
  for (const Operand operand : kOperands) {
    const auto at = static_cast<size_t>(operand);
    if (!any_part(batch.problem, operand)) continue;
    batch.operands[at] = operand == Operand::kCopies
                             ? cpu::copy_rows(source, scratch.operands[at])
                             : cpu::code_rows(batch.kernels, batch.lane, source, batch.scale_rounding(),
                                              scratch.operands[at], order_of(operand));
  }
  make_entries(batch.args, scratch);
  const std::span<Piece> pieces = make_pieces(batch);
  if (pieces.empty()) add_all_outputs(batch, {pieces, true, true});
  for (size_t begin = 0, end = 0; begin < pieces.size(); begin = end) {
    end = wave_end(pieces, begin);
    const Wave wave{pieces.subspan(begin, end - begin), begin == 0, end == pieces.size()};
    place(batch, wave);
    gather(batch, wave);
    make_all_hidden(batch, wave);
    add_all_outputs(batch, wave);
  }
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cpu::Cutter cutter(lane.workspace.data());
  const Scratch scratch = cut_scratch(problem, lane.threads, cutter);
  const int64_t tokens = args.x.extent[0];
  for (int64_t t = 0; t < tokens; t += kMostTokens) {
    const int64_t count = std::min(kMostTokens, tokens - t);
    const Args part = of_tokens(problem, args, t, count);
    run_batch({problem, part, cpu::kernels(problem.setting.target.isa), lane, scratch, {}});
  }
}

}  // namespace

const Implementation kCpuFp8{"cpu_fp8", supports, workspace_bytes, run};

}  // namespace fulgurite::experts
