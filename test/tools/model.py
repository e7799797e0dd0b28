"""A checkpoint of DeepSeek-V3.2's or GLM-5's architecture: its numbers, weights and RoPE frequencies."""

import math

import numpy as np

from rounding import F32, F64, bf16_of_double, fp32
from tensor_file import read_checkpoint


class Matrix:
    """A weight [out, in] as stored: values, and if quantized the scale of each block (rows, columns)."""

    def __init__(self, values, scale=None, block=(128, 128)):
        self.values, self.scale, self.block, self.forms = values, scale, block, {}

    @property
    def quantized(self):
        return self.scale is not None

    def scale_of_rows(self):
        """[out, K blocks]"""
        return np.repeat(self.scale, self.block[0], 0)[: len(self.values)]

    def exact(self):
        """In double, where code * scale has no rounding."""
        if "exact" not in self.forms:
            scale = (
                np.repeat(self.scale_of_rows(), self.block[1], 1)[:, : self.values.shape[1]]
                if self.quantized
                else 1
            )
            self.forms["exact"] = self.values.astype(F64) * scale
        return self.forms["exact"]

    def in_bf16(self):
        if "bf16" not in self.forms:
            self.forms["bf16"] = bf16_of_double(self.exact()).astype(F64)
        return self.forms["bf16"]

    def codes(self):
        if "codes" not in self.forms:
            self.forms["codes"] = self.values.astype(F64)
        return self.forms["codes"]


class Model:
    def __init__(self, directory):
        self.config, self.tensors = read_checkpoint(directory)
        c = self.config
        self.layers, self.heads = c["num_hidden_layers"], c["num_attention_heads"]
        self.nope, self.rope, self.value = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
        self.index_heads, self.index_dim, self.topk = c["index_n_heads"], c["index_head_dim"], c["index_topk"]
        self.eps = c["rms_norm_eps"]
        self.latent_eps = 1e-6  # of the q and kv latents, in both families
        self.glm = c["model_type"] == "glm_moe_dsa"
        self.indexer_rope = "interleaved" if self.glm else "half_split"
        self.power_of_two = c["quantization_config"].get("scale_fmt") == "ue8m0"
        theta = (c.get("rope_parameters") or c)["rope_theta"]
        self.frequencies = frequencies(theta, self.rope, c.get("rope_scaling"))
        self.yarn_factor = _softmax_factor(c.get("rope_scaling"))

    def matrix(self, name):
        scale = self.tensors.get(name + ".weight_scale_inv")
        key = "matrix of " + name
        if key not in self.tensors:
            self.tensors[key] = Matrix(self.tensors[name + ".weight"], scale)
        return self.tensors[key]

    def edited(self, changes):
        """The same model with other tensors in the place of some."""
        other = object.__new__(Model)
        other.__dict__.update(self.__dict__)
        other.tensors = {**self.tensors, **changes}
        for name in changes:
            other.tensors.pop("matrix of " + name.rsplit(".", 1)[0], None)
        return other

    def has_indexer(self, layer):
        return self.config.get("indexer_types", ["full"] * self.layers)[layer] == "full"

    def dense(self, layer):
        return layer < self.config["first_k_dense_replace"]


def frequencies(theta, dim, yarn=None):
    """RoPE's, in fp32; with YaRN the slow ones are interpolated."""
    frequency = theta ** -(np.arange(0, dim, 2, dtype=F64) / dim)
    if not yarn:
        return fp32(frequency)

    def dimension(turns):
        return (
            dim
            * math.log(yarn["original_max_position_embeddings"] / (turns * 2 * math.pi))
            / (2 * math.log(theta))
        )

    low, high = (
        max(math.floor(dimension(yarn["beta_fast"])), 0),
        min(math.ceil(dimension(yarn["beta_slow"])), dim - 1),
    )
    ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 1e-3), 0, 1)
    return fp32(frequency / yarn["factor"] * ramp + frequency * (1 - ramp))


def _softmax_factor(yarn):
    """m^2, which YaRN puts on the scale of the scores."""
    return (0.1 * yarn["mscale_all_dim"] * math.log(yarn["factor"]) + 1) ** 2 if yarn else 1.0


def rope_table(frequency, positions):
    angle = (fp32(positions)[:, None] * frequency).astype(F64)
    return fp32(np.cos(angle)), fp32(np.sin(angle))


def rotate(x, table, style):
    """RoPE on x [tokens, ..., 64] in fp32: two products, one add."""
    shape = (len(x),) + (1,) * (x.ndim - 2) + (-1,)
    cos, sin = table[0].reshape(shape), table[1].reshape(shape)
    out = np.empty_like(x, F32)
    half = x.shape[-1] // 2
    first, second = (
        (slice(0, None, 2), slice(1, None, 2))
        if style == "interleaved"
        else (slice(0, half), slice(half, None))
    )
    a, b = x[..., first], x[..., second]
    out[..., first] = a * cos - b * sin
    out[..., second] = a * sin + b * cos
    return out
