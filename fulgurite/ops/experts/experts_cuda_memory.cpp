#include "fulgurite/ops/experts/experts_cuda_memory.h"

#include <algorithm>

#include "fulgurite/core/quantize.h"

namespace fulgurite::experts {
namespace {

Weights weights_of(const MatrixFormat& format) {
  if (format.form == MatrixForm::kE4M3Blocks) return Weights::kFp8;
  return format.form == MatrixForm::kMxfp4 ? Weights::kFp4 : Weights::kBf16;
}

Operand operand_of(cuda::Scratch& scratch, int64_t rows, int64_t columns, Weights weights) {
  Operand operand;
  operand.columns = static_cast<int>((columns + kColumnsPadding - 1) / kColumnsPadding * kColumnsPadding);
  operand.groups = static_cast<int>((columns + kActivationGroup - 1) / kActivationGroup);
  operand.words = scratch.take<uint32_t>(rows * operand.columns);
  if (weights != Weights::kBf16) operand.scales = scratch.take<float>(rows * operand.groups);
  return operand;
}

PartMemory part_of(const Problem& problem, Part part, int64_t tokens, cuda::Scratch& scratch) {
  PartMemory m{};
  const bool routed = part == Part::kRouted, shared = !routed || is_one_part(problem);
  const linear::Problem into = gate_problem(problem, part);
  PartRows& rows = m.rows;
  rows.tokens = static_cast<int>(tokens);
  rows.slots = routed ? static_cast<int>(problem.experts_per_token) : 0;
  rows.experts = static_cast<int>((routed ? problem.experts : 0) + (shared ? 1 : 0));
  rows.routed = rows.tokens * rows.slots;
  rows.rows = rows.routed + (shared ? rows.tokens : 0);
  rows.most_entries = std::min(rows.routed, rows.experts + rows.routed / kEntryRows) +
                      (shared ? (rows.tokens + kEntryRows - 1) / kEntryRows : 0);
  rows.entries = scratch.take<Entry>(rows.most_entries);
  m.weights = weights_of(into.weight);
  m.width = into.out;
  m.x = operand_of(scratch, tokens, problem.hidden, m.weights);
  m.hidden_operand = operand_of(scratch, rows.rows, m.width, m.weights);
  m.hidden = scratch.take<uint16_t>(rows.rows * m.width);
  m.y = scratch.take<uint16_t>(rows.rows * problem.hidden);
  return m;
}

}  // namespace

bool is_one_part(const Problem& problem) {
  return problem.experts > 0 && problem.shared_width == problem.width &&
         problem.shared_weight == problem.weight;
}

Memory memory_of(const Problem& problem, int64_t tokens, cuda::Scratch& scratch) {
  Memory memory{};
  if (problem.experts > 0) memory.routed = part_of(problem, Part::kRouted, tokens, scratch);
  if (problem.shared_width > 0 && !is_one_part(problem))
    memory.shared = part_of(problem, Part::kShared, tokens, scratch);
  return memory;
}

}  // namespace fulgurite::experts
