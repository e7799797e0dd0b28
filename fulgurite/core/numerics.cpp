#include "fulgurite/core/numerics.h"

#include <fmt/format.h>

#include "fulgurite/core/assert.h"

namespace fulgurite {

namespace {

// The name of an enumerator, from the names in the order of the enum.
template <class Knob>
std::string_view nth(Knob value, std::initializer_list<std::string_view> names) {
  FULGURITE_ASSERT(static_cast<size_t>(value) < names.size(), "value {} of {}", static_cast<int>(value),
                   knob_name(value));
  return names.begin()[static_cast<size_t>(value)];
}

}  // namespace

std::string_view knob_name(Activation) { return "activation"; }
std::string_view value_name(Activation value) { return nth(value, {"fp32", "bf16", "fp16"}); }
std::string_view knob_name(ActivationQuant) { return "activation_quant"; }
std::string_view value_name(ActivationQuant value) { return nth(value, {"none", "e4m3"}); }
std::string_view knob_name(ActivationScale) { return "activation_scale"; }
std::string_view value_name(ActivationScale value) { return nth(value, {"checkpoint", "fp32", "pow2"}); }
std::string_view knob_name(NormInput) { return "norm_input"; }
std::string_view value_name(NormInput value) { return nth(value, {"unrounded", "rounded"}); }
std::string_view knob_name(Rsqrt) { return "rsqrt"; }
std::string_view value_name(Rsqrt value) {
  return nth(value, {"correct", "two_step", "x86_12", "x86_14", "cuda", "error"});
}
std::string_view knob_name(Mla) { return "mla"; }
std::string_view value_name(Mla value) { return nth(value, {"absorbed", "expanded"}); }
std::string_view knob_name(LatentCache) { return "latent_cache"; }
std::string_view value_name(LatentCache value) { return nth(value, {"fp32", "bf16", "fp8"}); }
std::string_view knob_name(IndexerWk) { return "indexer_wk"; }
std::string_view value_name(IndexerWk value) { return nth(value, {"fp32", "bf16", "fp8"}); }
std::string_view knob_name(Gate) { return "gate"; }
std::string_view value_name(Gate value) { return nth(value, {"fp32", "bf16"}); }
std::string_view knob_name(GateWeight) { return "gate_weight"; }
std::string_view value_name(GateWeight value) { return nth(value, {"stored", "fp8"}); }
std::string_view knob_name(Hadamard) { return "hadamard"; }
std::string_view value_name(Hadamard value) { return nth(value, {"none", "q", "both"}); }
std::string_view knob_name(IndexQuant) { return "index_quant"; }
std::string_view value_name(IndexQuant value) { return nth(value, {"none", "fp8", "fp4"}); }
std::string_view knob_name(IndexScale) { return "index_scale"; }
std::string_view value_name(IndexScale value) { return nth(value, {"pow2", "fp32"}); }
std::string_view knob_name(IndexerRope) { return "indexer_rope"; }
std::string_view value_name(IndexerRope value) { return nth(value, {"family", "interleaved", "half_split"}); }
std::string_view knob_name(IndexNorm) { return "index_norm"; }
std::string_view value_name(IndexNorm value) { return nth(value, {"fp32", "bf16"}); }
std::string_view knob_name(KvQuant) { return "kv_quant"; }
std::string_view value_name(KvQuant value) { return nth(value, {"none", "e4m3"}); }
std::string_view knob_name(SharedClamp) { return "shared_clamp"; }
std::string_view value_name(SharedClamp value) { return nth(value, {"off", "on"}); }
std::string_view knob_name(SoftmaxTile) { return "softmax_tile"; }
std::string_view value_name(SoftmaxTile value) { return nth(value, {"none", "64", "128"}); }
std::string_view knob_name(SoftmaxMerge) { return "softmax_merge"; }
std::string_view value_name(SoftmaxMerge value) { return nth(value, {"running", "independent"}); }
std::string_view knob_name(SoftmaxDenominator) { return "softmax_denominator"; }
std::string_view value_name(SoftmaxDenominator value) { return nth(value, {"unrounded", "rounded"}); }
std::string_view knob_name(SoftmaxP) { return "softmax_p"; }
std::string_view value_name(SoftmaxP value) { return nth(value, {"fp32", "bf16"}); }
std::string_view knob_name(QkOperands) { return "qk_operands"; }
std::string_view value_name(QkOperands value) { return nth(value, {"fp32", "bf16"}); }
std::string_view knob_name(Ties) { return "ties"; }
std::string_view value_name(Ties value) { return nth(value, {"lower", "higher"}); }
std::string_view knob_name(Mma) { return "mma"; }
std::string_view value_name(Mma value) { return nth(value, {"exact", "hopper"}); }

Numerics Numerics::serving() {
  Numerics n;
  n.activation = Activation::kBf16;
  n.activation_quant = ActivationQuant::kE4m3;
  n.latent_cache = LatentCache::kFp8;
  n.indexer_wk = IndexerWk::kBf16;
  n.hadamard = Hadamard::kBoth;
  n.index_quant = IndexQuant::kFp8;
  n.kv_quant = KvQuant::kE4m3;
  n.shared_clamp = SharedClamp::kOff;
  n.softmax_tile = SoftmaxTile::k64;
  n.softmax_p = SoftmaxP::kBf16;
  n.qk_operands = QkOperands::kBf16;
  return n;
}

std::vector<std::pair<std::string, std::string>> describe(const Numerics& n) {
  std::vector<std::pair<std::string, std::string>> knobs;
  const auto add = [&](auto knob) { knobs.emplace_back(knob_name(knob), value_name(knob)); };
  add(n.activation);
  add(n.activation_quant);
  add(n.activation_scale);
  add(n.norm_input);
  add(n.rsqrt);
  if (n.rsqrt == Rsqrt::kError) knobs.emplace_back("rsqrt_error", fmt::format("{:g}", n.rsqrt_error));
  add(n.mla);
  add(n.latent_cache);
  add(n.indexer_wk);
  add(n.gate);
  add(n.gate_weight);
  add(n.hadamard);
  add(n.index_quant);
  add(n.index_scale);
  add(n.indexer_rope);
  add(n.index_norm);
  knobs.emplace_back("index_norm_eps", fmt::format("{:g}", n.index_norm_eps));
  add(n.kv_quant);
  add(n.shared_clamp);
  add(n.softmax_tile);
  add(n.softmax_merge);
  add(n.softmax_denominator);
  add(n.softmax_p);
  add(n.qk_operands);
  add(n.ties);
  add(n.mma);
  return knobs;
}

}  // namespace fulgurite
