#!/usr/bin/env python3
"""Puts what bench/cuda/layer_probe printed into docs/results/h100_layer.json, in the place of the times of
ours that are there, or one more run of the public kernels. docs/results/README.md says what the record holds.

    record_layer.py FILE            rewrites the record
    record_layer.py --public FILE   adds what bench/cuda/layer_peers.py printed, of kernels that the record has
    record_layer.py --check [FILE]  writes nothing: is the record in order, does it hold what FILE says?"""

import argparse
import json
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
RECORD = os.path.join(ROOT, "docs/results/h100_layer.json")

HEADER = re.compile(r"(.+), context (\d+), us a layer: median \(p10, p90\)")
TIME = re.compile(r"\s*(\d+) (.+?)\s+(\d+\.\d+) \((\d+\.\d+), (\d+\.\d+)\)")
PUBLIC = re.compile(TIME.pattern + r"  (.+?)(?:, err (\S+))?")
PUBLIC_HEADER = re.compile(r"(.+?), torch .*, context (\d+)")
MOST_ERROR = 1e-2  # of a public kernel; bf16 results are within 4e-3


class Wrong(Exception):
    """What is wrong with a record or with the probe's output, in one line."""


def load():
    with open(RECORD, encoding="utf-8") as file:
        return json.load(file)


def public_best(cell):
    """Microseconds of a stage's public kernels, of each the best run; None where there are none."""
    return sum(min(runs) for runs in cell["public"].values()) if cell["public"] else None


def is_behind(cell):
    best = public_best(cell)
    return bool(cell["ours"] and best and cell["ours"]["median"] > best)


def parse(text, record):
    """What the probe printed: the device (None if its line is not there) and {(batch, stage): times}."""
    names = {stage["name"] for stage in record["stages"]}
    device, times = None, {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := HEADER.fullmatch(line.rstrip()):
            if int(header[2]) != record["context"]:
                raise Wrong(f"line {number}: context {header[2]}; the record is of {record['context']}")
            device = header[1]
        elif time := TIME.fullmatch(line.rstrip()):
            key = (int(time[1]), time[2])
            if key[0] not in record["batches"] or key[1] not in names:
                raise Wrong(f"line {number}: no stage of the record: {line.strip()}")
            if key in times:
                raise Wrong(f"line {number}: for the second time: {line.strip()}")
            times[key] = dict(zip(("median", "p10", "p90"), map(float, time.groups()[2:])))
    if not times:
        raise Wrong("not a line of the layer probe's")
    return device, times


def with_ours(record, text):
    """The record with the times of ours that the text has, and no others."""
    device, times = parse(text, record)
    result = json.loads(json.dumps(record))
    result["device"] = device or record["device"]
    for stage in result["stages"]:
        for batch, cell in stage["times"].items():
            cell["ours"] = times.get((int(batch), stage["name"]))
    return result


def with_public(record, text):
    """The record with one more run of its public kernels, each of which the text has once."""
    result = json.loads(json.dumps(record))
    first = text.partition("\n")[0]
    header = PUBLIC_HEADER.fullmatch(first)
    if not header or (header[1], int(header[2])) != (record["device"], record["context"]):
        raise Wrong(f"expected {record['device']}, context {record['context']}; found {first}")
    runs = [line.groups() for line in map(PUBLIC.fullmatch, text.splitlines()) if line]
    for run in runs:
        if run[6] and not float(run[6]) <= MOST_ERROR:
            raise Wrong(f"batch {run[0]}, {run[5]}: its error is {run[6]}")
    for stage in result["stages"]:
        for batch, cell in stage["times"].items():
            for kernel, times in (cell["public"] or {}).items():
                found = [float(run[2]) for run in runs if (run[0], run[1], run[5]) == (batch, stage["name"], kernel)]
                if len(found) != 1:
                    raise Wrong(f"batch {batch}, {stage['name']}, {kernel}: expected one time, found {len(found)}")
                times.append(found[0])
    return result


def missing(record):
    return [
        f"batch {batch}, {stage['name']}"
        for batch in record["batches"]
        for stage in record["stages"]
        if stage["times"][str(batch)]["ours"] is None
    ]


def check(record):
    """Every cell is there, times are in order, and a sum's floor is the sum of its parts' within 1 %."""
    floors = {stage["name"]: stage["times"] for stage in record["stages"]}
    for stage in record["stages"]:
        name = stage["name"]
        if list(stage["times"]) != [str(batch) for batch in record["batches"]]:
            raise Wrong(f"{name}: batches {list(stage['times'])}; expected {record['batches']}")
        for batch, cell in stage["times"].items():
            ours = cell["ours"]
            if ours and not 0 < ours["p10"] <= ours["median"] <= ours["p90"]:
                raise Wrong(f"{name}, batch {batch}: expected 0 < p10 <= median <= p90, found {ours}")
            best = public_best(cell)
            # Results that stay in L2 are in a floor of bytes: a kernel timed alone may pass it by a little.
            least = cell["floor"] * (0.95 if stage["floor_is"] == "bytes" else 1)
            if not cell["floor"] > 0 or (best is not None and best < least):
                raise Wrong(f"{name}, batch {batch}: a floor of {cell['floor']}, public {best}")
            parts = sum(floors[part][batch]["floor"] for part in stage.get("floor_of", []))
            if parts and abs(parts - cell["floor"]) > 0.01 * cell["floor"]:
                raise Wrong(f"{name}, batch {batch}: a floor of {cell['floor']}, of its parts {parts:.4g}")


def text_of(record):
    """JSON with a line for each stage and batch, so that a difference of two records can be read."""
    def stage_text(stage):
        head = {key: value for key, value in stage.items() if key != "times"}
        lines = [f'      "{batch}": {json.dumps(cell)}' for batch, cell in stage["times"].items()]
        return f"    {json.dumps(head)[:-1]}, \"times\": {{\n" + ",\n".join(lines) + "}}"
    head = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in record.items() if key != "stages"]
    stages = ",\n".join(map(stage_text, record["stages"]))
    return "{\n" + ",\n".join(head) + ',\n  "stages": [\n' + stages + "\n  ]\n}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", help="what the layer probe printed")
    parser.add_argument("--public", metavar="FILE", help="what layer_peers.py printed")
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    if arguments.check and arguments.public:
        parser.error("--check compares times of ours alone")
    if not arguments.file and not arguments.check and not arguments.public:
        parser.error("FILE, --public FILE or --check is needed")
    record = load()
    try:
        if arguments.file:
            with open(arguments.file, encoding="utf-8") as file:
                printed = with_ours(record, file.read())
            if arguments.check and printed != record:
                raise Wrong(f"the record does not hold what {arguments.file} says")
            record = printed
        if arguments.public:
            with open(arguments.public, encoding="utf-8") as file:
                record = with_public(record, file.read())
        check(record)
    except Wrong as wrong:
        sys.exit(f"record_layer: {wrong}")
    if not arguments.check:
        with open(RECORD, "w", encoding="utf-8") as file:
            file.write(text_of(record))
    for cell in missing(record):
        print(f"record_layer: no time of ours: {cell}", file=sys.stderr)


if __name__ == "__main__":
    main()
