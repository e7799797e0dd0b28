#!/usr/bin/env python3
"""The numpy pass in fp32 against the oracle (golden/): what a correct dump is."""

import os
import sys

import numpy as np

import forward
import forward_v4
from choices import FP32
from model import Model
from tensor_file import read

BOUND = 2e-5  # relative L2 of the worst row: fp32 against fp32, in other orders


def worst_row(a, b):
    distance = np.linalg.norm((a - b).reshape(len(a), -1), axis=1)
    return (distance / np.linalg.norm(b.reshape(len(b), -1), axis=1)).max()


def judge(dump, oracle):
    """Each tensor of the oracle that is wrong, and the largest distance."""
    wrong, largest = [], 0.0
    for name, right in oracle.items():
        ours = dump[name][-len(right) :]
        if np.issubdtype(right.dtype, np.integer):
            if not np.array_equal(
                np.sort(ours.reshape(len(right), -1)), np.sort(right.reshape(len(right), -1))
            ):
                wrong.append(f"{name}: another set")
            continue
        seen = np.isfinite(ours)  # the oracle scores what a query cannot see, too
        distance = worst_row(np.where(seen, ours, 0), np.where(seen, right, 0))
        largest = max(largest, distance)
        if not distance <= BOUND:
            wrong.append(f"{name}: {distance:.2g} away, {BOUND:g} allowed")
    return wrong, largest


def of_first_sequence(tensors):
    prefix = "seq0."
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def main(source):
    failures = 0
    for name in ("tiny-v32", "tiny-glm5", "tiny-v4"):
        kind, run = (
            (forward_v4.ModelV4, forward_v4.run) if name == "tiny-v4" else (Model, forward.run)
        )
        model = kind(os.path.join(source, "models", name))
        oracle = of_first_sequence(read(os.path.join(source, "golden", name + ".safetensors")))
        dump, _ = run(model, FP32, oracle["input_ids"])
        wrong, largest = judge(dump, oracle)
        print(
            f"{name}: {len(oracle)} tensors of {len(oracle['input_ids'])} tokens, worst row {largest:.2g} off"
        )
        for line in wrong:
            print(f"{name}: {line}", file=sys.stderr)
        failures += len(wrong)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
