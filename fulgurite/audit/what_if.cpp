#include "fulgurite/audit/what_if.h"

#include <fmt/format.h>

#include <algorithm>

#include "fulgurite/audit/audit.h"
#include "fulgurite/core/error.h"

namespace fulgurite::audit {
namespace {

using enum KnownChoice::Families;

constexpr KnownChoice kChoices[] = {
    {"head gate rounded to bf16", "gate=bf16", "sglang #17205, #19041, #27705; vllm #38684"},
    {"head gate's weight in fp8", "gate_weight=fp8", "trt-llm #18658: kept bf16 in official checkpoints"},
    {"wk as an fp8 linear", "indexer_wk=fp8", "vllm #38870, #38928", kV32},
    {"index keys' scales in fp32", "index_scale=fp32", "sglang's fused K store; trt-llm #8701", kV32},
    {"index q and keys in bf16", "index_quant=none", "sglang #30012"},
    {"index q and keys in fp4", "index_quant=fp4", "DeepSeek-V4's indexer"},
    {"index q and keys in fp8", "index_quant=fp8", "DeepSeek-V3.2's indexer", kV4},
    {"the same with scales in fp32", "index_quant=fp8,index_scale=fp32", "sglang's fused K store", kV4},
    {"no Hadamard", "hadamard=none", "vllm; sglang's fused mode"},
    {"Hadamard of q alone", "hadamard=q", "sglang: fused and unfused writers in one cache"},
    {"indexer's RoPE interleaved", "indexer_rope=interleaved", "sglang #13530, #30088", kV32},
    {"indexer's RoPE in halves", "indexer_rope=half_split", "transformers #46842; ATOM #1502", kV32},
    {"index norm's parameters in bf16", "index_norm=bf16", "aiter #3451; ATOM #1359", kV32},
    {"index norm's eps 1e-5", "index_norm_eps=1e-5", "sglang: the default of its class", kV32},
    {"root 1e-6 off", "rsqrt=error:1e-6", "pypto-lib #361"},
    {"root 1e-4 off", "rsqrt=error:1e-4", "pypto-lib #361"},
    {"root 1e-3 off", "rsqrt=error:1e-3", "pypto-lib #361: its device's rsqrt"},
    {"root as 1 / sqrt", "rsqrt=two_step", "pypto-lib #361: recip(sqrt)"},
    {"root of RSQRTSS", "rsqrt=x86_12", "pypto-lib #361, on x86"},
    {"root of VRSQRT14SS", "rsqrt=x86_14", "pypto-lib #361, on x86"},
    {"softmax of one tile", "softmax_tile=none", "pypto-lib #361"},
    {"softmax in tiles of 128", "softmax_tile=128", "pypto-lib #361"},
    {"tiles merged afterwards", "softmax_merge=independent", "pypto-lib #361"},
    {"denominator of rounded P", "softmax_denominator=rounded", "pypto-lib #361"},
    {"P in fp32", "softmax_p=fp32", "pypto-lib #361"},
    {"operands of scores in fp32", "qk_operands=fp32", "pypto-lib #361", kV4},
    {"no quantized activations", "activation_quant=none", "DeepSeek-V3.2 model.py linear()"},
    {"their scales in fp32", "activation_scale=fp32", "vllm #57486"},
    {"their scales powers of two", "activation_scale=pow2", "vllm #58157; sglang #28662"},
    {"fp32 scales divided by 448", "scale_form=divided", "sglang's and vllm's quantizers"},
    {"fp16 activations", "activation=fp16", "sglang #22300"},
    {"kv rows as they are", "kv_quant=none,latent_cache=bf16", "DeepSeek-V4 model.py", kV4},
    {"shared expert clamped", "shared_clamp=on", "DeepSeek-V4 model.py", kV4},
    {"ties to the higher position", "ties=higher", "sglang #31115; vllm #55122"},
    {"RMSNorm for the index key's LayerNorm", "", "aiter #3451; FastDeploy #7398", kV32},
    {"CUDA's rsqrtf, bit for bit", "", "pypto-lib #361"},
};

}  // namespace

std::span<const KnownChoice> known_choices() { return kChoices; }

std::vector<KnownChoice> choices_for(const model::Config& config) {
  std::vector<KnownChoice> choices;
  for (const KnownChoice& choice : kChoices)
    if (choice.families == kAll || (choice.families == kV4) == config.window.has_value())
      choices.push_back(choice);
  return choices;
}

std::string_view source_of(std::string_view knobs) {
  const auto found = std::ranges::find(kChoices, knobs, &KnownChoice::knobs);
  return found == std::end(kChoices) || knobs.empty() ? std::string_view() : found->source;
}

Numerics changed(const Numerics& base, std::string_view knobs) {
  const std::string asked = fmt::format(",{}", knobs);
  const std::string all = summary(base);
  std::string text = all.substr(0, all.find(','));
  for (size_t at = all.find(','); at != std::string::npos; at = all.find(',', at + 1)) {
    const std::string setting = all.substr(at, all.find(',', at + 1) - at);  // ",knob=value"
    if (asked.find(setting.substr(0, setting.find('=') + 1)) == std::string::npos) text += setting;
  }
  return parse_numerics(text + asked);
}

Effect effect_of(const Divergence& d) {
  return {d.changed_sets(),
          d.recall(),
          d.attention(),
          d.likelihood.kl,
          d.likelihood.nll_difference,
          d.likelihood.top_agreement()};
}

bool measurable(const Effect& effect, const Effect& noise) {
  const auto above = [](const Mean& a, const Mean& b) { return a.count > 0 && a.low() > b.high(); };
  return above(effect.changed_sets, noise.changed_sets) || above(effect.kl, noise.kl);
}

WhatIfAudit::WhatIfAudit(const model::Model& model, const Device& device, const plan::Options& options,
                         std::vector<int32_t> ids)
    : model_(model), device_(device), options_(options), ids_(std::move(ids)) {
  noise_ = effect_of(
      compare_plans(model_, plan_for(other_order(options_.numerics)), plan_for(options_.numerics), ids_));
}

plan::Plan WhatIfAudit::plan_for(const Numerics& numerics) const {
  plan::Options options = audit_options(options_, static_cast<int64_t>(ids_.size()) - 1);
  options.numerics = numerics;
  return plan::make(model_, device_, options);
}

WhatIf WhatIfAudit::run(const KnownChoice& choice) const {
  WhatIf result{choice, "", {}, false};
  if (choice.knobs.empty()) {
    result.refusal = "no knob says it";
    return result;
  }
  const Numerics numerics = changed(options_.numerics, choice.knobs);
  try {
    const plan::Plan base = plan_for(options_.numerics), other = plan_for(numerics);
    result.effect = effect_of(compare_plans(model_, other, base, ids_));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kPlan) throw;
    result.refusal = error.what();
    return result;
  }
  result.measurable = measurable(result.effect, noise_);
  return result;
}

}  // namespace fulgurite::audit
