"""25 faults that engines have had, as changes of a correct pass, with what a bisection has to say about each.

A fault is here only where these models can show it. Left out because they cannot: wk's scale dropped in
tiny-v32, whose three scales are equal, so that LayerNorm takes the factor out again (tiny-glm5 has it); wk
rounded to bf16 in tiny-v32, whose scales are powers of two; the roots `two_step`, an ulp in few rows, and
x86_12, which numpy cannot compute; Hadamard on both sides without quantization, which changes nothing;
DeepSeek-V4's shared expert clamped and its router's bias in bf16, which change no bit of tiny-v4.
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


# Columns: name, source, model, claimed numerics, stage, knob, change of Choices, and what else a Fault has.
_V32, _GLM5, _V4 = "tiny-v32", "tiny-glm5", "tiny-v4"
_ROWS = [
    # The index key.
    ("wk as an fp8 linear", "vllm #38870", _V32, "serving",
     "layer0.index_k", "indexer_wk=fp8", {"indexer_wk": "fp8"}),
    ("wk rounded to bf16 at load", "vllm #38928", _GLM5, "fp32",
     "layer2.index_k", "indexer_wk=bf16", {"indexer_wk": "bf16"}, {"first_layer": 2}),
    ("k_norm's parameters in bf16", "aiter #3451, ATOM #1359", _V32, "serving",
     "layer0.index_k", "index_norm=bf16", {"index_norm": "bf16"}),
    ("k_norm's eps 1e-5, a class's default", "sglang dsa_indexer.py@00d38808", _GLM5, "fp32",
     "layer0.index_k", "index_norm_eps=1e-5", {"index_norm_eps": 1e-5}),
    ("k_norm as an RMS norm", "FastDeploy #7398", _V32, "serving",
     "layer0.index_k", NONE, {"index_key_norm": "rms"}),
    ("wk's scale dropped", "trt-llm #18658", _GLM5, "serving",
     "layer0.index_k", NONE, {}, {"weights": _without_wk_scale}),

    # Its place in RoPE and Hadamard.
    ("indexer's RoPE interleaved", "sglang #13530, #30088", _V32, "serving",
     "layer0.index_q", "indexer_rope=interleaved", {"indexer_rope": "interleaved"}),
    ("indexer's RoPE in halves", "transformers #46842, ATOM #1502", _GLM5, "serving",
     "layer0.index_q", "indexer_rope=half_split", {"indexer_rope": "half_split"}),
    ("no Hadamard", "vllm deepseek_v32/common/kernels.py@01b9c661", _V32, "serving",
     "layer0.index_weights", "hadamard=none", {"hadamard": "none"}),
    ("Hadamard of q alone", "sglang dsa_indexer.py@00d38808, _maybe_rotate", _V32, "serving",
     "layer1.index_scores", "hadamard=q", {"hadamard": "q"}, {"first_layer": 1}),

    # Its quantization.
    ("scales of index q and k in fp32", "trt-llm #8701", _V32, "serving",
     "layer0.index_weights", "index_scale=fp32", {"index_scale": "fp32"}),
    ("index q and k in bf16", "sglang #30012", _V32, "serving",
     "layer0.index_weights", "index_quant=none", {"index_quant": "none"}),
    ("index q and k in fp4", "sglang #26209", _V32, "serving",
     "layer1.index_weights", "index_quant=fp4", {"index_quant": "fp4"}, {"first_layer": 1}),

    # The head gate and the selection.
    ("head gate rounded to bf16", "sglang #27705, vllm #38684", _V32, "serving",
     "layer2.index_weights", "gate=bf16", {"gate": "bf16"}, {"first_layer": 2}),
    ("equal scores to the higher position", "sglang #31115", _GLM5, "serving",
     "layer0.topk", "ties=higher", {"ties": "higher"}),
    ("the best candidates lost", "sglang #36807", _V32, "serving",
     "layer1.topk", NONE, {"lost_candidates": 2}, {"first_layer": 1}),

    # Linears.
    ("activation scales in fp32", "vllm #57486", _V32, "serving",
     "layer0.q_latent", "activation_scale=fp32", {"activation_scale": "fp32"}),
    ("activation scales made powers of two", "sglang #28662, vllm #58157", _GLM5, "serving",
     "layer0.q_latent", "activation_scale=pow2", {"activation_scale": "pow2"}),
    ("fp16 activations", "sglang #22300", _V32, "serving",
     "layer0.q_latent", "activation=fp16", {"activation": "fp16"}),
    ("weight scales rounded up, codes kept", "transformers #47030, vllm #22399", _GLM5, "serving",
     "layer0.q_latent", NONE, {}, {"weights": _scales_rounded_up}),

    # Norms, caches, attention, router.
    ("an approximate reciprocal root", "pypto-lib #361", _GLM5, "fp32",
     "layer0.q_latent", "rsqrt=error:1e-4", {"rsqrt_error": 1e-4}),
    ("latent cached in bf16", "DeepSeek-V3.2-Exp inference/model.py, first release", _V32, "serving",
     "layer0.kv_latent", "latent_cache=bf16", {"latent_cache": "bf16"}),
    ("kv rows not quantized", "DeepSeek-V4 inference/kernel.py, act_quant in place", _V4, "serving",
     "layer0.kv", "kv_quant=none", {"kv_quant": "none"}),
    ("P rounded to bf16", "pypto-lib #361", _V32, "fp32",
     "layer1.attn_heads", "softmax_p=bf16", {"softmax_p": "bf16"}, {"first_layer": 1}),
    ("the router's bias in bf16", "sglang #31213", _V32, "serving",
     "layer3.expert_ids", NONE, {"router_bias": "bf16"}, {"first_layer": 3}),
]
FAULTS = [Fault(*row[:7], **(row[7] if len(row) > 7 else {})) for row in _ROWS]
