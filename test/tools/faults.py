"""25 faults that engines have had, as changes of a correct pass, with what a bisection has to say about each.

A fault is here only where these models can show it. Left out because they cannot: wk's scale dropped in tiny-v32, whose three
scales are equal, so that LayerNorm takes the factor out again (tiny-glm5 has it); wk rounded to bf16 in tiny-v32, whose scales
are powers of two; the roots `two_step`, an ulp in few rows, and x86_12, which no numpy can compute; Hadamard on both sides
without quantization, which changes nothing; DeepSeek-V4's shared expert clamped, and its router's bias in bf16, which change no
bit of tiny-v4.
"""
import dataclasses

import numpy as np

from choices import preset
from rounding import up_to_power_of_two

NONE = "none"


@dataclasses.dataclass(frozen=True)
class Fault:
    name: str
    source: str          # the public report
    model: str
    numerics: str        # what the engine claims to compute
    stage: str           # where a dump shows it first
    knob: str            # the single choice that explains it, or NONE
    change: dict = dataclasses.field(default_factory=dict)  # of Choices
    first_layer: int = 0  # layers before it are right
    weights: object = None  # of the model: other tensors

    def choices(self):
        return dataclasses.replace(preset(self.numerics, self.model), **self.change)


def _without_wk_scale(model):
    """fp8 codes of wk taken for values."""
    names = [name for name in model.tensors if name.endswith("indexer.wk.weight_scale_inv")]
    return {name: np.ones_like(model.tensors[name]) for name in names}


def _scales_rounded_up(model):
    """Every scale made a power of two, the codes left as they are."""
    names = [name for name in model.tensors if name.endswith("weight_scale_inv")]
    return {name: up_to_power_of_two(model.tensors[name]) for name in names}


def _v32(name, source, stage, knob, numerics="serving", **rest):
    return Fault(name, source, "tiny-v32", numerics, stage, knob, **rest)


def _glm5(name, source, stage, knob, numerics="serving", **rest):
    return Fault(name, source, "tiny-glm5", numerics, stage, knob, **rest)


def _v4(name, source, stage, knob, numerics="serving", **rest):
    return Fault(name, source, "tiny-v4", numerics, stage, knob, **rest)


FAULTS = [
    # The index key.
    _v32("wk as an fp8 linear", "vllm #38870", "layer0.index_k", "indexer_wk=fp8", change={"indexer_wk": "fp8"}),
    _glm5("wk rounded to bf16 at load", "vllm #38928", "layer2.index_k", "indexer_wk=bf16", "fp32",
          change={"indexer_wk": "bf16"}, first_layer=2),
    _v32("k_norm's parameters in bf16", "aiter #3451, ATOM #1359", "layer0.index_k", "index_norm=bf16",
         change={"index_norm": "bf16"}),
    _glm5("k_norm's eps 1e-5, a class's default", "sglang dsa_indexer.py@00d38808", "layer0.index_k",
          "index_norm_eps=1e-5", "fp32", change={"index_norm_eps": 1e-5}),
    _v32("k_norm as an RMS norm", "FastDeploy #7398", "layer0.index_k", NONE, change={"index_key_norm": "rms"}),
    _glm5("wk's scale dropped", "trt-llm #18658", "layer0.index_k", NONE, weights=_without_wk_scale),

    # Its place in RoPE and Hadamard.
    _v32("indexer's RoPE interleaved", "sglang #13530, #30088", "layer0.index_q", "indexer_rope=interleaved",
         change={"indexer_rope": "interleaved"}),
    _glm5("indexer's RoPE in halves", "transformers #46842, ATOM #1502", "layer0.index_q", "indexer_rope=half_split",
          change={"indexer_rope": "half_split"}),
    _v32("no Hadamard", "vllm deepseek_v32/common/kernels.py@01b9c661", "layer0.index_weights", "hadamard=none",
         change={"hadamard": "none"}),
    _v32("Hadamard of q alone", "sglang dsa_indexer.py@00d38808, _maybe_rotate", "layer1.index_scores", "hadamard=q",
         change={"hadamard": "q"}, first_layer=1),

    # Its quantization.
    _v32("scales of index q and k in fp32", "trt-llm #8701", "layer0.index_weights", "index_scale=fp32",
         change={"index_scale": "fp32"}),
    _v32("index q and k in bf16", "sglang #30012", "layer0.index_weights", "index_quant=none",
         change={"index_quant": "none"}),
    _v32("index q and k in fp4", "sglang #26209", "layer1.index_weights", "index_quant=fp4",
         change={"index_quant": "fp4"}, first_layer=1),

    # The head gate.
    _v32("head gate rounded to bf16", "sglang #27705, vllm #38684", "layer2.index_weights", "gate=bf16",
         change={"gate": "bf16"}, first_layer=2),

    # The selection.
    _glm5("equal scores to the higher position", "sglang #31115", "layer0.topk", "ties=higher", change={"ties": "higher"}),
    _v32("the best candidates lost", "sglang #36807", "layer1.topk", NONE, change={"lost_candidates": 2}, first_layer=1),

    # Linears.
    _v32("activation scales in fp32", "vllm #57486", "layer0.q_latent", "activation_scale=fp32",
         change={"activation_scale": "fp32"}),
    _glm5("activation scales made powers of two", "sglang #28662, vllm #58157", "layer0.q_latent", "activation_scale=pow2",
          change={"activation_scale": "pow2"}),
    _v32("fp16 activations", "sglang #22300", "layer0.q_latent", "activation=fp16", change={"activation": "fp16"}),
    _glm5("weight scales rounded up, codes kept", "transformers #47030, vllm #22399", "layer0.q_latent", NONE,
          weights=_scales_rounded_up),

    # Norms, cache, attention, router.
    _glm5("an approximate reciprocal root", "pypto-lib #361", "layer0.q_latent", "rsqrt=error:1e-4", "fp32",
          change={"rsqrt_error": 1e-4}),
    _v32("latent cached in bf16", "DeepSeek-V3.2-Exp before its kv quantization; transformers 5.17", "layer0.kv_latent",
         "latent_cache=bf16", change={"latent_cache": "bf16"}),
    _v4("kv rows not quantized", "DeepSeek-V4 inference/kernel.py, act_quant(inplace=True)", "layer0.kv", "kv_quant=none",
        change={"kv_quant": "none"}),
    _v32("P rounded to bf16", "pypto-lib #361", "layer1.attn_heads", "softmax_p=bf16", "fp32",
         change={"softmax_p": "bf16"}, first_layer=1),
    _v32("the router's bias in bf16", "sglang #31213", "layer3.expert_ids", NONE, change={"router_bias": "bf16"},
         first_layer=3),
]
