// fp32 operands. Both directions split a head's matrix so that every element of y belongs to one part:
// to_rows into eight rows, as linear does, from_rows into columns of all rows. A part is decoded to fp32 once
// and met by all tokens, which are widened as they meet it where they are not fp32; parts of all heads are shared among the threads.

#include <algorithm>

#include "fulgurite/cpu/matmul.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/head_projection/head_projection.h"

namespace fulgurite::head_projection {
namespace {

// 128 rows of W_UK by 64 columns are 32 KiB.
constexpr int64_t kColumns = 64;
constexpr int64_t kTokens = 16;  // whose rows are widened at once

Support supports(const Problem& problem) {
  return first_refusal({takes(problem.setting.numerics.activation, {Activation::kFp32, Activation::kFp16}),
                        takes(problem.setting.numerics.mma, {Mma::kExact}), kReference.supports(problem)});
}

// The columns of a part of from_rows: never of two scale blocks.
int64_t part_columns(const Problem& problem) {
  const int64_t block = problem.weight.block.columns;
  const bool whole_block = problem.weight.form == MatrixForm::kE4M3Blocks && block % kColumns != 0;
  return std::min(problem.latent, whole_block ? block : kColumns);
}

// Outputs of a part.
int64_t part_outputs(const Problem& problem) {
  return problem.direction == Direction::kToRows ? cpu::kWeightTile : part_columns(problem);
}

bool widens(const Problem& problem) { return problem.setting.numerics.activation != Activation::kFp32; }
int64_t input_width(const Problem& problem) {
  return problem.direction == Direction::kToRows ? problem.latent : problem.rows;
}

// One thread's.
struct Scratch {
  float* weights;  // of a part
  float* x;        // [kTokens, input_width], widened
  float* y;        // [kTokens, part_outputs], not yet rounded
};

Scratch cut_scratch(const Problem& problem, cpu::Cutter& cutter) {
  const bool to_rows = problem.direction == Direction::kToRows;
  const int64_t tokens = widens(problem) ? kTokens : 0;
  return {cutter.take<float>(to_rows ? cpu::matmul_scratch(problem.latent)
                                     : problem.rows * part_columns(problem)),
          cutter.take<float>(tokens * input_width(problem)),
          cutter.take<float>(tokens * part_outputs(problem))};
}

int64_t bytes_per_thread(const Problem& problem) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, cutter);
  return cutter.bytes();
}

int64_t workspace_bytes(const Problem& problem, int threads) { return threads * bytes_per_thread(problem); }

struct Range {
  int64_t first, count;
};

// One part of one head, its scratch memory and how it is read.
struct Part {
  const cpu::Kernels& kernels;
  WeightReading reading;
  int64_t head;
  Range range;  // rows of y (to_rows) or columns of y (from_rows)
  Scratch scratch;
};

// The part's columns of `rows` as fp32: viewed where they are fp32, else decoded. One block column at most.
cpu::Rows decode_columns(const Part& part, const PreparedMatrix& weight, Range rows) {
  const int64_t column = part.range.first, width = part.range.count;
  const auto* const f32 = std::get_if<View<const float, 2>>(&weight.as);
  if (f32 != nullptr && part.reading == WeightReading::kExact)
    return {f32->data + rows.first * f32->stride[0] + column, f32->stride[0], rows.count};
  for (int64_t r = 0; r < rows.count; ++r)
    cpu::read_weight(part.kernels, weight, part.reading, rows.first + r, column, width,
                     part.scratch.weights + r * width);
  return {part.scratch.weights, width, rows.count};
}

cpu::Rows weights_of(const Problem& problem, const Args& args, const Part& part) {
  const int64_t first = part.head * problem.rows_per_head + problem.first_row;
  if (problem.direction == Direction::kFromRows)
    return decode_columns(part, *args.weight, {first, problem.rows});
  return cpu::weight_rows(part.kernels, *args.weight, first + part.range.first, part.range.count,
                          part.scratch.weights, part.reading);
}

// y row t [range.count] = row t of x with the part.
void multiply(const Problem& problem, const Part& part, const cpu::Rows& x, const cpu::Rows& weights,
              float* y, int64_t y_stride) {
  if (problem.direction == Direction::kToRows)
    part.kernels.dot_rows(x, weights, problem.latent, y, y_stride);
  else
    part.kernels.combine_rows(x.base, x.stride, 1, x.count, weights, part.range.count, y, y_stride);
}

void project_in_place(const Problem& problem, const Args& args, const Part& part, const cpu::Rows& weights) {
  const View<const float, 3> x = args.x.as<float>();
  const View<float, 3> y = args.y.as<float>();
  multiply(problem, part, {x.data + part.head * x.stride[1], x.stride[0], x.extent[0]}, weights,
           y.data + part.head * y.stride[1] + part.range.first, y.stride[0]);
}

void project(const Problem& problem, const Args& args, const Part& part) {
  const cpu::Rows weights = weights_of(problem, args, part);
  if (!widens(problem)) return project_in_place(problem, args, part, weights);
  const int64_t width = input_width(problem), tokens = args.x.extent[0];
  for (int64_t first = 0; first < tokens; first += kTokens) {
    const int64_t count = std::min(kTokens, tokens - first);
    for (int64_t t = 0; t < count; ++t)
      cpu::as_floats(part.kernels, args.x[first + t][part.head], 0, width, part.scratch.x + t * width);
    multiply(problem, part, {part.scratch.x, width, count}, weights, part.scratch.y, part.range.count);
    for (int64_t t = 0; t < count; ++t)
      cpu::write_floats(part.kernels, part.scratch.y + t * part.range.count, part.range.first,
                        part.range.count, args.y[first + t][part.head]);
  }
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  if (args.x.extent[0] == 0) return;
  const int64_t width = args.y.extent[2];
  const int64_t step = part_outputs(problem);
  const int64_t parts = (width + step - 1) / step;
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  cpu::parallel_for(lane, problem.heads * parts, [&](int64_t begin, int64_t end, int thread) {
    cpu::Cutter cutter(lane.workspace.data() + thread * bytes_per_thread(problem));
    const Scratch scratch = cut_scratch(problem, cutter);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t offset = i % parts * step;
      project(problem, args,
              {kernels, reading_of(problem), i / parts, {offset, std::min(step, width - offset)}, scratch});
    }
  });
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::head_projection
