// bf16 operands. Heads, and parts of a head's outputs, are shared among the threads. to_rows is a linear a
// head: lanes are rows of W. from_rows has W's columns as lanes, so two rows of W, interleaved, are a row of
// pairs of all panels. A part is packed once a chunk of tokens and met by all of them.

#include <algorithm>
#include <cstring>

#include "fulgurite/cpu/bf16_matmul.h"
#include "fulgurite/cpu/prefetch.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/ops/head_projection/head_projection.h"

namespace fulgurite::head_projection {
namespace {

constexpr int64_t kPanelPairs = 8192;  // packed at once: 32 KiB
constexpr int64_t kMostColumns = 512;  // lanes of a part of from_rows

Support supports(const Problem& problem) {
  Support weight;
  if (is_fp4(problem.weight) || problem.direction == Direction::kToRows)
    weight = cpu::takes_bf16_weight(problem.weight);
  return first_refusal({takes(problem.setting.numerics.activation, {Activation::kBf16}),
                        takes(problem.setting.numerics.mma, {Mma::kExact}), kReference.supports(problem),
                        weight});
}

// Few tokens take W's rows whole, as they lie; many, narrow parts, so that their sums stay in the second
// cache.
int64_t part_of(const Problem& problem, int64_t tokens) {
  if (problem.direction == Direction::kToRows) return cpu::tile_lanes(tokens);
  return tokens <= cpu::kFewTokens ? kMostColumns : kMostColumns / 4;
}

int64_t chunk_of(const Problem& problem) {
  return std::clamp<int64_t>(problem.largest_batch, 1, cpu::kLargestChunk);
}
int64_t input_width(const Problem& problem) {
  return problem.direction == Direction::kFromRows ? problem.rows : problem.latent;
}

// One thread's.
struct Scratch {
  cpu::OperandMemory x;
  uint32_t* panels;
  float* sums;      // [chunk, part_of]
  float* quarters;  // of those, to_rows
};

Scratch cut_scratch(const Problem& problem, cpu::Cutter& cutter) {
  const int64_t chunk = chunk_of(problem);
  const int64_t sums =
      std::max(chunk * part_of(problem, chunk), cpu::kFewTokens * part_of(problem, cpu::kFewTokens));
  return {cpu::cut_operand_memory(cutter, chunk, input_width(problem)), cutter.take<uint32_t>(kPanelPairs),
          cutter.take<float>(sums),
          cutter.take<float>(problem.direction == Direction::kToRows ? 4 * sums : 0)};
}

int64_t workspace_bytes(const Problem& problem, int threads) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, cutter);
  return threads * cutter.bytes();
}

// One head's rows of all tokens.
template <class Byte>
AnyView<Byte, 2> head_of(const AnyView<Byte, 3>& tensor, int64_t head) {
  AnyView<Byte, 2> rows;
  rows.data = tensor.data + head * tensor.stride[1] * tensor.element_bytes();
  rows.dtype = tensor.dtype;
  rows.extent = {tensor.extent[0], tensor.extent[2]};
  rows.stride = {tensor.stride[0], tensor.stride[2]};
  return rows;
}

// Columns of one row as bf16.
void read_row(const cpu::Kernels& kernels, const PreparedMatrix& weight, int64_t row, cpu::RowRange columns,
              uint16_t* out) {
  const int64_t first = columns.first, count = columns.count;
  if (const auto* half = std::get_if<View<const bf16, 2>>(&weight.as)) {
    std::memcpy(out, &(*half)(row, first), static_cast<size_t>(count) * sizeof(uint16_t));
  } else if (const auto* f32 = std::get_if<View<const float, 2>>(&weight.as)) {
    kernels.narrow_bf16(&(*f32)(row, first), count, out);
  } else {
    const BlockScaled& blocks = std::get<BlockScaled>(weight.as);
    const int64_t block = blocks.block.columns;
    for (int64_t i = 0, width = 0; i < count; i += width) {
      width = std::min(count - i, block - (first + i) % block);
      kernels.widen_e4m3(reinterpret_cast<const uint8_t*>(&blocks.data(row, first + i)), width,
                         blocks.scale_at(row, first + i), out + i);
    }
  }
}

// Rows [rows.first, + rows.count) of the columns, as pairs: [pairs][lanes].
void pack_rows(const cpu::Kernels& kernels, const PreparedMatrix& weight, cpu::RowRange rows,
               cpu::RowRange columns, int64_t lanes, uint32_t* panels) {
  uint16_t first[kMostColumns] = {}, second[kMostColumns] = {};
  for (int64_t r = 0; r < rows.count; r += 2, panels += lanes) {
    read_row(kernels, weight, rows.first + r, columns, first);
    if (r + 1 < rows.count)
      read_row(kernels, weight, rows.first + r + 1, columns, second);
    else
      std::fill_n(second, columns.count, uint16_t{0});
    kernels.interleave(first, second, lanes, panels);
  }
}

