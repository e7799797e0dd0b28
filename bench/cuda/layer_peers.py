"""The public kernels of layer_probe's stages (public_kernels.py), beside it in one call: DeepSeek-V3.2, 128 heads, 32k context, four layers
of weights and caches in turn, CUDA graphs. No norms, RoPE, Hadamard, quantization or cache writes, and no scheduling kernels (one a step).
The two sums are the kernels one after another in one graph.

    python layer_peers.py [--top-k FLASHINFER_TOP_K.so] [BATCH ...]

A line: batch, stage, microseconds a layer: median (10th, 90th percentile), kernel, err: the norm of its difference to float32 over that of
the result (top k: the share of values that are not torch.topk's)."""

import argparse
import ctypes
import sys

try:
    from public_kernels import Heads, Linear, Logits, Projection, SparseDecode, TopK, versions
except ImportError as error:
    sys.exit("layer_peers: skipped, %s; public_kernels.py says what is expected" % error)

import torch

from torch_graph import timed

LAYERS, HEADS, CONTEXT, HIDDEN, Q_LORA = 4, 128, 32768, 7168, 1536
CHAIN = "the public kernels in one graph"


def time_batch(batch, library):
    def show(stage, call, kernel, err=""):
        print("%4d %-26s %s  %s%s" % (batch, stage, timed(call, 48), kernel, err), flush=True)

    def part(stage, kernel):
        err = kernel.error()
        show(stage, kernel, kernel.kernel, ", err %.1e" % err)
        return kernel

    def linear(name, out, width):
        return part("linear " + name, Linear(batch, out, width, LAYERS))

    logits = Logits(batch, CONTEXT, LAYERS)
    indexer = [linear("index_q", 64 * 128, Q_LORA), part("indexer_projection", Projection(batch, HIDDEN, LAYERS)),
               part("index_select", logits)]
    if library:
        part("index_select", TopK(lambda: logits.found, True, library))
    indexer.append(part("index_select", TopK(lambda: logits.found, False, library)))
    attention = part("sparse_attention", SparseDecode(batch, HEADS, CONTEXT, LAYERS))
    before = [linear("q_a, kv_a", Q_LORA + 576, HIDDEN), linear("q_b", HEADS * 192, Q_LORA),
              part("W_UK", Heads(batch, HEADS, 128, 512, LAYERS))]
    after = [part("W_UV", Heads(batch, HEADS, 512, 128, LAYERS)), linear("o", HIDDEN, HEADS * 128)]

    def in_turn(kernels):
        return lambda i: [kernel(i) for kernel in kernels]

    show("indexer and attention", in_turn([*indexer, attention]), CHAIN)
    show("the whole block", in_turn([*before, *indexer, attention, *after]), CHAIN)


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--top-k", help="the library of flashinfer_top_k.cu; without it torch.topk")
parser.add_argument("batches", type=int, nargs="*", default=[1, 8, 32, 128])
arguments = parser.parse_args()
print("%s, context %d" % (versions(), CONTEXT))
library = arguments.top_k and ctypes.CDLL(arguments.top_k)
for batch in arguments.batches:
    time_batch(batch, library)
    torch.cuda.empty_cache()
