#include "fulgurite/audit/profiles.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "fulgurite/core/error.h"

namespace fulgurite::audit {
namespace {

using enum ProfileKnob::Families;

constexpr ProfileKnob kDeepseek[] = {
    {kNotV4, "indexer_wk=fp8", "DeepSeek-V3.2-Exp inference/model.py, Indexer: wk is an fp8 linear", ""},
    {kNotV4, "mla=expanded", "DeepSeek-V3.2-Exp inference/model.py, MLA.forward with a mask",
     "its decoding is absorbed; a dump of a prompt is not"},
    {kNotV4, "softmax_tile=none", "DeepSeek-V3.2-Exp inference/model.py, MLA.forward: one softmax",
     "it rounds P after the division, which no knob says"},
    {kV4, "kv_quant=none", "DeepSeek-V4 inference/kernel.py, act_quant in place",
     "of the revision that was read; later copies cast to e4m3"},
    {kV4, "latent_cache=bf16", "follows from kv_quant=none", "as kv_quant"},
};

constexpr ProfileKnob kHuggingFace[] = {
    {kV4, "shared_clamp=on", "transformers 5.17, modeling_deepseek_v4: the shared expert is clamped", ""},
};

constexpr ProfileKnob kSglang[] = {
    {kV32, "indexer_wk=fp8",
     "sglang #30111, dsa_indexer.py@00d38808: half-split runs the unfused path, wk quantized", ""},
    {kGlm5, "gate=bf16", "sglang #27705, dsa_indexer.py@00d38808: wk and the gate fused, bf16 out", ""},
    {kGlm5, "hadamard=none", "dsa_indexer.py@00d38808, _maybe_rotate: the fused path leaves it out", ""},
    {kGlm5, "index_scale=fp32", "jit_kernel/csrc/deepseek_v32/indexer_k.cuh@073235b8: max(1e-4, amax) / 448",
     "of keys; the scale of queries was not read"},
    {kNotV4, "index_norm_eps=1e-5", "dsa_indexer.py@00d38808 gives no eps",
     "the default of its class was not read"},
    {kAll, "activation_scale=fp32",
     "fp8_utils.py@002ed7e4, configurer.py@0808b892: UE8M0 on SM100 and SM120 alone",
     "on those devices: pow2"},
    {kNotV4, "latent_cache=fp8", "sglang's fp8 KV cache, FlashMLA's rows",
     "bf16 unless the server is told so"},
    {kV4, "index_quant=fp8", "sglang #26209: fp4 is an option", ""},
};

constexpr ProfileKnob kVllm[] = {
    {kNotV4, "gate=bf16", "vllm #38684, deepseek_v2.py@002d6073: wk and the gate fused, bf16 out", ""},
    {kNotV4, "indexer_wk=bf16", "vllm #38928: wk dequantized to bf16 at load", ""},
    {kNotV4, "hadamard=none", "vllm deepseek_v32/common/kernels.py@01b9c661: never applied", ""},
    {kNotV4, "index_scale=pow2", "kernels.py@01b9c661: 2^ceil(log2(amax / 448))",
     "its floor for queries is 1e-10, which no knob says"},
    {kNotV4, "index_norm_eps=1e-6", "vllm deepseek_v2.py@002d6073", ""},
    {kAll, "activation_scale=pow2", "scaled_mm/deep_gemm.py@0236228d: VLLM_USE_DEEP_GEMM_E8M0 is on",
     "on Hopper another variable decides, whose default was not read"},
    {kV4, "index_quant=fp8", "vllm deepseek_v4/attention.py@0484480b: mxfp4 is an option of SM100", ""},
};

constexpr ProfileKnob kPypto[] = {
    {kV4, "softmax_merge=independent", "pypto-lib #361, 01a25257: tiles merged in order", ""},
    {kV4, "softmax_denominator=rounded", "pypto-lib #361, 01a25257: sum of the rounded P",
     "unrounded at 634e77bd"},
    {kV4, "qk_operands=fp32", "pypto-lib #361, 01a25257", "bf16 at 634e77bd"},
    {kV4, "rsqrt=two_step", "pypto-lib #361, 01a25257: recip(sqrt) in the golden", "rsqrt at 634e77bd"},
    {kV4, "kv_quant=none", "pypto-lib 634e77bd: rows in bf16", ""},
    {kV4, "latent_cache=bf16", "follows from kv_quant=none", ""},
    {kV4, "shared_clamp=on", "pypto-lib 634e77bd", ""},
    {kV4, "activation_quant=none", "pypto-lib 634e77bd", "it quantizes to int8, which no knob says"},
};

constexpr Profile kProfiles[] = {
    {"deepseek", "serving", "the inference code published with the models (V3.2 since 2025-11-17)", kDeepseek,
     false, "rsqrtf of CUDA; V3.2's scores in bf16; V4's index scores and gate in bf16"},
    {"huggingface", "fp32", "transformers 5.17, eager, fp32: the recorded oracles", kHuggingFace, false,
     "in bf16 it rounds tables of RoPE, norms and experts' sums at other places"},
    {"sglang", "serving", "SGLang, files as of autumn 2026", kSglang, false,
     "V3.2's and GLM-5's paths differ; which rows tie is left to chance"},
    {"vllm", "serving", "vLLM, files as of autumn 2026", kVllm, false,
     "its fused kernel quantizes index keys before a rounding to bf16; DeepSeek-V4's gate in bf16"},
    {"pypto", "serving", "pypto-lib, golden of #361 (01a25257) and HEAD 634e77bd", kPypto, true,
     "int8 codes of activations, index queries and keys; residual streams in fp32"},
};

bool speaks_of(const ProfileKnob& knob, const model::Config& config) {
  const bool v4 = config.window.has_value(), glm5 = config.family == model::Family::kGlm5;
  switch (knob.families) {
    case kAll:
      return true;
    case kV32:
      return !v4 && !glm5;
    case kGlm5:
      return glm5;
    case kV4:
      return v4;
    case kNotV4:
      return !v4;
  }
  return false;
}

}  // namespace

std::span<const Profile> profiles() { return kProfiles; }

std::vector<std::string> profile_names() {
  std::vector<std::string> names;
  for (const Profile& profile : kProfiles) names.emplace_back(profile.name);
  return names;
}

std::vector<ProfileKnob> knobs_for(const Profile& profile, const model::Config& config) {
  std::vector<ProfileKnob> knobs;
  std::ranges::copy_if(profile.knobs, std::back_inserter(knobs),
                       [&](const ProfileKnob& knob) { return speaks_of(knob, config); });
  return knobs;
}

std::string profile_numerics(std::string_view name, const model::Config& config) {
  const auto found = std::ranges::find(kProfiles, name, &Profile::name);
  if (found == std::end(kProfiles))
    fail(ErrorKind::kRequest, "profile: expected one of {}, found \"{}\"", fmt::join(profile_names(), ", "),
         printable(name, 80));
  if (found->v4_alone && !config.window)
    fail(ErrorKind::kRequest, "profile {}: what is known of it runs DeepSeek-V4 alone, the model is {}", name,
         model::name(config.family));
  std::string text(found->preset);
  for (const ProfileKnob& knob : knobs_for(*found, config)) text += fmt::format(",{}", knob.setting);
  return text;
}

}  // namespace fulgurite::audit
