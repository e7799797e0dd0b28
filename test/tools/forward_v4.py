"""A forward pass of DeepSeek-V4 in numpy: hyper-connections, compressed entries beside a window, fp4 experts.

As forward.py, from the specification alone; what both architectures share is taken from there.
"""

import numpy as np

from attention import softmax
from forward import STORE, Pass
from indexer import select_visible
from model import Matrix, frequencies, rope_table, rotate
from rounding import F32, F64, e2m1, fma, fp32, hadamard, quantize, spread
from tensor_file import read_checkpoint

_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], F32)


class ModelV4:
    def __init__(self, directory):
        self.config, self.tensors = read_checkpoint(directory)
        c = self.config
        self.layers, self.heads = c["num_hidden_layers"], c["num_attention_heads"]
        self.width, self.rope = c["head_dim"], c["qk_rope_head_dim"]
        self.index_heads, self.index_dim, self.topk = c["index_n_heads"], c["index_head_dim"], c["index_topk"]
        self.window, self.eps, self.power_of_two = c["sliding_window"], c["rms_norm_eps"], True
        self.streams, self.hc_eps = c["hc_mult"], c["hc_eps"]

    def ratio(self, layer):
        return self.config["compress_ratios"][layer]

    def frequencies_of(self, layer):
        c = self.config
        if self.ratio(layer) == 0:
            return frequencies(c["rope_theta"], self.rope)
        return frequencies(c["compress_rope_theta"], self.rope, c["rope_scaling"])

    def matrix(self, name):
        key = "matrix of " + name
        if key not in self.tensors:
            values, scale = self.tensors[name + ".weight"], self.tensors.get(name + ".scale")
            packed = values.dtype == np.int8
            if packed:  # two of e2m1 in a byte, the even column low
                codes = values.view(np.uint8)
                values = _E2M1[np.stack([codes & 15, codes >> 4], -1).reshape(len(codes), -1)]
            self.tensors[key] = Matrix(values, scale, (1, 32) if packed else (128, 128))
        return self.tensors[key]


def _sigmoid(x):
    return fp32(1 / (1 + np.exp(-x.astype(F64))))


def _sum_of_few(parts):
    """Of few terms, ascending, in fp32."""
    total = np.zeros_like(parts[0])
    for part in parts:
        total = total + part
    return total


def mixing(ops, streams, prefix):
    """What comes out of the flattened streams before sigmoid and Sinkhorn, without its scales."""
    flat = streams.reshape(len(streams), -1)
    mean_square = fp32(np.square(flat.astype(F64)).mean(-1, keepdims=True))
    return ops.dot(flat, ops.model.tensors[prefix + "_fn"]) * ops.root(mean_square, ops.model.eps)


def collapse(ops, streams, pre):
    return ops.store(_sum_of_few([pre[:, j, None] * streams[:, j] for j in range(ops.model.streams)]))


def sinkhorn(ops, c):
    eps, n = F32(ops.model.hc_eps), ops.model.streams

    def rows(c):
        return _sum_of_few([c[..., k] for k in range(n)])[..., None]

    def columns(c):
        return _sum_of_few([c[:, j] for j in range(n)])[:, None]

    c = fp32(np.exp((c - c.max(-1, keepdims=True)).astype(F64)))
    c = c / rows(c) + eps
    c = c / (columns(c) + eps)
    for _ in range(ops.model.config["hc_sinkhorn_iters"] - 1):
        c = c / (rows(c) + eps)
        c = c / (columns(c) + eps)
    return c


def hyper_connection(ops, streams, prefix):
    """The block's input, and what spreads its output over the streams."""
    m, n = mixing(ops, streams, prefix), ops.model.streams
    scale, base = ops.model.tensors[prefix + "_scale"], ops.model.tensors[prefix + "_base"]
    pre = _sigmoid(m[:, :n] * scale[0] + base[:n]) + F32(ops.model.hc_eps)
    post = F32(2) * _sigmoid(m[:, n : 2 * n] * scale[1] + base[n : 2 * n])
    c = (m[:, 2 * n :] * scale[2] + base[2 * n :]).reshape(-1, n, n)
    return collapse(ops, streams, pre), post, sinkhorn(ops, c)


def spread_over(ops, streams, y, post, c):
    parts = [post[:, :, None] * y[:, None]] + [
        c[:, j, :, None] * streams[:, j, None] for j in range(ops.model.streams)
    ]
    return ops.store(_sum_of_few(parts))


def rope_last(ops, x, table, inverse=False):
    cos, sin = table
    turned = rotate(x[..., -ops.model.rope :], (cos, -sin if inverse else sin), "interleaved")
    return np.concatenate([x[..., : -ops.model.rope], turned], -1)


def kv_row(ops, x, table):
    """A row that is key and value, as attention reads it: rotated, the rest through fp8 in groups of 64."""
    row = ops.store(rope_last(ops, x, table))
    if ops.choices.kv_quant == "none":
        return row
    still = row[..., : -ops.model.rope]
    codes, scale = quantize(still, 64, True)
    return np.concatenate(
        [ops.store(codes * spread(scale, 64, still.shape[-1])), row[..., -ops.model.rope :]], -1
    )


