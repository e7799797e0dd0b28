#include "fulgurite/core/numerics.h"

#include <fmt/format.h>

#include <array>

namespace fulgurite {

// One line a knob: its type, its name, the names of its values in the order of the enum.
#define FULGURITE_KNOB(Type, knob, ...)                                          \
  std::string_view knob_name(Type) { return knob; }                              \
  std::string_view value_name(Type value) {                                      \
    static constexpr auto kNames = std::to_array<std::string_view>(__VA_ARGS__); \
    return kNames.at(static_cast<size_t>(value));                                \
  }

FULGURITE_KNOB(Activation, "activation", {"fp32", "bf16", "fp16"})
FULGURITE_KNOB(ActivationQuant, "activation_quant", {"none", "e4m3"})
FULGURITE_KNOB(ActivationScale, "activation_scale", {"checkpoint", "fp32", "pow2"})
FULGURITE_KNOB(NormInput, "norm_input", {"unrounded", "rounded"})
FULGURITE_KNOB(Rsqrt, "rsqrt", {"correct", "two_step"})
FULGURITE_KNOB(Mla, "mla", {"absorbed", "expanded"})
FULGURITE_KNOB(LatentCache, "latent_cache", {"fp32", "bf16", "fp8"})
FULGURITE_KNOB(IndexerWk, "indexer_wk", {"fp32", "bf16", "fp8"})
FULGURITE_KNOB(Gate, "gate", {"fp32", "bf16"})
FULGURITE_KNOB(GateWeight, "gate_weight", {"stored", "fp8"})
FULGURITE_KNOB(Hadamard, "hadamard", {"none", "q", "both"})
FULGURITE_KNOB(IndexQuant, "index_quant", {"none", "fp8", "fp4"})
FULGURITE_KNOB(IndexScale, "index_scale", {"pow2", "fp32"})
FULGURITE_KNOB(IndexerRope, "indexer_rope", {"family", "interleaved", "half_split"})
FULGURITE_KNOB(IndexNorm, "index_norm", {"fp32", "bf16"})
FULGURITE_KNOB(SoftmaxTile, "softmax_tile", {"none", "64", "128"})
FULGURITE_KNOB(SoftmaxMerge, "softmax_merge", {"running", "independent"})
FULGURITE_KNOB(SoftmaxDenominator, "softmax_denominator", {"unrounded", "rounded"})
FULGURITE_KNOB(SoftmaxP, "softmax_p", {"fp32", "bf16"})
FULGURITE_KNOB(QkOperands, "qk_operands", {"fp32", "bf16"})
FULGURITE_KNOB(Ties, "ties", {"lower", "higher"})
FULGURITE_KNOB(Mma, "mma", {"exact", "hopper"})
#undef FULGURITE_KNOB

Numerics Numerics::serving() {
  Numerics n;
  n.activation = Activation::kBf16;
  n.activation_quant = ActivationQuant::kE4m3;
  n.latent_cache = LatentCache::kFp8;
  n.indexer_wk = IndexerWk::kBf16;
  n.hadamard = Hadamard::kBoth;
  n.index_quant = IndexQuant::kFp8;
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
