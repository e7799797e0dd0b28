"""Number formats: values are float32 arrays, rounded to the nearest that the format holds, ties to even."""

import numpy as np

F32 = np.float32
F64 = np.float64


def fp32(x):
    return np.asarray(x, F32)


def bf16(x):
    bits = np.ascontiguousarray(x, F32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), F32(np.nan), rounded.view(F32))


def bf16_of_double(x):
    """One rounding, not one to fp32 and another."""
    _, exponent = np.frexp(x)
    step = np.ldexp(1.0, exponent - 8)
    return fp32(np.rint(x / step) * step)


def fp16(x):
    with np.errstate(over="ignore"):
        return np.asarray(x, F32).astype(np.float16).astype(F32)


def _to_grid(x, smallest_exponent, fraction_bits, largest):
    """To a small float format: steps of 2^(exponent - fraction_bits), saturating at the largest value."""
    x = np.clip(x, -largest, largest)
    _, exponent = np.frexp(x)
    step = np.ldexp(F32(1), np.maximum(exponent - 1, smallest_exponent) - fraction_bits)
    return fp32(np.rint(x / step) * step)


def e4m3(x):
    return _to_grid(fp32(x), -6, 3, 448)


def e2m1(x):
    return _to_grid(fp32(x), 0, 1, 6)


def up_to_power_of_two(x):
    fraction, exponent = np.frexp(fp32(x))
    return np.ldexp(F32(1), np.where(fraction == 0.5, exponent - 1, exponent)).astype(F32)


def fma(a, b, c):
    """a * b + c with one rounding: the product of two fp32 is exact in double."""
    return fp32(np.asarray(a, F64) * np.asarray(b, F64) + np.asarray(c, F64))


def dot(x, w, step=0):
    """x [..., k] by w [n, k]: a sum in double, rounded to fp32 once, or after every `step` columns."""
    x, w = np.asarray(x, F64), np.swapaxes(np.asarray(w, F64), -1, -2)
    if not step:
        return fp32(x @ w)
    total = fp32(x[..., :step] @ w[..., :step, :])
    for at in range(step, x.shape[-1], step):
        total = fp32(total + x[..., at : at + step] @ w[..., at : at + step, :])
    return total


def quantize(x, group, power_of_two, to_codes=e4m3, largest=448, floor=1e-4):
    """Codes (as values) of x [..., k] and the scale of each `group` columns; the last may be shorter."""
    edges = range(0, x.shape[-1], group)
    amax = np.stack([np.abs(x[..., at : at + group]).max(-1) for at in edges], -1)
    scale = fp32(np.maximum(amax, F32(floor)) * F32(1 / largest))
    if power_of_two:
        scale = up_to_power_of_two(scale)
    return to_codes(x / spread(scale, group, x.shape[-1])), scale


def spread(scale, group, columns):
    """Each scale [..., groups] in every column of its group."""
    return np.repeat(scale, group, -1)[..., :columns]


def hadamard(x):
    """The Sylvester matrix times n^-1/2: butterflies of stride 1, 2, 4, ..., each add rounded to fp32."""
    n, stride, y = x.shape[-1], 1, fp32(x)
    while stride < n:
        pairs = y.reshape(*x.shape[:-1], n // (2 * stride), 2, stride)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        y = np.stack([a + b, a - b], -2).reshape(x.shape)
        stride *= 2
    return y * F32(n**-0.5)