def _moved_on(windows, first):
    """Each window's half in the place of the next one's; nothing lies before the first."""
    return np.concatenate([np.full_like(windows[:1], first), windows[:-1]])


def compressed(ops, x, prefix, ratio):
    """[entries, width], after the norm. Softmax is of each channel, over the tokens of a window."""
    tensors = ops.model.tensors
    u, gate = ops.dot(x, tensors[prefix + "wkv.weight"]), ops.dot(x, tensors[prefix + "wgate.weight"])
    gate = gate + tensors[prefix + "ape"][np.arange(len(x)) % ratio]
    count = len(x) // ratio
    u, gate = (part[: count * ratio].reshape(count, ratio, -1) for part in (u, gate))
    if ratio == 4:  # a window and the one before it: its half of the channels
        half = u.shape[-1] // 2
        u = np.concatenate([_moved_on(u[..., :half], 0), u[..., half:]], 1)
        gate = np.concatenate([_moved_on(gate[..., :half], -np.inf), gate[..., half:]], 1)
    p = fp32(np.exp((gate - gate.max(1, keepdims=True)).astype(F64)))
    total = _sum_of_few([p[:, i] for i in range(p.shape[1])])
    e = _sum_of_few([p[:, i] * u[:, i] for i in range(p.shape[1])]) / total
    return ops.rms_norm(ops.store(e), tensors[prefix + "norm.weight"], ops.model.eps)


def quantized_index(ops, x):
    """Index q or keys as the scores read them."""
    if ops.choices.hadamard != "none":
        x = ops.store(hadamard(x))
    if ops.choices.index_quant == "none":
        return x
    codes, scale = quantize(x, 32, True, e2m1, 6, 6 * 2.0**-126)
    return codes * spread(scale, 32, x.shape[-1])


def choose_entries(ops, x, q_latent, prefix, table, dump):
    model, tokens = ops.model, len(x)
    k = compressed(ops, x, prefix + "compressor.", 4)
    entry_table = tuple(part[4 * np.arange(len(k))] for part in table)
    k = quantized_index(ops, ops.store(rope_last(ops, k, entry_table)))
    q = ops.linear(q_latent, prefix + "wq_b").reshape(tokens, model.index_heads, model.index_dim)
    q = ops.store(rope_last(ops, q, table))
    gate = ops.dot(x, model.tensors[prefix + "weights_proj.weight"])
    weights = gate * F32(model.index_heads**-0.5) * F32(model.index_dim**-0.5)
    scores, codes = np.zeros((tokens, len(k)), F32), quantized_index(ops, q)
    for head in range(model.index_heads):
        scores = fma(weights[:, head, None], np.maximum(ops.dot(codes[:, head], k), F32(0)), scores)
    visible = (np.arange(tokens) + 1) // 4
    scores = np.where(np.arange(len(k)) < visible[:, None], scores, F32(-np.inf))
    topk = select_visible(scores, visible, model.topk, ops.choices)
    dump.update(index_q=q, index_k=k, index_weights=weights, index_scores=scores, topk=topk)
    return topk


def slots_of_window(tokens, window):
    """[tokens, window]: positions, ascending, -1 at the end."""
    t, i = np.arange(tokens)[:, None], np.arange(window)[None]
    position = np.maximum(t - window + 1, 0) + i
    return np.where(position <= t, position, -1)


def attend(ops, q, rows, lists, sink, table):
    """lists [tokens, slots] of rows; -1 is nobody's."""
    scale, out = F32(ops.model.width**-0.5), []
    for at in range(0, len(q), 32):
        chosen = lists[at : at + 32]
        keys = rows[chosen]
        scores = np.where(chosen[:, None] < 0, F32(-np.inf), ops.dot(q[at : at + 32], keys) * scale)
        out.append(softmax(ops, scores, keys, sink))
    return ops.store(rope_last(ops, np.concatenate(out), table, inverse=True))


