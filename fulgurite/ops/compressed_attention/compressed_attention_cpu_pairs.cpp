// The window's rows and the entries as the keys of cpu/pair_attention.h: a row is key and values.

#include <algorithm>
#include <cstring>

#include "fulgurite/cpu/pair_attention.h"
#include "fulgurite/ops/compressed_attention/compressed_attention.h"
#include "fulgurite/ops/compressed_attention/token_rows_cpu.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::compressed_attention {
namespace {

// Operands are bf16 as they come, but for an fp16 q: that is rounded, where qk_operands says so.
Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  Support operands;
  if (numerics.activation == Activation::kFp16) operands = takes(numerics.qk_operands, {QkOperands::kBf16});
  return first_refusal({takes(numerics.activation, {Activation::kBf16, Activation::kFp16}), operands,
                        takes(numerics.mla, {Mla::kAbsorbed}), takes_kv_row(numerics),
                        takes(numerics.latent_cache, {LatentCache::kBf16, LatentCache::kFp8}),
                        takes(numerics.softmax_tile, {SoftmaxTile::k64, SoftmaxTile::k128}),
                        takes(numerics.softmax_merge, {SoftmaxMerge::kRunning}),
                        takes(numerics.softmax_p, {SoftmaxP::kBf16}), takes(numerics.mma, {Mma::kExact})});
}

cpu::PairAttention shape_of(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return {problem.setting.target.isa,
          problem.heads,
          problem.head_dim / 2,
          problem.head_dim,
          sparse_attention::tile_slots(numerics.softmax_tile, 0),
          most_keys(problem),
          row_of(problem).bytes(),
          problem.largest_batch,
          problem.scale,
          numerics.softmax_denominator == SoftmaxDenominator::kRounded};
}

class Tokens final : public cpu::PairTokens {
 public:
  Tokens(const Problem& problem, const Args& args)
      : rows_(problem, args),
        args_(args),
        row_(args.window.row),
        kernels_(cpu::kernels(problem.setting.target.isa)) {}

  cpu::TokenKeys keys(int64_t t) const override { return rows_.keys(t); }
  const std::byte* row(int64_t t, int64_t key) const override { return rows_.place(t, key).row; }

  void pack_queries(int64_t t, int64_t first, int64_t heads, uint32_t* panel) const override {
    cpu::pack_query_rows(kernels_, args_.q[t].slice(0, first, heads), panel);
  }

  void read_two(int64_t t, int64_t first, int64_t second, const TwoKeys& to) const override {
    const TokenRows::Place a = rows_.place(t, first), b = rows_.place(t, second);
    int64_t coded = 0;
    if (row_.form == LatentCache::kFp8)
      for (; coded < row_.nope; coded += KvRow::kGroup) read_group(a, b, coded, to);
    coded = std::min(coded, row_.nope);
    const int64_t plain = row_.width() - coded, offset = coded > 0 ? row_.rope_offset() : 0;
    std::memcpy(to.first + coded, a.row + offset, static_cast<size_t>(2 * plain));
    std::memcpy(to.second + coded, b.row + offset, static_cast<size_t>(2 * plain));
    kernels_.interleave(to.first + coded, to.second + coded, plain, to.pairs + coded);
  }

  void finish(int64_t t, int64_t head, const cpu::EndedSoftmax& softmax, int64_t column, int64_t count,
              float* sums) const override {
    rows_.finish(kernels_, t, head, softmax, column, count, sums);
  }

 private:
  // Codes [first, first + 64) of two rows.
  void read_group(const TokenRows::Place& a, const TokenRows::Place& b, int64_t first,
                  const TwoKeys& to) const {
    const float scales[] = {scale(a, first), scale(b, first)};
    const auto codes = [&](const TokenRows::Place& place, const float& scale) -> cpu::ScaledCodes {
      return {reinterpret_cast<const uint8_t*>(place.row) + first, reinterpret_cast<const uint8_t*>(&scale)};
    };
    kernels_.widen_two(codes(a, scales[0]), codes(b, scales[1]), std::min(KvRow::kGroup, row_.nope - first),
                       to.first + first, to.second + first, to.pairs + first);
  }
  static float scale(const TokenRows::Place& place, int64_t first) {
    return to_float(e8m0{std::to_integer<uint8_t>(place.scales[first / KvRow::kGroup])});
  }

  const TokenRows rows_;
  const Args& args_;
  const KvRow row_;
  const cpu::Kernels& kernels_;
};

int64_t workspace_bytes(const Problem& problem, int threads) {
  return cpu::workspace_bytes(shape_of(problem), threads);
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cpu::attend(shape_of(problem), Tokens(problem, args), args.q.extent[0], lane);
}

}  // namespace

const Implementation kCpuPairs{"cpu_pairs", supports, workspace_bytes, run};

}  // namespace fulgurite::compressed_attention
