// A token's row is made in fp32 scratch, the latent by the CPU's norm, and then written in the form of the
// cache.

#include <cstring>

#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/latent_prepare/latent_prepare.h"
#include "fulgurite/ops/norm/norm.h"

namespace fulgurite::latent_prepare {
namespace {

Support supports(const Problem& problem) { return kReference.supports(problem); }

// In place in the scratch; it is rounded to the activation's type afterwards.
norm::Problem norm_of(const Problem& problem) {
  norm::Problem norm{problem.setting, problem.latent, problem.eps};
  norm.setting.numerics.activation = Activation::kFp32;
  return norm;
}

// One thread's.
struct Scratch {
  float* values;      // [latent + rope]
  uint16_t* rounded;  // as many
};
Scratch cut(const Problem& problem, int64_t thread, int64_t threads, cpu::Cutter& cutter) {
  const int64_t width = problem.latent + problem.rope;
  Scratch scratch;
  scratch.values = cutter.take<float>(threads * width) + thread * width;
  scratch.rounded = cutter.take<uint16_t>(threads * width) + thread * width;
  return scratch;
}
int64_t workspace_bytes(const Problem& problem, int threads) {
  cpu::Cutter cutter(nullptr);
  cut(problem, 0, threads, cutter);
  return cutter.bytes();
}

void norm_and_rotate(const Problem& problem, const Args& args, int64_t t, float* values) {
  const View<float, 2> latent(values, {1, problem.latent});
  norm::Args norm_args;
  norm_args.x = latent;
  norm_args.weight = args.weight;
  norm_args.out = latent;
  norm::kCpu.run(norm_of(problem), norm_args, {});
  const int64_t p = args.places(t).position;
  rotary::rotate(rotary::Layout::kInterleaved, args.table.cosine[p].data, args.table.sine[p].data,
                 problem.rope, values + problem.latent);
}

void write_quantized(const cpu::Kernels& kernels, const LatentRow& form, const Scratch& from,
                     std::byte* row) {
  for (int64_t group = 0; group < form.groups(); ++group) {
    const int64_t first = group * LatentRow::kGroup, count = std::min(LatentRow::kGroup, form.latent - first);
    const float scale = kernels.quantize_e4m3(from.values + first, count, ScaleRounding::kPow2,
                                              reinterpret_cast<uint8_t*>(row + first));
    std::memcpy(row + form.scales_offset() + group * 4, &scale, sizeof scale);
  }
  std::memcpy(row + form.rope_offset(), from.rounded + form.latent, static_cast<size_t>(form.rope) * 2);
}

void prepare_row(const cpu::Kernels& kernels, const Problem& problem, const Args& args, int64_t t,
                 const Scratch& scratch) {
  const int64_t width = problem.latent + problem.rope;
  const ConstTensor<1> kv = args.kv[t];
  const float* const from = cpu::as_floats(kernels, kv, 0, width, scratch.values);
  if (from != scratch.values) std::copy_n(from, width, scratch.values);
  norm_and_rotate(problem, args, t, scratch.values);
  cpu::round_floats(kernels, kv.dtype, scratch.values, width);
  kernels.narrow_bf16(scratch.values, width, scratch.rounded);

  const LatentRow form = args.cache.row;
  std::byte* const row = args.cache.at(args.places(t));
  if (form.form == LatentCache::kFp8)
    write_quantized(kernels, form, scratch, row);
  else if (form.form == LatentCache::kBf16)
    std::memcpy(row, scratch.rounded, static_cast<size_t>(width) * 2);
  else
    std::memcpy(row, scratch.values, static_cast<size_t>(width) * 4);
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const int64_t tokens = args.kv.extent[0];
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  cpu::parallel_for(cpu::worth_splitting(lane, 8 * tokens * (problem.latent + problem.rope)), tokens,
                    [&](int64_t begin, int64_t end, int thread) {
                      cpu::Cutter cutter(lane.workspace.data());
                      const Scratch scratch = cut(problem, thread, lane.threads, cutter);
                      for (int64_t t = begin; t < end; ++t) prepare_row(kernels, problem, args, t, scratch);
                    });
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::latent_prepare
