#!/usr/bin/env python3
"""bench/record_layer.py: the record in the tree is in order, what the probe prints is read, and what does not fit
is refused."""

import json
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "bench"))
import record_layer

PRINTED = """NVIDIA H100 80GB HBM3, context 32768, us a layer: median (p10, p90)
   1 linear q_a, kv_a               8.51 (8.40, 8.60)
 128 the whole block              571.56 (569.77, 572.75)
"""


def refused(read, *given):
    try:
        read(*given)
    except record_layer.Wrong as wrong:
        return str(wrong)
    return ""


def public_lines(record):
    return ["NVIDIA H100 80GB HBM3, torch 2.11.0, DeepGEMM 0.1.5, FlashMLA 1.0.0, context 32768"] + [
        f"{batch:>4} {stage['name']:<26} 1.25 (1.20, 1.30)  {kernel}, err 1.0e-03"
        for stage in record["stages"]
        for batch, cell in stage["times"].items()
        for kernel in cell["public"] or {}
    ]


def main():
    record = record_layer.load()
    record_layer.check(record)
    with open(record_layer.RECORD, encoding="utf-8") as file:
        assert file.read() == record_layer.text_of(record)

    ours = record_layer.with_ours(record, PRINTED)
    cells = {stage["name"]: stage["times"] for stage in ours["stages"]}
    assert ours["device"] == "NVIDIA H100 80GB HBM3"
    assert cells["linear q_a, kv_a"]["1"]["ours"] == {"median": 8.51, "p10": 8.40, "p90": 8.60}
    assert cells["linear q_a, kv_a"]["8"]["ours"] is None
    assert not record_layer.is_behind(cells["linear q_a, kv_a"]["1"])
    assert record_layer.is_behind(cells["the whole block"]["128"])
    assert record_layer.public_best({"public": {"logits": [17.0, 16.63, 16.7], "top k": [28.9, 33.27]}}) == 16.63 + 28.9

    printed = public_lines(record)
    more = record_layer.with_public(record, "\n".join(printed))
    for before, after in zip(record["stages"], more["stages"]):
        for batch, cell in before["times"].items():
            for kernel, runs in (cell["public"] or {}).items():
                assert after["times"][batch]["public"][kernel] == runs + [1.25]
    assert "expected one time, found 0" in refused(record_layer.with_public, record, "\n".join(printed[:1] + printed[2:]))
    assert "expected one time, found 2" in refused(record_layer.with_public, record, "\n".join(printed + printed[1:2]))
    assert "context 32768; found" in refused(record_layer.with_public, record, "\n".join(printed[1:]))
    assert "context 32768; found" in refused(record_layer.with_public, record, "\n".join(printed).replace("32768", "4096"))
    assert "its error is nan" in refused(record_layer.with_public, record, "\n".join(printed).replace("err 1.0e-03", "err nan", 1))

    for stage, share in (("W_UV", 0.94), ("sparse_attention", 0.99), ("the whole block", 0.99)):
        low = json.loads(json.dumps(record))
        cell = next(s for s in low["stages"] if s["name"] == stage)["times"]["128"]
        cell["public"] = {"too fast": [share * cell["floor"]]}
        assert "a floor of" in refused(record_layer.check, low), stage

    assert "context 4096" in refused(record_layer.parse, PRINTED.replace("32768", "4096"), record)
    assert "second time" in refused(record_layer.parse, PRINTED + PRINTED.splitlines()[1], record)
    assert "no stage" in refused(record_layer.parse, "   1 linear q_c     8.51 (8.40, 8.60)", record)
    assert "no stage" in refused(record_layer.parse, "   2 linear q_b     8.51 (8.40, 8.60)", record)
    assert "not a line" in refused(record_layer.parse, "", record)


if __name__ == "__main__":
    main()
