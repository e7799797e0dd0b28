"""What an implementation decides for itself: legitimate choices, then mistakes that engines have made."""
import dataclasses


@dataclasses.dataclass(frozen=True)
class Choices:
    activation: str = "fp32"             # storage between operations: fp32, bf16, fp16
    activation_quant: bool = False       # e4m3 codes for the inputs of linears with quantized weights
    activation_scale: str = "checkpoint"  # fp32, pow2; checkpoint: pow2 where config.json has scale_fmt ue8m0
    norm_input: str = "unrounded"        # the residual sum that a norm reads: unrounded, rounded
    rsqrt_error: float = 0.0             # relative error of every reciprocal square root
    mla: str = "absorbed"                # absorbed, expanded
    latent_cache: str = "fp32"           # fp32, bf16, fp8
    indexer_wk: str = "fp32"             # fp32: exact; bf16: rounded at load; fp8: as a quantized linear
    gate: str = "fp32"                   # rounding of the head gate's sum: fp32, bf16
    gate_weight: str = "stored"          # stored, fp8
    hadamard: str = "none"               # none, q, both
    index_quant: str = "none"            # none, fp8, fp4
    index_scale: str = "pow2"            # of index q and keys: pow2, fp32
    indexer_rope: str = "family"         # family, interleaved, half_split
    index_norm: str = "fp32"             # parameters of the index key's norm: fp32, bf16
    index_norm_eps: float = 1e-6
    softmax_tile: int = 0                # list entries that share a maximum; 0: all
    softmax_merge: str = "running"       # running, independent
    softmax_denominator: str = "unrounded"  # unrounded, rounded
    softmax_p: str = "fp32"              # fp32, bf16
    qk_operands: str = "fp32"            # fp32, bf16
    ties: str = "lower"                  # lower, higher
    kv_quant: str = "none"               # DeepSeek-V4's kv rows: none, e4m3
    shared_clamp: bool = True            # of DeepSeek-V4's shared expert
    sum_step: int = 0                    # columns that a sum takes before it is rounded to fp32; 0: all

    # Mistakes.
    index_key_norm: str = "layer"        # rms: without mean and bias
    index_relu: bool = True              # False: negative scores of a head count too
    key_scale: str = ""                  # of index keys alone, where it differs from index_scale
    main_rope: str = "interleaved"       # half_split: in the halves of the 64 columns
    lost_candidates: int = 0             # of a selection's best candidates, as when a bin overflows
    yarn_softmax_factor: bool = True     # False: the softmax scale without YaRN's m^2
    router_bias: str = "fp32"            # bf16


FP32 = Choices()
SERVING = Choices(activation="bf16", activation_quant=True, latent_cache="fp8", indexer_wk="bf16",
                  hadamard="both", index_quant="fp8", softmax_tile=64, softmax_p="bf16", qk_operands="bf16")
PRESETS = {"fp32": FP32, "serving": SERVING}


def preset(numerics, model):
    """What an engine that claims these numerics computes of a model."""
    if numerics == "serving" and model == "tiny-v4":
        return dataclasses.replace(SERVING, index_quant="fp4", kv_quant="e4m3", shared_clamp=False)
    return PRESETS[numerics]
