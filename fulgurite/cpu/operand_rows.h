#pragma once
// Rows of activations as Kernels::products reads them: for each group of 128 columns, that group's columns of
// every row, one row after the other; so a group of the weight meets contiguous memory, whatever the rows'
// width, stride and place.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/quantize.h"
#include "fulgurite/cpu/kernels.h"
#include "fulgurite/cpu/workspace.h"

namespace fulgurite::cpu {

// How the columns of a group lie. kFp4, for weights of fp4: of each 32 columns place 8 s + i has column 4 i + s,
// so that one look-up of 16-bit words, shifted by 4 s bits, makes the eight at 8 s from 16 bytes of codes.
enum class ColumnOrder { kNatural, kFp4 };

struct OperandRows {
  const uint16_t* values = nullptr;  // [groups][rows][kActivationGroup] bf16, zeros beyond `columns`
  const float* scales = nullptr;     // [groups][rows] of coded rows
  int64_t rows = 0;
  int64_t columns = 0;
  ColumnOrder order = ColumnOrder::kNatural;

  // The rows from `column` (even) to the end of its group.
  PairRows pairs(int64_t column) const {
    const int64_t group = column / kActivationGroup;
    return {values + group * rows * kActivationGroup + column % kActivationGroup, kActivationGroup, 2, rows};
  }
  const float* scales_at(int64_t column) const { return scales + column / kActivationGroup * rows; }
};

// More rows than these are done chunk by chunk: it bounds the workspace, and so many already pay for
// unpacking the weight once more.
constexpr int64_t kLargestChunk = 256;

// Where at most so many rows go.
struct OperandMemory {
  uint16_t* values = nullptr;
  float* scales = nullptr;
};
OperandMemory cut_operand_memory(Cutter& cutter, int64_t rows, int64_t columns);

// Which rows: row i is x(index ? index[i] : i), i < count. x is of any activation type.
struct SourceRows {
  ConstTensor<2> x;
  int64_t count = 0;
  const int32_t* index = nullptr;
};

// bf16 rows as they are.
OperandRows copy_rows(const SourceRows& source, const OperandMemory& memory);

// The activations of the fp8 linear: codes of each row's groups, as bf16, and their scales.
OperandRows code_rows(const Kernels& kernels, const Lane& lane, const SourceRows& source,
                      ScaleRounding rounding, const OperandMemory& memory,
                      ColumnOrder order = ColumnOrder::kNatural);

// A group in natural order, to the order of fp4 weights.
void order_for_fp4(uint16_t* group);

}  // namespace fulgurite::cpu