// sums [tokens][lanes] of all of a head's rows, for some of the columns. `next_row`: from a head to the next.
void sum_rows(const cpu::Kernels& kernels, const cpu::OperandRows& x, const PreparedMatrix& weight,
              int64_t first_row, int64_t next_row, cpu::RowRange columns, int64_t lanes,
              const Scratch& scratch) {
  // So many rows at a time as fill the panels; 16 pairs are not divided, as products may have an order inside
  // them.
  const int64_t most_rows = kPanelPairs / lanes / 16 * 32;
  const cpu::RowBytes bytes = cpu::bytes_of(weight);
  const int64_t element = bytes.width / weight.in;
  int64_t count = 0;
  for (int64_t r = 0; r < x.columns; r += count) {
    count = std::min({most_rows, kActivationGroup - r % kActivationGroup, x.columns - r});
    const int64_t ahead = r + count < x.columns ? count : next_row - r;  // of this head, or of the next
    cpu::prefetch_rows(bytes, first_row + r + ahead, count, columns.first * element,
                       (columns.first + columns.count) * element);
    pack_rows(kernels, weight, {first_row + r, count}, columns, lanes, scratch.panels);
    kernels.products(x.pairs(r), (count + 1) / 2,
                     {scratch.panels, cpu::kPanelLanes, lanes, lanes / cpu::kPanelLanes},
                     {scratch.sums, lanes, r == 0 ? cpu::Ending::kStore : cpu::Ending::kAccumulate});
  }
}

// May products_columns sum these rows: do blocks divide them between panels, and groups of 16 pairs?
bool meets_codes(const cpu::OperandRows& x, const PreparedMatrix& weight, int64_t first_row) {
  const auto* const blocks = std::get_if<BlockScaled>(&weight.as);
  return blocks != nullptr && x.rows <= cpu::kFewTokens && first_row % 32 == 0 &&
         blocks->block.rows % 32 == 0 && blocks->block.columns % cpu::kPanelLanes == 0;
}

// sum_rows without panels in memory: block by block.
void sum_codes(const cpu::Kernels& kernels, const cpu::OperandRows& x, const BlockScaled& blocks,
               int64_t first_row, int64_t next_row, cpu::RowRange columns, int64_t lanes, float* sums) {
  const int64_t stride = blocks.data.stride[0], end = columns.first + columns.count;
  for (int64_t r = 0, rows = 0; r < x.columns; r += rows) {
    const int64_t row = first_row + r;
    rows = std::min({kActivationGroup - r % kActivationGroup, x.columns - r,
                     blocks.block.rows - row % blocks.block.rows});
    const int64_t next = r + rows < x.columns ? rows : next_row - r;
    for (int64_t column = columns.first, width = 0; column < end; column += width) {
      width = std::min(end - column, blocks.block.columns - column % blocks.block.columns);
      int64_t ahead = width;
      if (column + width >= blocks.data.extent[1])
        ahead = row + next < blocks.data.extent[0] ? next * stride - column : 0;
      kernels.products_columns(
          x.pairs(r), {cpu::codes_at(blocks, row, column), stride, ahead}, width, rows,
          blocks.scale_at(row, column),
          {sums + column - columns.first, lanes, r == 0 ? cpu::Ending::kStore : cpu::Ending::kAccumulate});
    }
  }
}

// One part of one head's outputs.
void project(const Problem& problem, const Args& args, const cpu::OperandRows& x, int64_t head,
             cpu::RowRange part, const Scratch& scratch) {
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  const int64_t first_row = head * problem.rows_per_head + problem.first_row;
  int64_t stride = cpu::tile_lanes(x.rows);
  if (problem.direction == Direction::kToRows) {
    const bool last = part.first + part.count == problem.rows;
    const int64_t next = last ? problem.rows_per_head - part.first : part.count;
    cpu::bf16_sums(kernels, x, *args.weight, {first_row + part.first, part.count, next},
                   {scratch.panels, scratch.sums, scratch.quarters});
  } else {
    stride = (part.count + cpu::kPanelLanes - 1) / cpu::kPanelLanes * cpu::kPanelLanes;
    if (meets_codes(x, *args.weight, first_row))
      sum_codes(kernels, x, std::get<BlockScaled>(args.weight->as), first_row, problem.rows_per_head, part,
                stride, scratch.sums);
    else
      sum_rows(kernels, x, *args.weight, first_row, problem.rows_per_head, part, stride, scratch);
  }
  const Tensor<2> y = head_of(args.y, head);
  for (int64_t t = 0; t < x.rows; ++t)
    cpu::write_floats(kernels, scratch.sums + t * stride, part.first, part.count, y[t]);
}

// The tokens of one chunk.
void project_all(const Problem& problem, const Args& args, const Lane& lane) {
  const int64_t tokens = args.x.extent[0], width = args.y.extent[2], step = part_of(problem, tokens);
  const int64_t parts = (width + step - 1) / step;
  const Lane split = cpu::lane_worth(lane, tokens, problem.heads * problem.rows, problem.latent);
  const int64_t scratch_bytes = workspace_bytes(problem, 1);
  cpu::parallel_for(split, problem.heads * parts, [&](int64_t begin, int64_t end, int thread) {
    cpu::Cutter cutter(lane.workspace.data() + thread * scratch_bytes);
    const Scratch scratch = cut_scratch(problem, cutter);
    cpu::OperandRows x;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t head = i / parts, first = i % parts * step;
      if (i == begin || first == 0) x = cpu::copy_rows({head_of(args.x, head), tokens}, scratch.x);
      project(problem, args, x, head, {first, std::min(step, width - first)}, scratch);
    }
  });
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const int64_t tokens = args.x.extent[0], chunk = chunk_of(problem);
  for (int64_t t = 0; t < tokens; t += chunk) {
    const int64_t count = std::min(chunk, tokens - t);
    project_all(problem, {args.x.slice(0, t, count), args.weight, args.y.slice(0, t, count)}, lane);
  }
}

}  // namespace

const Implementation kCpuBf16{"cpu_bf16", supports, workspace_bytes, run};

}  // namespace fulgurite::head_projection
