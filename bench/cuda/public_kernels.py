"""The public kernels of sparse attention's layer, with float32 to hold them against: DeepGEMM and FlashMLA from PyPI, FlashInfer's top k,
torch's products. Each object is called with a turn i and takes weights, caches or chosen rows number i of its sets in turn; operands are ready.

    pip install sgl-deep-gemm==0.1.5            the newest whose tensors are those of torch 2.10 to 2.12; nvcc compiles its kernels when they are first called
    pip install --no-deps sgl-flash-mla==1.0.0

FlashInfer's top k is a library of ours around the headers of flashinfer-python 0.7.2.post1 (flashinfer_top_k.cu); without it torch.topk is called."""

import ctypes

import torch

import deep_gemm
import flash_mla

PAGE, TOPK, LATENT, ROPE, NOPE = 64, 2048, 512, 64, 128
INDEX_HEADS, INDEX_DIM = 64, 128
FP8 = torch.float8_e4m3fn


def versions():
    return "%s, torch %s, DeepGEMM %s, FlashMLA %s" % (torch.cuda.get_device_name(), torch.__version__,
                                                       getattr(deep_gemm, "__version__", "?"), flash_mla.__version__)


def normal(*shape, dtype=torch.bfloat16):
    return torch.randn(*shape, device="cuda").to(dtype)


def scales(*shape):
    return torch.rand(*shape, device="cuda") + 0.5


def of_pattern(rows, count):
    """count rows, the given ones over and over."""
    return rows[torch.arange(count, device="cuda") % len(rows)]


def difference(found, expected):
    return ((found.float() - expected).norm() / expected.norm()).item()


