// fp32 operands. Four heads of a token read the selected rows together, once for the scores and once for the
// output: in place where they are fp32, else some at a time, widened.

#include <algorithm>
#include <cmath>
#include <limits>

#include "fulgurite/cpu/kernels.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/cpu/softmax.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::sparse_attention {
namespace {

constexpr int64_t kGroup = 4;  // heads; as many as the kernels' largest register tile has rows
constexpr int64_t kRows = 64;  // of the cache that are widened at once
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// With one tile softmax_merge changes nothing.
Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  Support merge;
  if (numerics.softmax_tile != SoftmaxTile::kNone)
    merge = takes(numerics.softmax_merge, {SoftmaxMerge::kRunning});
  return first_refusal({takes(numerics.activation, {Activation::kFp32, Activation::kFp16}),
                        takes(numerics.mla, {Mla::kAbsorbed}),
                        takes(numerics.qk_operands, {QkOperands::kFp32}), merge,
                        takes(numerics.mma, {Mma::kExact})});
}

struct Scratch {
  float* queries;  // [kGroup, latent + rope]
  float* scores;   // [kGroup, topk]: scores, then weights
  float* sums;     // [kGroup, latent]
  float* tile;     // [kGroup, latent]
  float* rows;     // [kRows, latent + rope]
};

Scratch cut_scratch(const Problem& problem, cpu::Cutter& cutter) {
  const bool widens = problem.setting.numerics.latent_cache != LatentCache::kFp32;
  const int64_t width = problem.latent + problem.rope;
  return {cutter.take<float>(kGroup * width), cutter.take<float>(kGroup * problem.topk),
          cutter.take<float>(kGroup * problem.latent), cutter.take<float>(kGroup * problem.latent),
          cutter.take<float>(widens ? kRows * width : 0)};
}

int64_t bytes_per_thread(const Problem& problem) {
  cpu::Cutter cutter(nullptr);
  cut_scratch(problem, cutter);
  return cutter.bytes();
}

int64_t workspace_bytes(const Problem& problem, int threads) { return threads * bytes_per_thread(problem); }

// Heads [first_head, first_head + heads) of token t.
struct Group {
  const Problem& problem;
  const Args& args;
  const cpu::Kernels& kernels;
  const Scratch& scratch;
  int64_t t, first_head, heads, count;  // count: of selected rows

  const Numerics& numerics() const { return problem.setting.numerics; }
  int64_t width() const { return problem.latent + problem.rope; }
  bool in_place() const { return args.cache.row.form == LatentCache::kFp32; }
  View<const std::byte, 2> cache() const { return args.cache.rows[args.places(t).sequence]; }

  void widen(const ConstTensor<1>& row, float* to) const {
    const float* const values = cpu::as_floats(kernels, row, 0, row.extent[0], to);
    if (values != to) std::copy_n(values, row.extent[0], to);
  }

  void widen_row(const std::byte* row, float* to) const {
    const LatentRow& form = args.cache.row;
    const auto* const plain = reinterpret_cast<const uint16_t*>(row + form.rope_offset());
    kernels.decode_bf16(plain, problem.rope, to + problem.latent);
    if (form.form == LatentCache::kBf16)
      return kernels.decode_bf16(reinterpret_cast<const uint16_t*>(row), problem.latent, to);
    for (int64_t g = 0; g < form.groups(); ++g) {
      const int64_t first = g * LatentRow::kGroup;
      kernels.decode_e4m3(reinterpret_cast<const uint8_t*>(row) + first,
                          std::min(LatentRow::kGroup, problem.latent - first),
                          LatentRow::read<float>(row + form.scales_offset() + 4 * g), to + first);
    }
  }

  // Calls body(rows, first) for parts of entries [begin, end) of the list.
  template <class Body>
  void for_each_part(int64_t begin, int64_t end, const Body& body) const {
    const View<const int32_t, 1> selected = args.selected[t];
    const int64_t step = in_place() ? end - begin : kRows;
    for (int64_t first = begin; first < end; first += step) {
      const int64_t some = std::min(step, end - first);
      cpu::Rows rows{reinterpret_cast<const float*>(cache().data),
                     cache().stride[0] / static_cast<int64_t>(sizeof(float)), some, selected.data + first};
      if (!in_place()) {
        for (int64_t j = 0; j < some; ++j)
          widen_row(cache()[selected(first + j)].data, scratch.rows + j * width());
        rows = {scratch.rows, width(), some};
      }
      body(rows, first);
    }
  }

