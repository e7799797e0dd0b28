// The residual sum of a row is held in fp32, in `out` itself where that is fp32; tiles of the inputs are
// widened on the stack. Its squares are summed in double, so that the mean is at most a step from the
// reference's.

#include "fulgurite/core/rounding.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/norm/norm.h"

namespace fulgurite::norm {
namespace {

using cpu::kRowTile;

Support supports(const Problem& problem) { return kReference.supports(problem); }

bool in_place(const Problem& problem) { return problem.setting.numerics.activation == Activation::kFp32; }

int64_t workspace_bytes(const Problem& problem, int threads) {
  cpu::Cutter cut(nullptr);
  if (!in_place(problem)) cut.take<float>(threads * problem.width);
  return cut.bytes();
}

// One row; no data where the operation has no such tensor.
struct Row {
  ConstTensor<1> x, added;
  Tensor<1> sum, out;
};

Row row_of(const Args& args, int64_t t) {
  Row row;
  row.x = args.replaced ? ConstTensor<1>(args.replaced[t]) : args.x[t];
  if (args.added && !args.replaced) row.added = args.added[t];
  if (args.sum) row.sum = args.sum[t];
  row.out = args.out[t];
  return row;
}

// s = x + added, its sum stored; what the norm reads of it stays in s. Returns the sum of its squares, tile
// by tile.
double residual(const cpu::Kernels& kernels, const Problem& problem, const Row& row, float* s) {
  const bool rounds = problem.setting.numerics.norm_input == NormInput::kRounded;
  double squares = 0.0;
  cpu::for_each_tile(problem.width, [&](int64_t first, int64_t count) {
    float left[kRowTile], right[kRowTile];
    const float* const x = cpu::as_floats(kernels, row.x, first, count, row.added ? left : s + first);
    if (row.added)
      kernels.add(x, cpu::as_floats(kernels, row.added, first, count, right), count, s + first);
    else if (x != s + first)
      std::copy_n(x, count, s + first);
    if (row.sum) cpu::write_floats(kernels, s + first, first, count, row.sum);
    if (rounds) cpu::round_floats(kernels, row.out.dtype, s + first, count);
    squares += kernels.sum_squares(s + first, count);
  });
  return squares;
}

void write_scaled(const cpu::Kernels& kernels, const Args& args, const float* s, float r,
                  const Tensor<1>& out) {
  cpu::for_each_tile(out.extent[0], [&](int64_t first, int64_t count) {
    float tile[kRowTile];
    float* const scaled = out.dtype == DType::kF32 ? out.as<float>().data + first : tile;
    kernels.scale(s + first, r, args.weight.data + first, count, scaled);
    cpu::write_floats(kernels, scaled, first, count, out);
  });
}

void norm_row(const cpu::Kernels& kernels, const Problem& problem, const Args& args, int64_t t, float* s) {
  const Row row = row_of(args, t);
  const double squares = residual(kernels, problem, row, s);
  const float mean = static_cast<float>(squares / static_cast<double>(problem.width));
  const float r = reciprocal_sqrt(mean + problem.eps, problem.setting.numerics);
  write_scaled(kernels, args, s, r, row.out);
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const int64_t tokens = args.out.extent[0], width = problem.width;
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  float* const scratch = reinterpret_cast<float*>(lane.workspace.data());
  cpu::parallel_for(cpu::worth_splitting(lane, 2 * tokens * width), tokens,
                    [&](int64_t begin, int64_t end, int thread) {
                      for (int64_t t = begin; t < end; ++t)
                        norm_row(kernels, problem, args, t,
                                 in_place(problem) ? args.out[t].as<float>().data : scratch + thread * width);
                    });
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::norm
