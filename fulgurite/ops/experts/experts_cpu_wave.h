#pragma once
// What the narrow row of experts works with, and the rounds of a wave: copies, hidden columns, outputs.

#include <span>

#include "fulgurite/cpu/bf16_matmul.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/ops/experts/experts.h"

namespace fulgurite::experts {

constexpr int64_t kWaveRows = cpu::kLargestChunk;
constexpr int64_t kGroup = kActivationGroup;
// Fewer rows of groups than these for each thread would be shared unevenly, and are few to code.
constexpr int64_t kFewGroups = 4;

// What the products of a part read: codes, codes in the order of fp4 weights, or activations as they are.
enum class Operand { kCodes, kCodesForFp4, kCopies };
constexpr Operand kOperands[] = {Operand::kCodes, Operand::kCodesForFp4, Operand::kCopies};
Operand operand_of(const Problem& problem, Part part);

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
  ScaleRounding scale_rounding() const { return activation_rounding(problem.setting.numerics); }
};

// Pieces that are done together.
struct Wave {
  std::span<Piece> pieces;
  bool first, last;  // of the batch
};

// The rounds, in their order.
void gather(const Batch& batch, const Wave& wave);
void make_all_hidden(const Batch& batch, const Wave& wave);
void add_all_outputs(const Batch& batch, const Wave& wave);

}  // namespace fulgurite::experts
