#!/usr/bin/env python3
"""What a user would run instead, on this machine: PyTorch's bf16 linears at the layer's shapes, and the eager
Hugging Face model on models/tiny-v32. Prints JSON. docs/benchmarks.md says how to install what it needs."""

import argparse
import glob
import json
import math
import os
import statistics
import sys
import tempfile
import time

import torch
from safetensors.torch import load_file, save_file

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# name: (out, in) of DeepSeek-V3.2, the linears of `fulgurite bench linear`.
LINEARS = {
    "q_a": (1536, 7168),
    "q_b": (24576, 1536),
    "kv_a": (576, 7168),
    "o": (7168, 16384),
    "index_q": (8192, 1536),
    "head": (129280, 7168),
}
FEWEST_REPEATS = 5


def progress(text):
    print(text, file=sys.stderr, flush=True)


def cache_bytes():
    """Bytes of all second- and last-level caches, as bench/limits.cpp counts them."""
    caches = {}
    for cache in glob.glob("/sys/devices/system/cpu/cpu*/cache/index*"):
        read = lambda name: open(os.path.join(cache, name)).read().strip()
        if read("level") in ("2", "3", "4"):
            size = read("size")
            unit = {"K": 1024, "M": 1 << 20}.get(size[-1], 1)
            caches[read("level"), read("shared_cpu_list")] = int(size.rstrip("KM")) * unit
    return sum(caches.values()) or 64 << 20


def times_of(calls, seconds):
    """Seconds of calls, taken in turn, until `seconds` have passed."""
    times = []
    first = time.perf_counter()
    while len(times) < FEWEST_REPEATS or time.perf_counter() - first < seconds:
        call = calls[len(times) % len(calls)]
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def summary(times):
    ordered = sorted(times)
    at = lambda share: ordered[int(share * (len(ordered) - 1) + 0.5)]
    return {
        "repeats": len(ordered),
        "median_us": statistics.median(ordered) * 1e6,
        "p10_us": at(0.1) * 1e6,
        "p90_us": at(0.9) * 1e6,
    }


def linear_cases(tokens, thread_counts, seconds):
    """bf16 x bf16 -> bf16. Cold: as many copies of the weight in turn that more than the caches hold lies
    between two uses of one. Warm: one copy."""
    cases = []
    for name, (out, width) in LINEARS.items():
        for m in tokens:
            if name == "head" and m > 8:
                continue
            progress(f"linear {name}, {m} token(s)")
            copies = math.ceil(3 * cache_bytes() / (out * width * 2)) + 1
            weights = [(torch.randn(out, width, dtype=torch.bfloat16) * 0.02) for _ in range(copies)]
            x = torch.randn(m, width, dtype=torch.bfloat16)
            check = torch.nn.functional.linear(x[:1], weights[0][:256]).float()
            exact = x[:1].double() @ weights[0][:256].double().T
            bound = 0.01 * (x[:1].double().abs() @ weights[0][:256].double().abs().T)
            assert ((check - exact).abs() <= bound).all(), name
            calls = [lambda w=w: torch.nn.functional.linear(x, w) for w in weights]
            for threads in thread_counts:
                torch.set_num_threads(threads)
                for call in calls:
                    call()
                for cache, turns in (("cold", calls), ("warm", calls[:1])):
                    result = summary(times_of(turns, seconds))
                    moved = 2 * (out * width + m * (out + width))
                    result.update(
                        name=name, case=f"{out}x{width} bf16", tokens=m, threads=threads, cache=cache,
                        gb_per_s=moved / result["median_us"] * 1e-3,
                        gflop_per_s=2 * m * out * width / result["median_us"] * 1e-3)
                    cases.append(result)
    return cases


def dequantized(directory):
    """Every tensor of the checkpoint in fp32: fp8 code * scale of its block."""
    stored = {}
    for path in sorted(glob.glob(os.path.join(directory, "*.safetensors"))):
        stored.update(load_file(path))
    rows, columns = json.load(open(os.path.join(directory, "config.json")))["quantization_config"]["weight_block_size"]
    weights = {}
    for name, tensor in stored.items():
        if name.endswith("_scale_inv"):
            continue
        value = tensor.float()
        scale = stored.get(name + "_scale_inv")
        if scale is not None:
            spread = scale.float().repeat_interleave(rows, 0).repeat_interleave(columns, 1)
            value = value * spread[: value.shape[0], : value.shape[1]]
        weights[name] = value.contiguous()
    return weights


