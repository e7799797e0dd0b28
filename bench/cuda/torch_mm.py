"""torch.mm(out_dtype=float32) as the peer of indexer_projection: the same shapes, rotation and CUDA graphs as
indexer_probe's times. Prints microseconds a call: median (10th, 90th percentile)."""

import time

import torch

HIDDEN = 7168
ROTATED = 240 << 20  # bytes of operands that consecutive calls go through
pool = torch.randn(185 << 20, device="cuda", dtype=torch.bfloat16)


def timed(rows, tokens, x_rotates):
    w_size, x_size = rows * HIDDEN, tokens * HIDDEN
    sets = max(2, min(256, ROTATED // (2 * (w_size + (x_size if x_rotates else 0)))))
    calls = max(sets, 24 if tokens >= 2048 else 64)

    def call(i):
        at = i % sets
        w = pool[at * w_size:(at + 1) * w_size].view(rows, HIDDEN)
        first = sets * w_size + (at * x_size if x_rotates else 0)
        return torch.mm(pool[first:first + x_size].view(tokens, HIDDEN), w.t(), out_dtype=torch.float32)

    for i in range(3):
        call(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(calls):
            call(i)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start = time.time()
    while time.time() - start < 0.03:
        graph.replay()
        torch.cuda.synchronize()
    times = []
    for _ in range(21):
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / calls)
    times.sort()
    return "%.2f (%.2f, %.2f)" % (times[10], times[2], times[18])


for rows in (64, 192):
    for tokens in (1, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192):
        print("N=%d M=%d all cold %s, x warm %s" %
              (rows, tokens, timed(rows, tokens, True), timed(rows, tokens, False)), flush=True)
