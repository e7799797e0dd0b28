"""Peers of a layer's linears and of index_select's logits: DeepGEMM, from PyPI's sgl-deep-gemm (its kernels are compiled by nvcc when they
are first called), with torch.topk behind the logits; beside layer_probe, in one call. Each is held against float32 before it is timed: err
is the norm of the difference over that of the result. Prints microseconds a call: median (10th, 90th percentile).

    pip install sgl-deep-gemm && python bench/cuda/deep_gemm_peer.py"""

import sys

import torch

from torch_graph import timed

try:
    import deep_gemm
except ImportError as error:
    sys.exit("deep_gemm_peer: skipped, %s; expected the package sgl-deep-gemm" % error)

ROTATED, PAGE, HEADS, DIM, CONTEXT, TOPK = 220 << 20, 64, 64, 128, 32768, 2048
FP8, BATCHES = torch.float8_e4m3fn, (1, 8, 32, 128)


def codes(*shape):
    return torch.randn(*shape, device="cuda").to(FP8)


def scales(*shape):
    return torch.rand(*shape, device="cuda") + 0.5


def error(found, expected):
    return ((found.float() - expected).norm() / expected.norm()).item()


def linear(out, width, tokens):
    sets = max(2, min(64, ROTATED // (out * width)))
    weights = [(codes(out, width), scales((out + 127) // 128, width // 128)) for _ in range(sets)]
    x, of_x = codes(tokens, width), scales(tokens, width // 128)
    y = torch.empty(tokens, out, device="cuda", dtype=torch.bfloat16)
    given = (x, deep_gemm.get_mn_major_tma_aligned_tensor(of_x))

    def call(i):
        deep_gemm.fp8_gemm_nt(given, weights[i % sets], y, disable_ue8m0_cast=True)

    call(0)
    w, of_w = weights[0]
    wide = w.float() * of_w.repeat_interleave(128, 0)[:out].repeat_interleave(128, 1)
    off = error(y, (x.float() * of_x.repeat_interleave(128, 1)) @ wide.t())
    return "%s err %.1e" % (timed(call, max(sets, 48)), off)


class Logits:
    def __init__(self, batch):
        each = CONTEXT // PAGE
        self.sets = max(2, ROTATED // (batch * each * PAGE * (DIM + 4)))
        pages = self.sets * batch * each
        self.keys, self.of_keys = codes(pages, PAGE * DIM), scales(pages, PAGE)
        self.cache = torch.cat([self.keys.view(torch.uint8), self.of_keys.view(torch.uint8)], 1).view(pages, PAGE, 1, DIM + 4)
        self.table = torch.randperm(pages, device="cuda", dtype=torch.int32).view(self.sets, batch, each)
        self.q, self.weights = codes(batch, 1, HEADS, DIM), torch.randn(batch, HEADS, device="cuda")
        self.lengths = torch.full((batch, 1), CONTEXT, device="cuda", dtype=torch.int32)
        processors = torch.cuda.get_device_properties(0).multi_processor_count
        self.plan = deep_gemm.get_paged_mqa_logits_metadata(self.lengths, PAGE, processors)

    def logits(self, i):
        return deep_gemm.fp8_fp4_paged_mqa_logits(self.q, self.cache, self.weights, self.lengths, self.table[i % self.sets],
                                                  self.plan, CONTEXT)

    def error(self):
        pages = self.table[0, 0].long()
        keys = self.keys[pages].float().view(CONTEXT, DIM)
        scores = torch.relu(keys @ self.q[0, 0].float().t()) @ self.weights[0]
        return error(self.logits(0)[0, :CONTEXT], scores * self.of_keys[pages].view(CONTEXT))


for name, out, width in (("q_a, kv_a", 2112, 7168), ("q_b", 24576, 1536), ("index_q", 8192, 1536), ("o", 7168, 16384)):
    for tokens in BATCHES:
        print("%4d linear %-10s %s" % (tokens, name, linear(out, width, tokens)), flush=True)
for batch in BATCHES:
    peer = Logits(batch)
    print("%4d logits             %s err %.1e" % (batch, timed(peer.logits, 48), peer.error()), flush=True)
    rows = peer.logits(0)
    print("%4d torch.topk         %s" % (batch, timed(lambda i: rows.topk(TOPK), 48)), flush=True)