class Linear:
    kernel = "DeepGEMM fp8_gemm_nt"

    def __init__(self, batch, out, width, sets):
        self.x, of_x = normal(batch, width, dtype=FP8), scales(batch, width // 128)
        self.given = (self.x, deep_gemm.get_mn_major_tma_aligned_tensor(of_x))
        self.wide_x = self.x.float() * of_x.repeat_interleave(128, 1)
        self.weights = [(normal(out, width, dtype=FP8), scales((out + 127) // 128, width // 128)) for _ in range(sets)]
        self.y = torch.empty(batch, out, device="cuda", dtype=torch.bfloat16)

    def __call__(self, i):
        deep_gemm.fp8_gemm_nt(self.given, self.weights[i % len(self.weights)], self.y, disable_ue8m0_cast=True)

    def error(self):
        self(0)
        w, of_w = self.weights[0]
        wide = w.float() * of_w.repeat_interleave(128, 0)[:len(w)].repeat_interleave(128, 1)
        return difference(self.y, self.wide_x @ wide.t())


class Projection:
    kernel = "torch.mm, fp32 results"

    def __init__(self, batch, hidden, sets):
        self.x, self.weights = normal(batch, hidden), normal(sets, INDEX_DIM + INDEX_HEADS, hidden)

    def __call__(self, i):
        return torch.mm(self.x, self.weights[i % len(self.weights)].t(), out_dtype=torch.float32)

    def error(self):
        return difference(self(0).double(), self.x.double() @ self.weights[0].double().t())


class Heads:
    kernel = "torch.bmm"

    def __init__(self, batch, heads, width, out, sets):
        self.x, self.weights = normal(batch, heads, width), normal(sets, heads, width, out)
        self.y = torch.empty(batch, heads, out, device="cuda", dtype=torch.bfloat16)

    def __call__(self, i):
        torch.bmm(self.x.transpose(0, 1), self.weights[i % len(self.weights)], out=self.y.transpose(0, 1))

    def error(self):
        self(0)
        return difference(self.y, torch.einsum("thk,hkn->thn", self.x.float(), self.weights[0].float()))


class Logits:
    kernel = "DeepGEMM fp8_paged_mqa_logits"

    def __init__(self, batch, context, sets):
        self.context, each = context, context // PAGE
        pages = sets * batch * each
        self.keys, self.of_keys = normal(521, PAGE * INDEX_DIM, dtype=FP8), scales(521, PAGE)
        cache = torch.cat([self.keys.view(torch.uint8), self.of_keys.view(torch.uint8)], 1)
        self.cache = of_pattern(cache, pages).view(pages, PAGE, 1, INDEX_DIM + 4)
        self.table = torch.randperm(pages, device="cuda", dtype=torch.int32).view(sets, batch, each)
        self.q, self.weights = normal(batch, 1, INDEX_HEADS, INDEX_DIM, dtype=FP8), torch.randn(batch, INDEX_HEADS, device="cuda")
        self.lengths = torch.full((batch, 1), context, device="cuda", dtype=torch.int32)
        processors = torch.cuda.get_device_properties(0).multi_processor_count
        self.plan = deep_gemm.get_paged_mqa_logits_metadata(self.lengths, PAGE, processors)

    def __call__(self, i):
        self.found = deep_gemm.fp8_paged_mqa_logits(self.q, self.cache, self.weights, self.lengths, self.table[i % len(self.table)],
                                                    self.plan, self.context)
        return self.found

    def error(self):
        pages = self.table[0, 0].long() % len(self.keys)
        keys = self.keys[pages].float().view(self.context, INDEX_DIM)
        expected = (torch.relu(keys @ self.q[0, 0].float().t()) @ self.weights[0]) * self.of_keys[pages].view(self.context)
        return difference(self(0)[0, :self.context], expected)


class TopK:
    """Of what rows() gives. library: flashinfer_top_k.cu's, or None."""

    def __init__(self, rows, lowest_index, library):
        self.rows, self.lowest_index, self.library = rows, lowest_index, library
        count = len(rows())
        self.states = torch.zeros(1 << 20, device="cuda", dtype=torch.uint8)
        self.values = torch.empty(count, TOPK, device="cuda")
        self.indices = torch.empty(count, TOPK, device="cuda", dtype=torch.int32)
        self.kernel = "torch.topk" if not library else "FlashInfer top_k, " + ("lowest index" if lowest_index else "default")

    def __call__(self, i):
        rows = self.rows()
        if not self.library:
            return rows.topk(TOPK, sorted=False).values
        operands = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (rows, self.indices, self.values, self.states)]
        failed = self.library.top_k(*operands, len(rows), TOPK, rows.shape[1], int(self.lowest_index),
                                    ctypes.c_void_p(torch.cuda.current_stream().cuda_stream))
        assert not failed, "top_k: CUDA error %d" % failed
        return self.values

    def error(self):
        found = self(0).sort(descending=True).values
        return (found != self.rows().topk(TOPK).values).float().mean().item()


class SparseDecode:
    """Fewer heads than 64 are padded, which its kernels ask for."""
    kernel = "FlashMLA flash_mla_with_kvcache"

    def __init__(self, batch, heads, context, sets):
        codes, of_codes, rope = normal(8209, LATENT, dtype=FP8), scales(8209, 4) * 0.1, normal(8209, ROPE)
        rows = torch.cat([codes.view(torch.uint8), of_codes.view(torch.uint8), rope.view(torch.uint8)], 1)
        self.wide = torch.cat([codes.float() * of_codes.repeat_interleave(128, 1), rope.float()], 1)
        self.cache = of_pattern(rows, sets * batch * context).view(sets, -1, PAGE, 1, 656)
        self.q = normal(batch, 1, max(heads, 64), LATENT + ROPE)
        own = torch.stack([torch.randperm(context, device="cuda")[:TOPK] for _ in range(batch)])
        self.chosen = (own + context * torch.arange(batch, device="cuda")[:, None]).int().view(batch, 1, TOPK)
        self.plan, self.scale = flash_mla.get_mla_metadata()[0], (NOPE + ROPE) ** -0.5

    def __call__(self, i):
        return flash_mla.flash_mla_with_kvcache(self.q, self.cache[i % len(self.cache)], None, None, LATENT, self.plan,
                                                softmax_scale=self.scale, is_fp8_kvcache=True, indices=self.chosen, use_legacy=True)[0]

    def error(self):
        rows = self.wide[self.chosen[0, 0].long() % len(self.wide)]
        p = torch.softmax(self.q[0, 0].float() @ rows.t() * self.scale, 1)
        return difference(self(0)[0, 0], p @ rows[:, :LATENT])


class SparsePrefill:
    kernel = "FlashMLA flash_mla_sparse_fwd"

    def __init__(self, tokens, heads, context):
        self.q, self.rows = normal(tokens, heads, LATENT + ROPE), normal(context, 1, LATENT + ROPE)
        self.chosen = torch.rand(tokens, context, device="cuda").topk(TOPK, sorted=False).indices.int().view(tokens, 1, TOPK)
        self.scale = (NOPE + ROPE) ** -0.5

    def __call__(self, i):
        return flash_mla.flash_mla_sparse_fwd(self.q, self.rows, self.chosen, self.scale, LATENT, use_legacy=True)[0]

    def error(self):
        rows = self.rows[self.chosen[0, 0].long(), 0].float()
        p = torch.softmax(self.q[0].float() @ rows.t() * self.scale, 1)
        return difference(self(0)[0], p @ rows[:, :LATENT])
