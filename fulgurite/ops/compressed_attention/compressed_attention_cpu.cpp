// The window's rows and the entries as the keys of cpu/float_attention.h: a row is key and values. They are
// read in place where they are fp32 and stand at one distance, else widened.

#include <algorithm>
#include <cstring>

#include "fulgurite/cpu/float_attention.h"
#include "fulgurite/ops/compressed_attention/compressed_attention.h"
#include "fulgurite/ops/compressed_attention/token_rows_cpu.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::compressed_attention {
namespace {

// With one tile softmax_merge changes nothing.
Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  Support merge;
  if (numerics.softmax_tile != SoftmaxTile::kNone)
    merge = takes(numerics.softmax_merge, {SoftmaxMerge::kRunning});
  return first_refusal({takes(numerics.activation, {Activation::kFp32, Activation::kFp16}),
                        takes(numerics.mla, {Mla::kAbsorbed}), takes_kv_row(numerics),
                        takes(numerics.qk_operands, {QkOperands::kFp32}), merge,
                        takes(numerics.mma, {Mma::kExact})});
}

cpu::FloatAttention shape_of(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return {problem.setting.target.isa,
          problem.heads,
          problem.head_dim,
          problem.head_dim,
          sparse_attention::tile_slots(numerics.softmax_tile, 0),
          most_keys(problem),
          problem.scale,
          numerics.softmax_p == SoftmaxP::kBf16,
          numerics.softmax_denominator == SoftmaxDenominator::kRounded};
}

class Tokens final : public cpu::FloatTokens {
 public:
  Tokens(const Problem& problem, const Args& args)
      : problem_(problem),
        args_(args),
        token_rows_(problem, args),
        row_(args.window.row),
        kernels_(cpu::kernels(problem.setting.target.isa)) {}

  cpu::TokenKeys keys(int64_t t) const override { return token_rows_.keys(t); }

  void read_query(int64_t t, int64_t head, float* to) const override {
    const float* const values = cpu::as_floats(kernels_, args_.q[t][head], 0, problem_.head_dim, to);
    if (values != to) std::copy_n(values, problem_.head_dim, to);
  }

  cpu::Rows rows(int64_t t, Use use, int64_t first, int64_t count, const Buffers& buffers) const override {
    // Of the window or of the entries, and as many wherever they are read: so are sums the same.
    const int64_t seen = keys(t).gap_at, end = first < seen ? seen : first + count;
    const int64_t some = std::min({count, end - first, cpu::kWidenedRows}), width = row_.width();
    const bool rounded = use == Use::kValues && problem_.setting.numerics.softmax_p == SoftmaxP::kBf16;
    const ConstKvRows& from = token_rows_.index_of(t, first).rows;
    if (row_.form == LatentCache::kFp32 && !rounded && at_one_distance(from)) {
      for (int64_t j = 0; j < some; ++j)
        buffers.indices[j] = static_cast<int32_t>(token_rows_.index_of(t, first + j).index);
      return {reinterpret_cast<const float*>(from.at(args_.places(t).sequence, 0)), width, some,
              buffers.indices};
    }
    for (int64_t j = 0; j < some; ++j) widen_row(token_rows_.place(t, first + j), buffers.rows + j * width);
    if (rounded && row_.form == LatentCache::kFp32) kernels_.round_bf16(buffers.rows, some * width);
    return {buffers.rows, width, some};
  }

  void finish(int64_t t, int64_t head, const cpu::EndedSoftmax& softmax, float* sums) const override {
    token_rows_.finish(kernels_, t, head, softmax, 0, problem_.head_dim, sums);
  }

 private:
  static bool at_one_distance(const ConstKvRows& rows) {
    return rows.blocks.extent[1] <= 1 || rows.blocks.stride[1] == rows.row.block_bytes();
  }

  void widen_row(const TokenRows::Place& place, float* to) const {
    if (row_.form == LatentCache::kFp32) {
      std::memcpy(to, place.row, static_cast<size_t>(4 * row_.width()));
    } else if (row_.form == LatentCache::kBf16) {
      kernels_.decode_bf16(reinterpret_cast<const uint16_t*>(place.row), row_.width(), to);
    } else {
      for (int64_t first = 0; first < row_.nope; first += KvRow::kGroup)
        kernels_.decode_e4m3(
            reinterpret_cast<const uint8_t*>(place.row) + first, std::min(KvRow::kGroup, row_.nope - first),
            to_float(e8m0{std::to_integer<uint8_t>(place.scales[first / KvRow::kGroup])}), to + first);
      kernels_.decode_bf16(reinterpret_cast<const uint16_t*>(place.row + row_.rope_offset()), row_.rope,
                           to + row_.nope);
    }
  }

  const Problem& problem_;
  const Args& args_;
  const TokenRows token_rows_;
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

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::compressed_attention
