#include "fulgurite/ops/latent_prepare/latent_prepare_audit.h"

#include <algorithm>
#include <cmath>

#include "fulgurite/audit/tensors.h"
#include "fulgurite/core/quantize.h"
#include "fulgurite/ops/norm/norm_audit.h"

namespace fulgurite::latent_prepare {
namespace {

// The tokens' rows alone: a cache of one sequence whose position is the token, and the rows of the table that
// they read.
class ReferenceRows {
 public:
  ReferenceRows(const Problem& problem, const Args& args)
      : tokens_(args.kv.extent[0]),
        bytes_(DType::kU8, {1, tokens_, args.cache.row.bytes()}),
        cosine_(DType::kF32, {tokens_, problem.rope / 2}),
        sine_(DType::kF32, {tokens_, problem.rope / 2}) {
    for (int64_t t = 0; t < tokens_; ++t) {
      places_.push_back({0, static_cast<int32_t>(t)});
      for (int64_t i = 0; i < problem.rope / 2; ++i) {
        cosine_.view().as<float>()(t, i) = args.table.cosine(args.places(t).position, i);
        sine_.view().as<float>()(t, i) = args.table.sine(args.places(t).position, i);
      }
    }
    Problem rows = problem;
    rows.sequences = 1;
    rows.context = tokens_;
    rows.page_tokens = 0;
    Args reference = args;
    reference.places = {places_.data(), {tokens_}};
    reference.table = {cosine_.view().as<float>(), sine_.view().as<float>()};
    reference.cache = {args.cache.row, {bytes_.view().data, bytes_.view().extent}};
    kReference.run(rows, reference, {});
  }
  const std::byte* row(int64_t t) const { return bytes_.view()[0][t].data; }

 private:
  int64_t tokens_;
  std::vector<TokenPlace> places_;
  audit::OwnedTensor<3> bytes_;
  audit::OwnedTensor<2> cosine_, sine_;
};

// A latent as attention reads it, and its scales where it has any.
struct Stored {
  std::vector<float> values, scales;
};

Stored read(const LatentRow& form, const std::byte* row) {
  Stored stored;
  for (int64_t i = 0; i < form.latent; ++i) stored.values.push_back(form.latent_value(row, i));
  if (form.form == LatentCache::kFp8)
    for (int64_t g = 0; g < form.groups(); ++g)
      stored.scales.push_back(LatentRow::read<float>(row + form.scales_offset() + g * 4));
  return stored;
}

Stored store_as(const LatentRow& form, const std::vector<float>& latent) {
  if (form.form == LatentCache::kFp32) return {latent, {}};
  Stored stored;
  for (size_t first = 0; first < latent.size(); first += LatentRow::kGroup) {
    const size_t count = std::min<size_t>(latent.size() - first, LatentRow::kGroup);
    e4m3 codes[LatentRow::kGroup];
    const float scale = quantize_e4m3({&latent[first], count}, ScaleRounding::kPow2, codes);
    for (size_t i = 0; i < count; ++i)
      stored.values.push_back(form.form == LatentCache::kFp8 ? to_float(codes[i]) * scale
                                                             : round_to_bf16(latent[first + i]));
    if (form.form == LatentCache::kFp8) stored.scales.push_back(scale);
  }
  return stored;
}

// The latents that the norm may make of a token.
std::vector<std::vector<float>> possible_latents(const Problem& problem, const Args& args, int64_t t) {
  std::vector<float> s;
  for (int64_t i = 0; i < problem.latent; ++i) s.push_back(load(args.kv, t, i));
  std::vector<std::vector<float>> latents;
  for (const float r : norm::possible_roots({problem.setting, problem.latent, problem.eps}, s)) {
    std::vector<float>& latent = latents.emplace_back();
    for (int64_t i = 0; i < problem.latent; ++i)
      latent.push_back(round_to(args.kv.dtype, args.weight(i) * (s[static_cast<size_t>(i)] * r)));
  }
  return latents;
}

}  // namespace

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  const ReferenceRows reference(problem, args);
  row.run(problem, args, lane);
  const LatentRow form = args.cache.row;
  audit::PossibleValues latent, scales, rope;
  for (int64_t t = 0; t < args.kv.extent[0]; ++t) {
    const std::byte* const actual = args.cache.at(args.places(t));
    const Stored is = read(form, actual), should_be = read(form, reference.row(t));
    latent.add(is.values, should_be.values);
    scales.add(is.scales, should_be.scales);
    for (const std::vector<float>& possible : possible_latents(problem, args, t)) {
      const Stored may_be = store_as(form, possible);
      latent.allow(may_be.values);
      scales.allow(may_be.scales);
    }
    for (int64_t i = 0; i < form.rope; ++i)
      rope.add({form.rope_value(actual, i)}, {form.rope_value(reference.row(t), i)});
  }
  return {{{"latent", latent.difference()}, {"scales", scales.difference()}, {"rope", rope.difference()}}};
}

}  // namespace fulgurite::latent_prepare
