// Gate and up of all pieces of a wave are shared by groups of 128 hidden columns, each coded where it was made (or,
// where those are few, by 16 columns, and coded by the caller); then down, shared by output columns, each thread
// going through the pieces in order, so that a token's sum grows by ascending expert.

#include "fulgurite/ops/experts/experts_cpu_wave.h"

#include <algorithm>

#include "fulgurite/cpu/fp8_matmul.h"

namespace fulgurite::experts {
namespace {

// The lane, or the caller alone where the products of a round are not worth waking the others.
Lane lane_for(const Batch& batch, const Wave& wave) {
  int64_t columns = 0, rows = 0;
  for (const Piece& piece : wave.pieces) {
    columns += piece.mlp->gate.out;
    rows = std::max(rows, piece.rows);
  }
  return cpu::lane_worth(batch.lane, rows, columns, batch.problem.hidden);
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
    piece.hidden.scales[row] = batch.kernels.quantize_e4m3(values, count, batch.scale_rounding(), codes);
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

}  // namespace

Operand operand_of(const Problem& problem, Part part) {
  const linear::Problem gate = gate_problem(problem, part);
  if (!linear::quantizes(gate)) return Operand::kCopies;
  return is_fp4(gate.weight) ? Operand::kCodesForFp4 : Operand::kCodes;
}

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

void make_all_hidden(const Batch& batch, const Wave& wave) {
  const Lane lane = lane_for(batch, wave);
  int64_t groups = 0;
  for (const Piece& piece : wave.pieces) groups += piece.groups() * piece.rows;
  const bool few = lane.threads > 1 && groups < kFewGroups * lane.threads;
  (few ? share_columns : share_groups)(batch, wave, lane);
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

}  // namespace fulgurite::experts
