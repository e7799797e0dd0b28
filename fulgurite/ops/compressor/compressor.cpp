#include "fulgurite/ops/compressor/compressor.h"

#include <algorithm>
#include <bit>

#include "fulgurite/core/check.h"
#include "fulgurite/core/error.h"

namespace fulgurite::compressor {
namespace {

linear::Problem linear_of(const Problem& problem, const MatrixFormat& weight) {
  Setting setting = problem.setting;
  setting.numerics.activation_quant = ActivationQuant::kNone;
  return {setting,
          problem.hidden,
          width(problem),
          weight,
          linear::Output::kF32,
          problem.largest_batch,
          WeightReading::kExact,
          problem.order};
}

void check_sizes(const Problem& problem) {
  FULGURITE_ASSERT(problem.rope % 2 == 0 && problem.rope <= problem.dim,
                   "compressor: {} rotated dimensions of {}", problem.rope, problem.dim);
  FULGURITE_ASSERT(problem.kind == Kind::kEntries || std::has_single_bit(static_cast<uint64_t>(problem.dim)),
                   "compressor: index keys of {} are no power of two", problem.dim);
}

void check_weight(const char* name, const PreparedMatrix* weight, const Problem& problem,
                  const MatrixFormat& format) {
  FULGURITE_ASSERT(weight != nullptr && weight->out == width(problem) && weight->in == problem.hidden &&
                       format_of(*weight) == format,
                   "compressor: {} is not the one that was planned", name);
}

void check_cache(const Check& clause, const Problem& problem, const Args& args) {
  const Numerics& numerics = problem.setting.numerics;
  if (problem.kind == Kind::kEntries) {
    FULGURITE_ASSERT(args.entries.row == row_of(problem),
                     "compressor: the entries are not those that were planned");
    clause.tensor("entries", args.entries.blocks,
                  {problem.sequences, KvRow::blocks(problem.entries), args.entries.row.block_bytes()});
    return;
  }
  clause.tensor("keys", args.keys.keys, index_operand(numerics),
                {problem.sequences, problem.entries, problem.dim});
  if (numerics.index_quant == IndexQuant::kFp8)
    clause.tensor("keys, scales", args.keys.scales, {problem.sequences, problem.entries});
}

// The tokens of a sequence stand together and follow one another.
void check_places(const Check& clause, const Problem& problem, const Args& args) {
  if (!reads_values(problem.setting)) return;
  const View<const TokenPlace, 1> places = args.places;
  const int64_t positions = args.table.cosine.extent[0];
  const int64_t last = std::min(positions, (problem.entries + 1) * problem.ratio - 1) - 1;
  for (int64_t t = 0; t < places.extent[0]; ++t) {
    const TokenPlace place = places(t);
    clause.range("sequence", place.sequence, 0, problem.sequences - 1)
        .range("position", place.position, 0, last);
    if (t == 0) continue;
    const TokenPlace before = places(t - 1);
    if (before.sequence == place.sequence) {
      clause.range("position", place.position, before.position + 1, before.position + 1);
      continue;
    }
    for (int64_t s = 0; s < t; ++s)
      if (places(s).sequence == place.sequence)
        fail(ErrorKind::kRequest, "compressor: places: the tokens of sequence {} do not stand together",
             place.sequence);
  }
}

}  // namespace

linear::Problem value_linear(const Problem& problem) { return linear_of(problem, problem.wkv); }
linear::Problem gate_linear(const Problem& problem) { return linear_of(problem, problem.wgate); }

norm::Problem norm_of(const Problem& problem) {
  norm::Problem norm{problem.setting, problem.dim, problem.eps};
  norm.setting.numerics.mma = Mma::kExact;  // no tensor core's
  return norm;
}

KvRow row_of(const Problem& problem) {
  return kv_row(problem.setting.numerics, problem.dim - problem.rope, problem.rope);
}

rotary::Layout layout_in_force(const Problem& problem) {
  const bool half_split =
      problem.kind == Kind::kIndexKeys && problem.setting.numerics.indexer_rope == IndexerRope::kHalfSplit;
  return half_split ? rotary::Layout::kHalfSplit : rotary::Layout::kInterleaved;
}

void check(const Problem& problem, const Args& args) {
  check_sizes(problem);
  const int64_t tokens = args.x.extent[0], columns = width(problem);
  const int64_t positions = args.table.cosine.extent[0];
  const Check clause("compressor");
  clause.tensor("x", args.x, activation_type(problem.setting.numerics), {tokens, problem.hidden})
      .tensor("ape", args.ape, {problem.ratio, columns})
      .tensor("norm", args.norm, {problem.dim})
      .tensor("places", args.places, {tokens})
      .tensor("cosine", args.table.cosine, {positions, problem.rope / 2})
      .tensor("sine", args.table.sine, {positions, problem.rope / 2})
      .tensor("state", args.state, {problem.sequences, state_rows(problem), 2, columns});
  check_weight("wkv", args.wkv, problem, problem.wkv);
  check_weight("wgate", args.wgate, problem, problem.wgate);
  check_cache(clause, problem, args);
  if (args.projected) clause.tensor("projected", args.projected, {tokens, 2, columns});
  if (args.pooled) clause.tensor("pooled", args.pooled, {tokens, problem.dim});
  check_places(clause, problem, args);
}

}  // namespace fulgurite::compressor
