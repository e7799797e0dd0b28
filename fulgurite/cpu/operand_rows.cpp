#include "fulgurite/cpu/operand_rows.h"

#include <algorithm>
#include <cstring>

#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"

namespace fulgurite::cpu {
namespace {

constexpr int64_t kGroup = kActivationGroup;
constexpr int64_t kWorthSplitting = 32768;  // elements to code: some ten microseconds

int64_t groups_of(int64_t columns) { return (columns + kGroup - 1) / kGroup; }

int64_t source_row(const SourceRows& source, int64_t i) {
  return source.index != nullptr ? source.index[i] : i;
}

}  // namespace

OperandMemory cut_operand_memory(Cutter& cutter, int64_t rows, int64_t columns) {
  const int64_t groups = groups_of(columns) * rows;
  return {cutter.take<uint16_t>(groups * kGroup), cutter.take<float>(groups)};
}

OperandRows copy_rows(const SourceRows& source, const OperandMemory& memory) {
  const int64_t columns = source.x.extent[1];
  const View<const bf16, 2> x = source.x.as<bf16>();
  uint16_t* to = memory.values;
  for (int64_t column = 0; column < columns; column += kGroup) {
    const int64_t width = std::min(kGroup, columns - column);
    for (int64_t i = 0; i < source.count; ++i, to += kGroup) {
      std::memcpy(to, &x(source_row(source, i), column), static_cast<size_t>(width) * sizeof(uint16_t));
      std::fill(to + width, to + kGroup, uint16_t{0});
    }
  }
  return {memory.values, nullptr, source.count, columns};
}

OperandRows code_rows(const Kernels& kernels, const Lane& lane, const SourceRows& source,
                      ScaleRounding rounding, const OperandMemory& memory, ColumnOrder order) {
  const int64_t columns = source.x.extent[1], rows = source.count, groups = groups_of(columns);
  const Lane& split = rows * columns >= kWorthSplitting ? lane : Lane{};
  parallel_for(split, rows * groups, [&](int64_t begin, int64_t end, int) {
    float decoded[kGroup];
    uint8_t codes[kGroup];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t column = i / rows * kGroup, width = std::min(kGroup, columns - column);
      const float* const x =
          as_floats(kernels, source.x[source_row(source, i % rows)], column, width, decoded);
      uint16_t* const to = memory.values + i * kGroup;
      memory.scales[i] = kernels.quantize_e4m3(x, width, rounding, codes);
      kernels.widen_e4m3(codes, width, 1.0f, to);
      std::fill(to + width, to + kGroup, uint16_t{0});
      if (order == ColumnOrder::kFp4) order_for_fp4(to);
    }
  });
  return {memory.values, memory.scales, rows, columns, order};
}

void order_for_fp4(uint16_t* group) {
  for (uint16_t* block = group; block < group + kGroup; block += kFp4Group) {
    uint16_t columns[kFp4Group];
    std::copy_n(block, kFp4Group, columns);
    for (int64_t s = 0; s < 4; ++s)
      for (int64_t i = 0; i < 8; ++i) block[8 * s + i] = columns[4 * i + s];
  }
}

}  // namespace fulgurite::cpu
