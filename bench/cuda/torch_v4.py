"""Peers of DeepSeek-V4's linears: torch._scaled_mm (fp32 scales), torch.mm (bf16, of the head and the gate to f32) and torch.bmm
(the groups of o_a, bf16), in the shapes, rotation and graphs of linear_probe time_v4. Prints microseconds a call: median (10th,
90th percentile)."""

import sys

import torch

from torch_graph import timed

ROTATED = 300 << 20
MANY = len(sys.argv) > 1
TOKENS = (128, 1024, 4096) if MANY else (1, 8, 16, 32, 64)
pool = torch.randn(2 * 129280 * 7168, device="cuda", dtype=torch.bfloat16)


def calls_of(sets, tokens, out):
    return max(sets, 4 if tokens >= 1024 else 6 if out > 100000 else 48)


def fp8(out, width, tokens):
    sets = max(2, min(64, ROTATED // (out * width)))
    codes = (pool[:out * width * sets].view(sets, out, width)).to(torch.float8_e4m3fn)
    x = torch.randn(tokens, width, device="cuda", dtype=torch.bfloat16).to(torch.float8_e4m3fn)
    blocks = width // 128
    sa = torch.ones(blocks, tokens, device="cuda").t()  # outer dimension contiguous
    sb = torch.ones((out + 127) // 128, (blocks + 3) // 4 * 4, device="cuda")[:, :blocks].t()
    return timed(lambda i: torch._scaled_mm(x, codes[i % sets].t(), scale_a=sa, scale_b=sb, out_dtype=torch.bfloat16),
                 calls_of(sets, tokens, out))


def bf16(out, width, tokens, is_f32):
    size = out * width
    sets = max(2, min(64, ROTATED // (2 * size)))
    x = torch.randn(tokens, width, device="cuda", dtype=torch.bfloat16)
    kind = {"out_dtype": torch.float32} if is_f32 else {}
    return timed(lambda i: torch.mm(x, pool[i % sets * size:(i % sets + 1) * size].view(out, width).t(), **kind),
                 calls_of(sets, tokens, out))


def groups(count, out, width, tokens):
    size = count * out * width
    sets = max(2, min(64, ROTATED // (2 * size)))
    x = torch.randn(tokens, count, width, device="cuda", dtype=torch.bfloat16)
    y = torch.empty(tokens, count, out, device="cuda", dtype=torch.bfloat16)
    return timed(lambda i: torch.bmm(x.transpose(0, 1), pool[i % sets * size:(i % sets + 1) * size]
                                     .view(count, out, width).transpose(1, 2), out=y.transpose(0, 1)),
                 calls_of(sets, tokens, out))


def show(what, out, width, tokens, run):
    try:
        print("%s %d %d M=%d %s" % (what, out, width, tokens, run()), flush=True)
    except Exception as error:
        print("%s %d %d M=%d: %s" % (what, out, width, tokens, str(error)[:200]), flush=True)


for out, width in ((1024, 4096), (32768, 1024), (512, 4096), (8192, 1024), (4096, 8192), (7168, 16384)):
    for tokens in TOKENS:
        if MANY or tokens in (16, 64):
            show("fp8", out, width, tokens, lambda: fp8(out, width, tokens))
for out, width, is_f32 in ((64, 4096, True), (129280, 4096, True), (129280, 7168, True), (7168, 7168, False)):
    for tokens in TOKENS:
        show("bf16", out, width, tokens, lambda: bf16(out, width, tokens, is_f32))
for count in (8, 16):
    for tokens in TOKENS:
        show("o_a", count * 1024, 4096, tokens, lambda: groups(count, 1024, 4096, tokens))