def load_model(directory, dtype):
    """The eager Hugging Face model on the dequantized checkpoint."""
    from transformers import AutoModelForCausalLM

    config = json.load(open(os.path.join(directory, "config.json")))
    del config["quantization_config"]
    with tempfile.TemporaryDirectory() as scratch:
        json.dump(config, open(os.path.join(scratch, "config.json"), "w"))
        save_file(dequantized(directory), os.path.join(scratch, "model.safetensors"), metadata={"format": "pt"})
        model = AutoModelForCausalLM.from_pretrained(scratch, dtype=dtype, attn_implementation="eager")
    return model.eval()


def distance_from_golden(model, golden, sequence):
    """Largest difference of the last 32 tokens' logits from the recorded ones."""
    ids = golden[f"seq{sequence}.input_ids"].long()[None]
    logits = model(ids, use_cache=False).logits[0, -32:].float()
    return (logits - golden[f"seq{sequence}.logits"].float()).abs().max().item()


def model_cases(directory, golden_path, prompt, decoded, seconds):
    golden = load_file(golden_path)
    ids = golden["seq0.input_ids"].long()[None, :prompt]
    cases = []
    for dtype in (torch.float32, torch.bfloat16):
        progress(f"model, {dtype}")
        model = load_model(directory, dtype)
        distance = distance_from_golden(model, golden, 0)
        # In fp32 this is the oracle itself; bf16 is reported, not judged.
        assert dtype != torch.float32 or distance < 1e-3, distance
        prefill = times_of([lambda: model(ids, use_cache=True, logits_to_keep=1)], seconds)
        steps = []
        first = time.perf_counter()
        while not steps or time.perf_counter() - first < seconds:
            state = model(ids, use_cache=True, logits_to_keep=1)
            for _ in range(decoded):
                token = state.logits[:, -1].argmax(-1, keepdim=True)
                start = time.perf_counter()
                state = model(token, past_key_values=state.past_key_values, use_cache=True)
                steps.append(time.perf_counter() - start)
        for phase, tokens, times in (("prefill", prompt, prefill), ("decode", 1, steps)):
            result = summary(times)
            result.update(
                phase=phase, dtype=str(dtype).removeprefix("torch."), prompt=prompt,
                tokens_per_s=tokens / statistics.median(times), largest_distance_from_golden=distance)
            cases.append(result)
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["linears", "model"], help="one of the two parts")
    parser.add_argument("--tokens", default="1,8,512", help="tokens of a linear's call")
    parser.add_argument("--threads", default="1,all", help="threads of the linears; the model runs on all")
    parser.add_argument("--seconds", type=float, default=0.5, help="time of a measurement")
    parser.add_argument("--model", default=os.path.join(ROOT, "models/tiny-v32"))
    parser.add_argument("--golden", default=os.path.join(ROOT, "golden/tiny-v32.safetensors"))
    parser.add_argument("--prompt", type=int, default=256, help="tokens of the prefill")
    parser.add_argument("--decoded", type=int, default=64, help="tokens decoded after each prefill")
    arguments = parser.parse_args()

    everything = len(os.sched_getaffinity(0))
    counts = [everything if n == "all" else int(n) for n in arguments.threads.split(",")]
    tokens = [int(n) for n in arguments.tokens.split(",")]
    torch.manual_seed(0)
    result = {"torch": torch.__version__, "threads": everything, "cpu": torch.backends.cpu.get_cpu_capability()}
    with torch.inference_mode():
        if arguments.only != "model":
            result["linears"] = linear_cases(tokens, sorted(set(counts)), arguments.seconds)
        if arguments.only != "linears":
            import transformers

            torch.set_num_threads(everything)
            result["transformers"] = transformers.__version__
            result["model"] = model_cases(
                arguments.model, arguments.golden, arguments.prompt, arguments.decoded, arguments.seconds)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
