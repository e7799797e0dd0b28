"""Attention over the chosen rows of the latent cache."""

import numpy as np

from rounding import F32, F64, bf16, fma, fp32

_QUERIES_AT_ONCE = 32  # bounds the gathered keys


def _softmax_scale(model, choices):
    factor = model.yarn_factor if choices.yarn_softmax_factor else 1.0
    return F32((model.nope + model.rope) ** -0.5 * factor)


def _exp(x):
    return fp32(np.exp(x.astype(F64)))


def _tile(ops, scores, values, maximum):
    """Sum and output of one tile of list entries against `maximum`."""
    choices = ops.choices
    p = _exp(scores - maximum[..., None])
    rounded = bf16(p) if choices.softmax_p == "bf16" else p
    summed = rounded if choices.softmax_denominator == "rounded" else p
    return fp32(summed.astype(F64).sum(-1)), ops.dot(rounded, np.swapaxes(values, -1, -2))


def softmax(ops, scores, values, sink=None):
    """scores [queries, heads, list], -infinity where there is no row; values [queries, list, width]."""
    choices, length = ops.choices, scores.shape[-1]
    step = choices.softmax_tile or length
    maximum = np.full(scores.shape[:-1], -np.inf, F32)
    total = np.zeros(scores.shape[:-1], F32)
    out = np.zeros(scores.shape[:-1] + values.shape[-1:], F32)
    for at in range(0, length, step):
        tile, rows = scores[..., at : at + step], values[..., at : at + step, :]
        own = tile.max(-1)
        if not np.isfinite(own).any():
            continue
        now = np.maximum(maximum, own)
        alpha = _exp(maximum - now)
        if choices.softmax_merge == "independent":
            some = np.isfinite(own)
            tile_sum, tile_out = _tile(ops, tile, rows, np.where(some, own, F32(0)))
            beta = np.where(some, _exp(own - now), F32(0))
            tile_sum, tile_out = tile_sum * beta, tile_out * beta[..., None]
            total = total * alpha + tile_sum
        else:
            tile_sum, tile_out = _tile(ops, tile, rows, now)
            total = fma(total, alpha, tile_sum)
        out = out * alpha[..., None] + tile_out
        maximum = now
    if sink is not None:
        total = total + _exp(sink - maximum)
    return out / total[..., None]


def _operand(ops, x):
    return bf16(x) if ops.choices.qk_operands == "bf16" else x


def _attend_latent(ops, q, latent, k_rope, lists, w_uk, w_uv):
    """In latent space: queries go through W_UK, outputs through W_UV."""
    nope = ops.model.nope
    queries = np.stack([ops.store(ops.dot(q[:, h, :nope], w_uk[h].T)) for h in range(len(w_uk))], 1)
    queries = _operand(ops, np.concatenate([queries, q[..., nope:]], -1)).astype(F64)
    keys = _operand(ops, np.concatenate([latent, k_rope], -1)).astype(F64)
    scale, heads = _softmax_scale(ops.model, ops.choices), []
    for at in range(0, len(q), _QUERIES_AT_ONCE):
        chosen = lists[at : at + _QUERIES_AT_ONCE]
        scores = ops.dot(queries[at : at + _QUERIES_AT_ONCE], keys[chosen]) * scale
        scores = np.where(chosen[:, None] < 0, F32(-np.inf), scores)
        heads.append(ops.store(softmax(ops, scores, latent[chosen])))
    out = np.concatenate(heads)
    return np.stack([ops.store(ops.dot(out[:, h], w_uv[h])) for h in range(len(w_uv))], 1)


def _attend_expanded(ops, q, latent, k_rope, lists, w_uk, w_uv):
    """With keys and values of each head."""
    scale, heads = _softmax_scale(ops.model, ops.choices), []
    for h in range(len(w_uk)):
        keys = _operand(ops, np.concatenate([ops.store(ops.dot(latent, w_uk[h])), k_rope], -1)).astype(F64)
        values = ops.store(ops.dot(latent, w_uv[h]))
        scores = ops.dot(_operand(ops, q[:, None, h]), keys[lists]) * scale
        scores = np.where(lists[:, None] < 0, F32(-np.inf), scores)
        heads.append(ops.store(softmax(ops, scores, values[lists])))
    return np.concatenate(heads, 1)


def attend(ops, q, latent, k_rope, lists, kv_b):
    """[tokens, heads, value]."""
    model = ops.model
    weights = ops.used_in_bf16(kv_b).reshape(model.heads, model.nope + model.value, -1)
    way = _attend_expanded if ops.choices.mla == "expanded" else _attend_latent
    return way(ops, q, latent, k_rope, lists, weights[:, : model.nope], weights[:, model.nope :])
