"""Safetensors files, read and written with nothing but numpy.

Formats without a numpy type (bf16, e4m3, e8m0) arrive as the values that they stand for.
"""

import json
import os
import struct

import numpy as np

_PLAIN = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I8": np.int8,
    "U8": np.uint8,
}


def _e4m3_values():
    """All 256 of e4m3: 4 bits of exponent (bias 7), 3 of fraction, no infinity, one NaN of each sign."""
    code = np.arange(256)
    exponent, fraction = (code >> 3) & 15, code & 7
    value = np.where(exponent == 0, np.ldexp(fraction / 8, -6), np.ldexp(1 + fraction / 8, exponent - 7))
    value[(code & 127) == 127] = np.nan
    return np.where(code & 128, -value, value).astype(np.float32)


_E4M3 = _e4m3_values()
_E8M0 = np.where(np.arange(256) == 255, np.nan, np.ldexp(1.0, np.arange(256) - 127)).astype(np.float32)


def _decode(dtype, raw, shape):
    if dtype in _PLAIN:
        return np.frombuffer(raw, _PLAIN[dtype]).reshape(shape)
    if dtype == "BF16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    table = {"F8_E4M3": _E4M3, "F8_E8M0": _E8M0}[dtype]
    return table[np.frombuffer(raw, np.uint8)].reshape(shape)


def read(path, wanted=lambda name: True):
    """The tensors of one file whose names are wanted."""
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        data = file.read()
    header.pop("__metadata__", None)
    return {
        name: _decode(entry["dtype"], data[slice(*entry["data_offsets"])], entry["shape"])
        for name, entry in header.items()
        if wanted(name)
    }


def read_checkpoint(directory):
    """config.json and every tensor of every shard."""
    with open(os.path.join(directory, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    tensors = {}
    for name in sorted(os.listdir(directory)):
        if name.endswith(".safetensors"):
            tensors.update(read(os.path.join(directory, name)))
    return config, tensors


def write(path, tensors):
    """Floats as F32, integers as I32."""
    header, blocks, offset = {}, [], 0
    for name in sorted(tensors):
        floats = np.issubdtype(tensors[name].dtype, np.floating)
        block = np.ascontiguousarray(tensors[name], np.float32 if floats else np.int32)
        header[name] = {
            "dtype": "F32" if floats else "I32",
            "shape": list(block.shape),
            "data_offsets": [offset, offset + block.nbytes],
        }
        blocks.append(block)
        offset += block.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for block in blocks:
            file.write(block.tobytes())
