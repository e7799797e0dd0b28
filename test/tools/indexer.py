"""The lightning indexer: index keys, queries and head weights, their scores, and the choice of rows."""

import dataclasses

import numpy as np

from model import Matrix, rotate
from rounding import F32, F64, bf16, e2m1, fma, fp32, hadamard, quantize, spread


@dataclasses.dataclass
class Index:
    q: np.ndarray  # [tokens, heads, dim] after RoPE
    k: np.ndarray  # [tokens, dim]
    weights: np.ndarray  # [tokens, heads] with all factors
    q_codes: np.ndarray  # what is multiplied: after Hadamard and quantization
    k_codes: np.ndarray
    k_scale: np.ndarray  # [tokens], or None where the codes are values


def _key_norm(ops, x, prefix):
    choices = ops.choices
    weight, bias = ops.model.tensors[prefix + "weight"], ops.model.tensors[prefix + "bias"]
    if choices.index_norm == "bf16":
        weight, bias = bf16(weight), bf16(bias)
    if choices.index_key_norm == "rms":
        mean, bias = F32(0), F32(0)
    else:
        mean = fp32(x.astype(F64).mean(-1, keepdims=True))
    d = x - mean
    variance = fp32(np.square(d.astype(F64)).mean(-1, keepdims=True))
    return ops.store(d * ops.root(variance, choices.index_norm_eps) * weight + bias)


def _key_projection(ops, x, name):
    matrix, choices = ops.model.matrix(name), ops.choices
    if choices.indexer_wk == "fp8":
        return ops.store(ops.fp8_linear(x, matrix))
    return ops.store(ops.dot(x, matrix.in_bf16() if choices.indexer_wk == "bf16" else matrix.exact()))


def _in_codes(ops, values):
    """A weight without codes, quantized when it is loaded."""
    rows, columns = values.shape
    codes, scales = np.empty_like(values), []
    for at in range(0, columns, 128):
        block, scale = quantize(values[:, at : at + 128].reshape(1, -1), rows * 128, ops.model.power_of_two)
        codes[:, at : at + 128] = block.reshape(rows, -1)
        scales.append(scale[0, 0])
    return Matrix(codes, np.array([scales], F32))


def _gate(ops, x, name):
    """The head gate's sum, which is fp32 in whatever the stream is stored."""
    weight = ops.model.tensors[name + ".weight"]
    total = (
        ops.fp8_linear(x, _in_codes(ops, weight)) if ops.choices.gate_weight == "fp8" else ops.dot(x, weight)
    )
    return bf16(total) if ops.choices.gate == "bf16" else total


def _rope_first(ops, x):
    """The first 64 columns turn."""
    style = ops.choices.indexer_rope
    turned = rotate(
        x[..., : ops.model.rope], ops.table, ops.model.indexer_rope if style == "family" else style
    )
    return np.concatenate([ops.store(turned), x[..., ops.model.rope :]], -1)


def _quantized(ops, x, scale_format):
    """What is multiplied, and its scale where it is codes."""
    kind = ops.choices.index_quant
    if kind == "none":
        return x, None
    power_of_two = scale_format == "pow2"
    if kind == "fp4":
        codes, scale = quantize(x, 32, power_of_two, e2m1, 6, 6 * 2.0**-126)
        return codes * spread(scale, 32, x.shape[-1]), None
    codes, scale = quantize(x, 128, power_of_two)
    return codes, scale[..., 0]


def index_keys_and_queries(ops, x, q_latent, prefix):
    model, choices = ops.model, ops.choices
    k = _rope_first(ops, _key_norm(ops, _key_projection(ops, x, prefix + "wk"), prefix + "k_norm."))
    q = ops.linear(q_latent, prefix + "wq_b").reshape(len(x), model.index_heads, model.index_dim)
    q = _rope_first(ops, q)
    turned_q = ops.store(hadamard(q)) if choices.hadamard in ("q", "both") else q
    turned_k = ops.store(hadamard(k)) if choices.hadamard == "both" else k
    q_codes, q_scale = _quantized(ops, turned_q, choices.index_scale)
    k_codes, k_scale = _quantized(ops, turned_k, choices.key_scale or choices.index_scale)
    weights = _gate(ops, x, prefix + "weights_proj") * F32(model.index_heads**-0.5)
    if q_scale is not None:
        weights = weights * q_scale
    return Index(q, k, weights * F32(model.index_dim**-0.5), q_codes, k_codes, k_scale)


def index_scores(ops, index):
    """[tokens, tokens], -infinity where a key lies after its query."""
    tokens = len(index.q)
    scores = np.zeros((tokens, tokens), F32)
    for head in range(ops.model.index_heads):
        product = ops.dot(index.q_codes[:, head], index.k_codes)
        if ops.choices.index_relu:
            product = np.maximum(product, F32(0))
        scores = fma(index.weights[:, head, None], product, scores)
    if index.k_scale is not None:
        scores = index.k_scale * scores
    return np.where(np.tri(tokens, dtype=bool), scores, F32(-np.inf))


def select(scores, count, choices):
    return select_visible(scores, np.arange(len(scores)) + 1, count, choices)


def select_visible(scores, visible, count, choices):
    """The best `count` of each row's first `visible` candidates, ascending, then -1."""
    rows = np.full((len(scores), min(count, scores.shape[1])), -1, np.int32)
    for t, candidates in enumerate(visible):
        seen = scores[t, :candidates]
        order = np.argsort(-seen, kind="stable")
        if choices.ties == "higher":
            order = candidates - 1 - np.argsort(-seen[::-1], kind="stable")
        if candidates >= count + choices.lost_candidates:
            order = order[choices.lost_candidates :]
        chosen = np.sort(order[:count])
        rows[t, : len(chosen)] = chosen
    return rows
