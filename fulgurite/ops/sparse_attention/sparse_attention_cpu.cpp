// The selected rows as the keys of cpu/float_attention.h: in place where they are fp32, else widened.

#include <algorithm>

#include "fulgurite/core/cache_clauses.h"
#include "fulgurite/cpu/float_attention.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::sparse_attention {
namespace {

// With one tile softmax_merge changes nothing.
Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  Support merge;
  if (numerics.softmax_tile != SoftmaxTile::kNone)
    merge = takes(numerics.softmax_merge, {SoftmaxMerge::kRunning});
  return first_refusal({takes(numerics.activation, {Activation::kFp32, Activation::kFp16}),
                        takes(numerics.mla, {Mla::kAbsorbed}),
                        takes(numerics.qk_operands, {QkOperands::kFp32}), merge,
                        takes(numerics.mma, {Mma::kExact}), takes_no_pages(problem.page_tokens)});
}

cpu::FloatAttention shape_of(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return {problem.setting.target.isa,
          problem.heads,
          problem.latent + problem.rope,
          problem.latent,
          tile_slots(numerics.softmax_tile, 0),
          problem.topk,
          problem.scale,
          numerics.softmax_p == SoftmaxP::kBf16,
          numerics.softmax_denominator == SoftmaxDenominator::kRounded,
          numerics.latent_cache == LatentCache::kFp32};
}

class SelectedRows final : public cpu::FloatTokens {
 public:
  SelectedRows(const Problem& problem, const Args& args)
      : problem_(problem), args_(args), kernels_(cpu::kernels(problem.setting.target.isa)) {}

  cpu::TokenKeys keys(int64_t t) const override { return {selected_rows(args_.selected[t]), 0, 0}; }

  void read_query(int64_t t, int64_t head, float* to) const override {
    widen(args_.q[t][head], to);
    widen(args_.q_rope[t][head], to + problem_.latent);
  }

  cpu::Rows rows(int64_t t, Use, int64_t first, int64_t count, const Buffers& buffers) const override {
    const View<const std::byte, 2> cache = args_.cache.rows[args_.places(t).sequence];
    const View<const int32_t, 1> selected = args_.selected[t];
    if (args_.cache.row.form == LatentCache::kFp32)
      return {reinterpret_cast<const float*>(cache.data),
              cache.stride[0] / static_cast<int64_t>(sizeof(float)), count, selected.data + first};
    const int64_t some = std::min(count, cpu::kWidenedRows), width = problem_.latent + problem_.rope;
    for (int64_t j = 0; j < some; ++j) widen_row(cache[selected(first + j)].data, buffers.rows + j * width);
    return {buffers.rows, width, some};
  }

  void finish(int64_t t, int64_t head, const cpu::EndedSoftmax& softmax, float* sums) const override {
    cpu::write_quotients(kernels_, sums, softmax.denominator, 0, problem_.latent, args_.out[t][head]);
  }

 private:
  void widen(const ConstTensor<1>& row, float* to) const {
    const float* const values = cpu::as_floats(kernels_, row, 0, row.extent[0], to);
    if (values != to) std::copy_n(values, row.extent[0], to);
  }

  void widen_row(const std::byte* row, float* to) const {
    const LatentRow& form = args_.cache.row;
    const auto* const plain = reinterpret_cast<const uint16_t*>(row + form.rope_offset());
    kernels_.decode_bf16(plain, problem_.rope, to + problem_.latent);
    if (form.form == LatentCache::kBf16)
      return kernels_.decode_bf16(reinterpret_cast<const uint16_t*>(row), problem_.latent, to);
    for (int64_t g = 0; g < form.groups(); ++g) {
      const int64_t first = g * LatentRow::kGroup;
      kernels_.decode_e4m3(reinterpret_cast<const uint8_t*>(row) + first,
                           std::min(LatentRow::kGroup, problem_.latent - first),
                           LatentRow::read<float>(row + form.scales_offset() + 4 * g), to + first);
    }
  }

  const Problem& problem_;
  const Args& args_;
  const cpu::Kernels& kernels_;
};

int64_t workspace_bytes(const Problem& problem, int threads) {
  return cpu::workspace_bytes(shape_of(problem), threads);
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cpu::attend(shape_of(problem), SelectedRows(problem, args), args.q.extent[0], lane);
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::sparse_attention
