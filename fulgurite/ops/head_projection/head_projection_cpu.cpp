// fp32 operands. Both directions split a head's matrix so that every element of y belongs to one part:
// to_rows into eight rows, as linear does, from_rows into columns of all rows. A part is decoded to fp32 once
// and met by all tokens; parts of all heads are shared among the threads.

#include <algorithm>

#include "fulgurite/cpu/matmul.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/ops/head_projection/head_projection.h"

namespace fulgurite::head_projection {
namespace {

// 128 rows of W_UK by 64 columns are 32 KiB.
constexpr int64_t kColumns = 64;

Support supports(const Problem& problem) {
  return first_refusal(
      {takes(problem.setting.numerics.activation, {Activation::kFp32}), kReference.supports(problem)});
}

// The columns of a part of from_rows: never of two scale blocks.
int64_t part_columns(const Problem& problem) {
  const int64_t block = problem.weight.block.columns;
  const bool whole_block = problem.weight.form == MatrixForm::kE4M3Blocks && block % kColumns != 0;
  return std::min(problem.latent, whole_block ? block : kColumns);
}

int64_t scratch_floats(const Problem& problem) {
  if (problem.direction == Direction::kToRows) return cpu::matmul_scratch(problem.latent);
  return problem.rows * part_columns(problem);
}

int64_t workspace_bytes(const Problem& problem, int threads) {
  return threads * scratch_floats(problem) * static_cast<int64_t>(sizeof(float));
}

struct Range {
  int64_t first, count;
};

// One part of one head, its scratch memory and how it is read.
struct Part {
  const cpu::Kernels& kernels;
  int64_t head;
  Range range;  // rows of y (to_rows) or columns of y (from_rows)
  float* scratch;
};

// The part's columns of `rows` as fp32: viewed where they are fp32, else decoded. One block column at most.
cpu::Rows decode_columns(const Part& part, const PreparedMatrix& weight, Range rows) {
  const int64_t column = part.range.first, width = part.range.count;
  if (const auto* f32 = std::get_if<View<const float, 2>>(&weight.as))
    return {f32->data + rows.first * f32->stride[0] + column, f32->stride[0], rows.count};
  for (int64_t r = 0; r < rows.count; ++r) {
    const int64_t row = rows.first + r;
    float* const out = part.scratch + r * width;
    if (const auto* half = std::get_if<View<const bf16, 2>>(&weight.as)) {
      part.kernels.decode_bf16(reinterpret_cast<const uint16_t*>(&(*half)(row, column)), width, out);
    } else if (const auto* blocks = std::get_if<BlockScaled>(&weight.as)) {
      part.kernels.decode_e4m3(reinterpret_cast<const uint8_t*>(&blocks->data(row, column)), width,
                               blocks->scale_at(row, column), out);
    } else {
      decode(weight, row, column, width, out);
    }
  }
  return {part.scratch, width, rows.count};
}

void project(const Problem& problem, const Args& args, const Part& part) {
  const View<const float, 3> x = args.x.as<float>();
  const View<float, 3> y = args.y.as<float>();
  const float* const from = x.data + part.head * x.stride[1];
  float* const to = y.data + part.head * y.stride[1] + part.range.first;
  const int64_t first = part.head * problem.rows_per_head + problem.first_row;
  if (problem.direction == Direction::kToRows) {
    const cpu::Rows rows = cpu::weight_rows(part.kernels, *args.weight, first + part.range.first,
                                            part.range.count, part.scratch);
    part.kernels.dot_rows({from, x.stride[0], x.extent[0]}, rows, problem.latent, to, y.stride[0]);
  } else {
    const cpu::Rows rows = decode_columns(part, *args.weight, {first, problem.rows});
    part.kernels.combine_rows(from, x.stride[0], 1, x.extent[0], rows, part.range.count, to, y.stride[0]);
  }
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  if (args.x.extent[0] == 0) return;
  const int64_t width = args.y.extent[2];
  const int64_t step = problem.direction == Direction::kToRows ? cpu::kWeightTile : part_columns(problem);
  const int64_t parts = (width + step - 1) / step;
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  auto* const scratch = reinterpret_cast<float*>(lane.workspace.data());
  cpu::parallel_for(lane, problem.heads * parts, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t offset = i % parts * step;
      project(problem, args,
              {kernels,
               i / parts,
               {offset, std::min(step, width - offset)},
               scratch + thread * scratch_floats(problem)});
    }
  });
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::head_projection
