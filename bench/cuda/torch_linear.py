"""Peers of linear and head_projection: torch._scaled_mm (cuBLASLt, fp32 scales of 1x128 and 128x128) and torch.bmm,
in the shapes, rotation and graphs of linear_probe. Prints microseconds a call: median (10th, 90th percentile)."""

import torch

from torch_graph import timed

ROTATED = 300 << 20


def linear(out, width, tokens):
    sets = max(2, min(64, ROTATED // (out * width)))
    weights = [(torch.randn(out, width, device="cuda", dtype=torch.bfloat16)).to(torch.float8_e4m3fn) for _ in range(sets)]
    x = torch.randn(tokens, width, device="cuda", dtype=torch.bfloat16).to(torch.float8_e4m3fn)
    blocks = width // 128
    sa = torch.ones(blocks, tokens, device="cuda").t()  # outer dimension contiguous
    padded = (blocks + 3) // 4 * 4
    sb = torch.ones((out + 127) // 128, padded, device="cuda")[:, :blocks].t()
    calls = max(sets, 8 if tokens >= 1024 else 48)
    return timed(lambda i: torch._scaled_mm(x, weights[i % sets].t(), scale_a=sa, scale_b=sb,
                                            out_dtype=torch.bfloat16), calls)


def heads(from_rows, tokens):
    weights = [torch.randn(128, 128, 512, device="cuda", dtype=torch.bfloat16) for _ in range(18)]
    width = 128 if from_rows else 512
    x = torch.randn(tokens, 128, width, device="cuda", dtype=torch.bfloat16)
    y = torch.empty(tokens, 128, 512 if from_rows else 128, device="cuda", dtype=torch.bfloat16)
    turn = (lambda w: w) if from_rows else (lambda w: w.transpose(1, 2))
    return timed(lambda i: torch.bmm(x.transpose(0, 1), turn(weights[i % 18]), out=y.transpose(0, 1)), 54)


for tokens in (1, 8, 32, 128):
    print("heads M=%d from_rows %s, to_rows %s" % (tokens, heads(True, tokens), heads(False, tokens)), flush=True)
for out, width in ((2112, 7168), (24576, 1536), (8192, 1536), (7168, 16384)):
    for tokens in (16, 64, 4096):
        try:
            print("linear N=%d K=%d M=%d %s" % (out, width, tokens, linear(out, width, tokens)), flush=True)
        except Exception as error:
            print("linear N=%d K=%d M=%d: %s" % (out, width, tokens, str(error)[:300]), flush=True)