  void score() const {
    for (int64_t a = 0; a < heads; ++a) {
      widen(args.q[t][first_head + a], scratch.queries + a * width());
      widen(args.q_rope[t][first_head + a], scratch.queries + a * width() + problem.latent);
    }
    for_each_part(0, count, [&](const cpu::Rows& rows, int64_t first) {
      kernels.dot_rows({scratch.queries, width(), heads}, rows, width(), scratch.scores + first, count);
    });
    for (int64_t j = 0; j < heads * count; ++j) scratch.scores[j] *= problem.scale;
  }

  // Scores p[0, n) to weights relative to `largest`; returns what they add to the denominator.
  float weigh(float* p, int64_t n, float largest) const {
    float sum = 0.0f;
    for (; n > 0; --n, ++p) {
      const float e = *p == -kInfinity ? 0.0f : cpu::exp_not_positive(*p - largest);
      *p = numerics().softmax_p == SoftmaxP::kBf16 ? round_to_bf16(e) : e;
      sum += numerics().softmax_denominator == SoftmaxDenominator::kRounded ? *p : e;
    }
    return sum;
  }

  // The running softmax of one head.
  struct Running {
    float largest = -kInfinity, denominator = 0.0f, rescale = 0.0f;
  };
  void advance(Running& head, float* p, int64_t n) const {
    if (n == count && numerics().softmax_p == SoftmaxP::kFp32) {
      head.denominator = cpu::softmax(p, n);
      return;
    }
    const float before = head.largest;
    for (int64_t j = 0; j < n; ++j) head.largest = p[j] > head.largest ? p[j] : head.largest;
    head.rescale = before == -kInfinity ? 0.0f : cpu::exp_not_positive(before - head.largest);
    head.denominator = std::fma(head.denominator, head.rescale, weigh(p, n, head.largest));
  }

  // sums = sums * rescale + the weighted rows of entries [begin, end)
  void add(const Running* running, int64_t begin, int64_t end) const {
    const int64_t latent = problem.latent;
    for (int64_t a = 0; a < heads; ++a)
      kernels.multiply(scratch.sums + a * latent, running[a].rescale, latent);
    for_each_part(begin, end, [&](const cpu::Rows& rows, int64_t first) {
      kernels.combine_rows(scratch.scores + first, count, 1, heads, rows, latent, scratch.tile, latent);
      kernels.add(scratch.sums, scratch.tile, heads * latent, scratch.sums);
    });
  }

  void attend() const {
    score();
    const SoftmaxTile knob = numerics().softmax_tile;
    const int64_t keys = knob == SoftmaxTile::kNone ? count : knob == SoftmaxTile::k64 ? 64 : 128;
    Running running[kGroup];
    std::fill_n(scratch.sums, heads * problem.latent, 0.0f);
    for (int64_t begin = 0; begin < count; begin += keys) {
      const int64_t end = std::min(count, begin + keys);
      for (int64_t a = 0; a < heads; ++a)
        advance(running[a], scratch.scores + a * count + begin, end - begin);
      add(running, begin, end);
    }
    for (int64_t a = 0; a < heads; ++a) {
      float* const sums = scratch.sums + a * problem.latent;
      for (int64_t c = 0; c < problem.latent; ++c) sums[c] /= running[a].denominator;
      cpu::write_floats(kernels, sums, 0, problem.latent, args.out[t][first_head + a]);
    }
  }
};

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const int64_t groups = (problem.heads + kGroup - 1) / kGroup;
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  cpu::parallel_for(lane, args.q.extent[0] * groups, [&](int64_t begin, int64_t end, int thread) {
    cpu::Cutter cutter(lane.workspace.data() + thread * bytes_per_thread(problem));
    const Scratch scratch = cut_scratch(problem, cutter);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i / groups, first = i % groups * kGroup;
      Group{problem,
            args,
            kernels,
            scratch,
            t,
            first,
            std::min(kGroup, problem.heads - first),
            selected_rows(args.selected[t])}
          .attend();
    }
  });
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::sparse_attention
