"""What the torch peers share: a CUDA graph of calls, replayed and timed."""

import time

import torch


def timed(call, calls):
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
