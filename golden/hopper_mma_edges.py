# What an H100 makes of edges: NaN, infinities, zeros of both signs, denormals, overflow, cancellation.
# python3 hopper_mma_edges.py FILE; needs torch (2.11) and safetensors. Draws are the GPU generator's, seed 7.
import math
import sys

import torch
from safetensors.torch import save_file

D = "cuda"
M, N = 128, 16
INF, NAN = math.inf, math.nan
out = {}


def spread(rows, k, lowest, highest):
    """Random signs and fractions, exponents even over [lowest, highest]."""
    e = torch.randint(lowest, highest + 1, (rows, k), device=D).double()
    sign = torch.randint(0, 2, (rows, k), device=D) * 2 - 1
    return sign * (1 + torch.rand(rows, k, device=D, dtype=torch.double)) * 2.0**e


def sprinkled(x, share, values):
    x = x.clone()
    for value in values:
        x[torch.rand(x.shape, device=D) < share] = value
    return x


def record(name, a, b, dtype):
    a, b = a.to(dtype).contiguous(), b.to(dtype).contiguous()
    if dtype == torch.float8_e4m3fn:
        one = torch.ones((), device=D)
        c = torch._scaled_mm(a, b.t(), one, one, out_dtype=torch.float32, use_fast_accum=True)
    else:
        c = torch.mm(a, b.t(), out_dtype=torch.float32)
    name = f"{name}.{a.shape[1]}"
    out[name + ".a"], out[name + ".b"], out[name + ".c"] = a.cpu(), b.cpu(), c.cpu()


def record_all(name, dtype, exponents, k):
    def normal(rows):
        return torch.randn(rows, k, device=D, dtype=torch.double)

    def wide(rows):
        return spread(rows, k, *exponents)

    record(name + ".normal", normal(M), normal(N), dtype)
    record(name + ".wide", wide(M), wide(N), dtype)
    record(name + ".zeros", sprinkled(normal(M) * 0, 0.5, [-0.0]), sprinkled(normal(N) * 0, 0.5, [-0.0]), dtype)
    x, y = wide(M), wide(N)
    x[:, 1::2] = x[:, ::2]
    y[:, 1::2] = -y[:, ::2]
    record(name + ".cancel", sprinkled(x, 0.02, [0.5]), y, dtype)
    record(name + ".zero_sum", x, y, dtype)
    record(name + ".nan", sprinkled(normal(M), 0.005, [NAN]), normal(N), dtype)
    if name == "fp8":
        return
    record(name + ".inf", sprinkled(sprinkled(normal(M), 0.005, [INF]), 0.005, [-INF]), normal(N).abs(), dtype)
    record(name + ".inf_zero", sprinkled(normal(M), 0.002, [INF, -INF]), sprinkled(normal(N), 0.05, [0.0]), dtype)
    if name == "fp16":
        return
    record(name + ".tiny", spread(M, k, -76, -60), spread(N, k, -76, -60), dtype)
    record(name + ".subnormal", spread(M, k, -134, -120), spread(N, k, -16, 4), dtype)
    record(name + ".huge", spread(M, k, 55, 63), spread(N, k, 55, 63), dtype)


torch.manual_seed(7)
for name, dtype, exponents in (
    ("bf16", torch.bfloat16, (-30, 30)),
    ("fp16", torch.float16, (-24, 15)),
    ("fp8", torch.float8_e4m3fn, (-9, 8)),
):
    for k in (32, 128):
        record_all(name, dtype, exponents, k)
save_file(out, sys.argv[1])
