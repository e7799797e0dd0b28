"""The public kernels (public_kernels.py) in the cases of the probes' milestones, beside the probes in one call: cold weights and caches (220 MB in turn;
the lists of sparse attention and the rows of a top k are the same in every call), CUDA graphs.

    python parts_peers.py [--top-k FLASHINFER_TOP_K.so]

A line: kernel, case, microseconds: median (10th, 90th percentile), err as layer_peers.py's."""

import argparse
import ctypes
import sys

try:
    from public_kernels import Linear, Logits, SparseDecode, SparsePrefill, TopK, versions
except ImportError as error:
    sys.exit("parts_peers: skipped, %s; public_kernels.py says what is expected" % error)

import torch

from torch_graph import timed

ROTATED = 220 << 20


def show(case, kernel, calls=48):
    err = kernel.error()
    print("%-36s %-26s %s, err %.1e" % (kernel.kernel, case, timed(kernel, calls), err), flush=True)
    torch.cuda.empty_cache()


def sets_of(size):
    return max(2, min(64, ROTATED // size))


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--top-k", help="the library of flashinfer_top_k.cu; without it torch.topk")
library = parser.parse_args().top_k
library = library and ctypes.CDLL(library)
print(versions())
for out, width in ((2112, 7168), (24576, 1536), (8192, 1536), (7168, 16384)):
    for tokens in (1, 16, 64):
        show("(%d, %d) M %d" % (out, width, tokens), Linear(tokens, out, width, sets_of(out * width)))
show("(7168, 16384) M 4096", Linear(4096, 7168, 16384, 2), 8)
for rows, context in ((1, 32768), (1, 131072), (8, 131072), (64, 131072), (1024, 131072)):
    logits = torch.randn(rows, context, device="cuda")
    for lowest_index in (False, True) if library else (False,):
        show("%dx%dk" % (rows, context >> 10), TopK(lambda: logits, lowest_index, library))
for batch, context in ((1, 32768), (8, 32768), (32, 32768), (32, 131072)):
    show("%dx%dk" % (batch, context >> 10), Logits(batch, context, sets_of(batch * context * 132)))
for heads in (16, 64, 128):
    for batch in (1, 8, 32, 128):
        show("%d heads, batch %d" % (heads, batch), SparseDecode(batch, heads, 32768, max(2, min(8, 128 // batch))))
for heads in (64, 128):
    show("%d heads, %d tokens" % (heads, 1024), SparsePrefill(1024, heads, 32768), 8)
