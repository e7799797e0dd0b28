// The activations of a batch are coded once. The tokens of each expert are a piece of work; pieces are done
// in waves, ascending (experts_cpu_wave.h). So a layer of a few tokens waits for its threads twice, and each
// weight is packed once for all tokens of its piece. What limits: few tokens an expert, reading the weights;
// many, the products.

#include <algorithm>
#include <numeric>
#include <utility>

#include "fulgurite/cpu/fp8_matmul.h"
#include "fulgurite/ops/experts/experts_cpu_wave.h"

namespace fulgurite::experts {
namespace {

constexpr int64_t kMostTokens =
    1024;  // of a batch: enough that packing the weights once more does not matter

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
