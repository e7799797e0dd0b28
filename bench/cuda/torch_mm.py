"""torch.mm(out_dtype=float32) as the peer of indexer_projection: the same shapes, rotation and CUDA graphs as
indexer_probe's times. Prints microseconds a call: median (10th, 90th percentile)."""

import torch

from torch_graph import timed

HIDDEN = 7168
ROTATED = 240 << 20  # bytes of operands that consecutive calls go through
pool = torch.randn(185 << 20, device="cuda", dtype=torch.bfloat16)


def timed_product(rows, tokens, x_rotates):
    w_size, x_size = rows * HIDDEN, tokens * HIDDEN
    sets = max(2, min(256, ROTATED // (2 * (w_size + (x_size if x_rotates else 0)))))
    calls = max(sets, 24 if tokens >= 2048 else 64)

    def call(i):
        at = i % sets
        w = pool[at * w_size:(at + 1) * w_size].view(rows, HIDDEN)
        first = sets * w_size + (at * x_size if x_rotates else 0)
        return torch.mm(pool[first:first + x_size].view(tokens, HIDDEN), w.t(), out_dtype=torch.float32)

    return timed(call, calls)


for rows in (64, 192):
    for tokens in (1, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192):
        print("N=%d M=%d all cold %s, x warm %s" %
              (rows, tokens, timed_product(rows, tokens, True), timed_product(rows, tokens, False)), flush=True)