def attention_block(ops, x, layer, dump):
    model, tokens, tensors = ops.model, len(x), ops.model.tensors
    prefix, ratio = f"layers.{layer}.attn.", model.ratio(layer)
    table = rope_table(model.frequencies_of(layer), np.arange(tokens))
    q_latent = ops.rms_norm(ops.linear(x, prefix + "wq_a"), tensors[prefix + "q_norm.weight"], model.eps)
    q = ops.linear(q_latent, prefix + "wq_b").reshape(tokens, model.heads, model.width)
    q_normed = ops.rms_norm(q, F32(1), model.eps)
    q = ops.store(rope_last(ops, q_normed, table))
    kv = kv_row(
        ops, ops.rms_norm(ops.linear(x, prefix + "wkv"), tensors[prefix + "kv_norm.weight"], model.eps), table
    )
    rows, lists = kv, slots_of_window(tokens, model.window)
    dump.update(q_latent=q_latent, q_normed=q_normed, q=q, kv=kv)
    if ratio:
        entries = compressed(ops, x, prefix + "compressor.", ratio)
        entries = kv_row(ops, entries, tuple(part[ratio * np.arange(len(entries))] for part in table))
        dump["entries"] = entries
        rows = np.concatenate([kv, entries])
        if ratio == 4:
            chosen = choose_entries(ops, x, q_latent, prefix + "indexer.", table, dump)
        else:
            entry = np.arange(len(entries))[None]
            chosen = np.where(entry < ((np.arange(tokens) + 1) // ratio)[:, None], entry, -1)
        lists = np.concatenate([lists, np.where(chosen < 0, -1, chosen + tokens)], -1)
    heads = attend(ops, q, rows, lists, tensors[prefix + "attn_sink"], table)
    dump["attn_heads"] = heads
    groups = model.config["o_groups"]
    grouped = heads.reshape(tokens, groups, -1)
    weight = ops.used_in_bf16(model.matrix(prefix + "wo_a")).reshape(groups, -1, grouped.shape[-1])
    z = np.concatenate([ops.store(ops.dot(grouped[:, g], weight[g])) for g in range(groups)], -1)
    dump["attn_out"] = ops.linear(z, prefix + "wo_b")
    return dump["attn_out"]


def route(ops, x, ids, prefix):
    tensors, config = ops.model.tensors, ops.model.config
    logit = ops.dot(x, tensors[prefix + "weight"])
    soft = np.where(logit > 20, logit, fp32(np.log1p(fp32(np.exp(logit.astype(F64))).astype(F64))))
    score = np.sqrt(soft)
    if prefix + "tid2eid" in tensors:
        chosen = np.sort(tensors[prefix + "tid2eid"][ids], -1)
    else:
        order = np.argsort(-(score + tensors[prefix + "bias"]), -1, kind="stable")
        chosen = np.sort(order[:, : config["num_experts_per_tok"]], -1)
    weights = np.take_along_axis(score, chosen, -1)
    return chosen, weights / _sum_of_few(list(weights.T))[:, None] * F32(config["routed_scaling_factor"])


def expert(ops, x, prefix, limit, weight=None):
    gate, up = ops.linear(x, prefix + "w1"), ops.linear(x, prefix + "w3")
    if limit:
        gate, up = np.minimum(gate, F32(limit)), np.clip(up, F32(-limit), F32(limit))
    a = gate / (1 + fp32(np.exp(-gate.astype(F64)))) * up
    return ops.linear(ops.store(a if weight is None else a * weight), prefix + "w2")


def feed_forward(ops, x, ids, layer, dump):
    prefix, config = f"layers.{layer}.ffn.", ops.model.config
    chosen, weights = route(ops, x, ids, prefix + "gate.")
    dump.update(expert_ids=chosen, expert_weights=weights)
    total = np.zeros_like(x)
    for number in range(config["n_routed_experts"]):
        row, place = np.nonzero(chosen == number)
        if len(row):
            total[row] = total[row] + expert(
                ops,
                x[row],
                f"{prefix}experts.{number}.",
                config["swiglu_limit"],
                weights[row, place][:, None],
            )
    limit = config["swiglu_limit"] if ops.choices.shared_clamp else None
    return ops.store(total + expert(ops, x, prefix + "shared_experts.", limit))


def layer_pass(ops, ids, layer, streams):
    prefix, model, dump = f"layers.{layer}.", ops.model, {}
    x, post, c = hyper_connection(ops, streams, prefix + "hc_attn")
    dump["attn_in"] = x
    y = attention_block(
        ops, ops.rms_norm(x, model.tensors[prefix + "attn_norm.weight"], model.eps), layer, dump
    )
    streams = spread_over(ops, streams, y, post, c)
    x, post, c = hyper_connection(ops, streams, prefix + "hc_ffn")
    y = feed_forward(
        ops, ops.rms_norm(x, model.tensors[prefix + "ffn_norm.weight"], model.eps), ids, layer, dump
    )
    dump["hidden"] = spread_over(ops, streams, y, post, c)
    return dump["hidden"], {f"layer{layer}.{name}": value for name, value in dump.items()}


def run(model, choices, ids, first_layer=0, states=()):
    """The tensors of a dump. No pass is taken up where another left it: first_layer is 0."""
    assert first_layer == 0 and not states
    ops, dump = Pass(model, choices), {"input_ids": ids}
    embedded = STORE[choices.activation](model.tensors["embed.weight"][ids])
    streams = np.repeat(embedded[:, None], model.streams, 1)
    for layer in range(model.layers):
        streams, tensors = layer_pass(ops, ids, layer, streams)
        dump.update(tensors)
    scale, base = model.tensors["hc_head_scale"], model.tensors["hc_head_base"]
    pre = _sigmoid(mixing(ops, streams, "hc_head") * scale[0] + base) + F32(model.hc_eps)
    x = ops.rms_norm(collapse(ops, streams, pre), model.tensors["norm.weight"], model.eps)
    dump["logits"] = ops.dot(x, model.tensors["head.weight"])
    return dump, ()
