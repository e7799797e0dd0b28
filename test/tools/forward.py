"""One forward pass of DeepSeek-V3.2 and GLM-5 in numpy, written from the specification of the models alone.

It shares no code with the library, so that the dumps it writes can be judged by it. A pass is a chain of
layers, each of which takes and returns a State; what it computes on the way goes into `dump` under the names
of docs/formats/trace.md.
"""

import dataclasses

import numpy as np

from attention import attend
from indexer import index_keys_and_queries, index_scores, select
from model import rope_table, rotate
from rounding import F32, F64, bf16, dot, fma, fp16, fp32, quantize, spread

STORE = {"fp32": fp32, "bf16": bf16, "fp16": fp16}


@dataclasses.dataclass(frozen=True)
class State:
    """Between layers: the residual sum, and the rows that a layer without an indexer attends to."""

    sum: np.ndarray  # fp32, not rounded
    topk: np.ndarray


class Pass:
    """What the operations of one layer share."""

    def __init__(self, model, choices, table=None):
        self.model, self.choices, self.table = model, choices, table
        self.store = STORE[choices.activation]

    def dot(self, x, w):
        return dot(x, w, self.choices.sum_step)

    def root(self, mean_square, eps):
        exact = fp32(1 / np.sqrt(fp32(mean_square + F32(eps)).astype(F64)))
        return fp32(exact.astype(F64) * (1 + self.choices.rsqrt_error))

    def rms_norm(self, x, weight, eps):
        mean_square = fp32(np.square(x.astype(F64)).mean(-1, keepdims=True))
        return self.store(weight * (x * self.root(mean_square, eps)))

    def power_of_two(self):
        scale = self.choices.activation_scale
        return self.model.power_of_two if scale == "checkpoint" else scale == "pow2"

    def fp8_linear(self, x, matrix):
        """Not yet rounded to storage. Codes of a K block, promoted with both scales to an fp32 sum."""
        codes, scale = quantize(x, 128, self.power_of_two())
        weights, row_scale, step = matrix.codes(), matrix.scale_of_rows(), matrix.block[1]
        total = np.zeros((len(x), len(weights)), F32)
        for block in range(row_scale.shape[-1]):
            columns = slice(step * block, step * (block + 1))
            partial = self.dot(codes[:, columns], weights[:, columns])
            total = fma(partial, scale[:, step * block // 128, None] * row_scale[None, :, block], total)
        return total

    def linear(self, x, name):
        matrix = self.model.matrix(name)
        if self.choices.activation_quant and matrix.quantized:
            return self.store(self.fp8_linear(x, matrix))
        return self.store(self.dot(x, matrix.exact()))

    def used_in_bf16(self, matrix):
        """A quantized weight where a product of bf16 is wanted."""
        return matrix.exact() if self.choices.activation == "fp32" else matrix.in_bf16()

    def residual(self, total, block):
        """The stream as stored plus a block's output, unrounded."""
        return self.store(total) + block

    def norm_reads(self, total):
        return self.store(total) if self.choices.norm_input == "rounded" else total


def cached(ops, latent, k_rope):
    """What attention reads of a row of the latent cache."""
    cache = ops.choices.latent_cache
    if cache == "fp32":
        return latent, k_rope
    if cache == "bf16":
        return bf16(latent), bf16(k_rope)
    codes, scale = quantize(latent, 128, True)
    return ops.store(codes * spread(scale, 128, latent.shape[-1])), bf16(k_rope)


def attention_block(ops, x, prefix, topk, dump):
    """[tokens, hidden] after the output projection, and the rows attended to."""
    model, tokens = ops.model, len(x)
    q_latent = ops.rms_norm(
        ops.linear(x, prefix + "q_a_proj"), model.tensors[prefix + "q_a_layernorm.weight"], model.latent_eps
    )
    q = ops.linear(q_latent, prefix + "q_b_proj").reshape(tokens, model.heads, model.nope + model.rope)
    style = ops.choices.main_rope
    q = np.concatenate([q[..., : model.nope], ops.store(rotate(q[..., model.nope :], ops.table, style))], -1)
    latent, k_rope = np.split(ops.linear(x, prefix + "kv_a_proj_with_mqa"), [-model.rope], -1)
    latent = ops.rms_norm(latent, model.tensors[prefix + "kv_a_layernorm.weight"], model.latent_eps)
    latent, k_rope = cached(ops, latent, ops.store(rotate(k_rope, ops.table, style)))
    dump.update(q_latent=q_latent, q=q, kv_latent=latent, k_rope=k_rope)
    if prefix + "indexer.wk.weight" in model.tensors:
        index = index_keys_and_queries(ops, x, q_latent, prefix + "indexer.")
        scores = index_scores(ops, index)
        topk = select(scores, model.topk, ops.choices)
        dump.update(index_q=index.q, index_k=index.k, index_weights=index.weights, index_scores=scores)
    heads = attend(ops, q, latent, k_rope, topk, model.matrix(prefix + "kv_b_proj"))
    out = ops.linear(heads.reshape(tokens, -1), prefix + "o_proj")
    dump.update(topk=topk, attn_heads=heads, attn_out=out)
    return out, topk


def route(ops, x, prefix):
    """Ids, ascending, and weights [tokens, experts per token]."""
    config = ops.model.config
    tokens, groups, keep = len(x), config["n_group"], config["topk_group"]
    logits = ops.dot(x, ops.model.tensors[prefix + "gate.weight"])
    score = fp32(1 / (1 + np.exp(-logits.astype(F64))))
    bias = ops.model.tensors[prefix + "gate.e_score_correction_bias"]
    biased = score + (bf16(bias) if ops.choices.router_bias == "bf16" else bias)
    grouped = biased.reshape(tokens, groups, -1)
    two = np.sort(grouped, -1)[..., -2:]
    best = np.argsort(-(two[..., 1] + two[..., 0]), -1, kind="stable")[:, :keep]
    open_group = np.zeros((tokens, groups), bool)
    np.put_along_axis(open_group, best, True, -1)
    biased = np.where(np.repeat(open_group, grouped.shape[-1], -1), biased, F32(-np.inf))
    ids = np.sort(np.argsort(-biased, -1, kind="stable")[:, : config["num_experts_per_tok"]], -1)
    chosen = np.take_along_axis(score, ids, -1)
    total = np.zeros(tokens, F32)
    for column in chosen.T:
        total = total + column
    return ids, chosen / total[:, None] * F32(config["routed_scaling_factor"])


def mlp(ops, x, prefix):
    gate, up = ops.linear(x, prefix + "gate_proj"), ops.linear(x, prefix + "up_proj")
    silu = gate / (1 + fp32(np.exp(-gate.astype(F64))))
    return ops.linear(ops.store(silu * up), prefix + "down_proj")


def feed_forward(ops, x, layer, dump):
    prefix = f"model.layers.{layer}.mlp."
    if ops.model.dense(layer):
        return mlp(ops, x, prefix)
    ids, weights = route(ops, x, prefix)
    dump.update(expert_ids=ids, expert_weights=weights)
    total = np.zeros_like(x)
    for expert in range(ops.model.config["n_routed_experts"]):
        row, place = np.nonzero(ids == expert)
        if len(row):
            y = mlp(ops, x[row], f"{prefix}experts.{expert}.")
            total[row] = fma(weights[row, place][:, None], y, total[row])
    return ops.store(total + mlp(ops, x, prefix + "shared_experts."))


def layer_pass(model, choices, layer, state):
    """The next State, and the layer's tensors."""
    ops, dump = Pass(model, choices, rope_table(model.frequencies, np.arange(len(state.sum)))), {}
    prefix = f"model.layers.{layer}."
    x = ops.rms_norm(ops.norm_reads(state.sum), model.tensors[prefix + "input_layernorm.weight"], model.eps)
    out, topk = attention_block(ops, x, prefix + "self_attn.", state.topk, dump)
    total = ops.residual(state.sum, out)
    y = ops.rms_norm(
        ops.norm_reads(total), model.tensors[prefix + "post_attention_layernorm.weight"], model.eps
    )
    total = ops.residual(total, feed_forward(ops, y, layer, dump))
    dump["hidden"] = ops.store(total)
    return State(total, topk), {f"layer{layer}.{name}": value for name, value in dump.items()}


def begin(model, choices, ids):
    return State(STORE[choices.activation](model.tensors["model.embed_tokens.weight"][ids]), None)


def logits(model, choices, state):
    ops = Pass(model, choices)
    x = ops.rms_norm(ops.norm_reads(state.sum), model.tensors["model.norm.weight"], model.eps)
    return ops.dot(x, model.tensors["lm_head.weight"])


def run(model, choices, ids, first_layer=0, states=()):
    """The tensors of a dump, and the State before each layer.

    `states` are those of another pass that is the same before first_layer.
    """
    states = list(states[: first_layer + 1]) or [begin(model, choices, ids)]
    dump = {"input_ids": ids}
    for layer in range(first_layer, model.layers):
        state, tensors = layer_pass(model, choices, layer, states[-1])
        states.append(state)
        dump.update(tensors)
    dump["logits"] = logits(model, choices, states[-1])
    return dump, states
