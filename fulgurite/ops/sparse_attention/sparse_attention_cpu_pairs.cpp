// The selected rows as the keys of cpu/pair_attention.h: latent and rotated part, each padded with a zero to
// whole pairs; values are the latent part.

#include <algorithm>

#include "fulgurite/cpu/pair_attention.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::sparse_attention {
namespace {

constexpr int64_t kLanes = 16;

// Operands are bf16 as they come: q is an activation, and a code times a power of two has few bits. So
// qk_operands changes nothing, but of an fp16 q: that is rounded, where the knob says so.
Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  Support operands;
  if (numerics.activation == Activation::kFp16) operands = takes(numerics.qk_operands, {QkOperands::kBf16});
  return first_refusal({takes(numerics.activation, {Activation::kBf16, Activation::kFp16}), operands,
                        takes(numerics.mla, {Mla::kAbsorbed}),
                        takes(numerics.latent_cache, {LatentCache::kBf16, LatentCache::kFp8}),
                        takes(numerics.softmax_tile, {SoftmaxTile::k64, SoftmaxTile::k128}),
                        takes(numerics.softmax_merge, {SoftmaxMerge::kRunning}),
                        takes(numerics.softmax_p, {SoftmaxP::kBf16}), takes(numerics.mma, {Mma::kExact})});
}

int64_t pairs_of(int64_t elements) { return (elements + 1) / 2; }

cpu::PairAttention shape_of(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return {problem.setting.target.isa,
          problem.heads,
          pairs_of(problem.latent) + pairs_of(problem.rope),
          problem.latent,
          numerics.softmax_tile == SoftmaxTile::k64 ? 64 : 128,
          problem.topk,
          row_of(problem).bytes(),
          problem.largest_batch,
          problem.scale,
          numerics.softmax_denominator == SoftmaxDenominator::kRounded};
}

class SelectedRows final : public cpu::PairTokens {
 public:
  SelectedRows(const Problem& problem, const Args& args)
      : problem_(problem),
        args_(args),
        kernels_(cpu::kernels(problem.setting.target.isa)),
        latent_pairs_(pairs_of(problem.latent)),
        pairs_(latent_pairs_ + pairs_of(problem.rope)) {}

  cpu::TokenKeys keys(int64_t t) const override { return {selected_rows(args_.selected[t]), 0, 0}; }
  const std::byte* row(int64_t t, int64_t key) const override {
    return args_.cache.at(args_.places(t).sequence, args_.selected(t, key));
  }

  void pack_queries(int64_t t, int64_t first, int64_t heads, uint32_t* panel) const override {
    cpu::pack_query_rows(kernels_, args_.q[t].slice(0, first, heads), panel);
    cpu::pack_query_rows(kernels_, args_.q_rope[t].slice(0, first, heads), panel + latent_pairs_ * kLanes);
  }

  void read_two(int64_t t, int64_t first, int64_t second, const TwoKeys& to) const override {
    const std::byte* const a = row(t, first);
    const std::byte* const b = row(t, second);
    pad(a, to.first);
    pad(b, to.second);
    if (args_.cache.row.form == LatentCache::kFp8)
      return kernels_.widen_two(scaled_codes(a), scaled_codes(b), problem_.latent, to.first, to.second,
                                to.pairs);
    std::copy_n(reinterpret_cast<const uint16_t*>(a), problem_.latent, to.first);
    std::copy_n(reinterpret_cast<const uint16_t*>(b), problem_.latent, to.second);
    kernels_.interleave(to.first, to.second, problem_.latent, to.pairs);
  }

  void finish(int64_t t, int64_t head, const cpu::EndedSoftmax& softmax, int64_t column, int64_t count,
              float* sums) const override {
    cpu::write_quotients(kernels_, sums, softmax.denominator, column, count, args_.out[t][head]);
  }

 private:
  // All but the latent values.
  void pad(const std::byte* row, uint16_t* to) const {
    to[2 * latent_pairs_ - 1] = to[2 * pairs_ - 1] = 0;
    std::copy_n(reinterpret_cast<const uint16_t*>(row + args_.cache.row.rope_offset()), problem_.rope,
                to + 2 * latent_pairs_);
  }
  cpu::ScaledCodes scaled_codes(const std::byte* row) const {
    const auto* const codes = reinterpret_cast<const uint8_t*>(row);
    return {codes, codes + args_.cache.row.scales_offset()};
  }

  const Problem& problem_;
  const Args& args_;
  const cpu::Kernels& kernels_;
  const int64_t latent_pairs_;  // of a key; the rotated part begins at a whole pair
  const int64_t pairs_;         // of a key
};

int64_t workspace_bytes(const Problem& problem, int threads) {
  return cpu::workspace_bytes(shape_of(problem), threads);
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cpu::attend(shape_of(problem), SelectedRows(problem, args), args.q.extent[0], lane);
}

}  // namespace

const Implementation kCpuPairs{"cpu_pairs", supports, workspace_bytes, run};

}  // namespace fulgurite::sparse_attention
