#!/usr/bin/env python3
"""Draws docs/results/h100_layer.json as docs/h100_layer.svg (matplotlib), and writes in README.md which stages are
behind the public best. The same record and matplotlib give the same bytes. `./dev chart` installs and runs it all."""

import os

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

import record_layer

CHART = os.path.join(record_layer.ROOT, "docs/h100_layer.svg")
README = os.path.join(record_layer.ROOT, "README.md")
BEGIN, END = "<!-- written by ./dev chart -->\n", "<!-- end -->\n"

PUBLIC, OURS, BEHIND, FLOOR = "#b4b9c0", "#2a78b5", "#c8372d", "#111111"
BAND, SMALL_PRINT = "#f3f4f6", "#555555"
SETTINGS = {
    "svg.hashsalt": "fulgurite",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "hatch.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
}
THICK = 0.38  # of a bar; a row is 1


def microseconds(value):
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def draw_cell(axes, row, cell, room):
    """One stage: the public bar above ours, the floor across both, and the three numbers."""
    best, ours, floor = record_layer.public_best(cell), cell["ours"], cell["floor"]
    behind = record_layer.is_behind(cell)
    gap = 0.01 * room
    if best:
        axes.barh(row - THICK / 2, best, THICK, color=PUBLIC)
        axes.text(best + gap, row - THICK / 2, microseconds(best), va="center", size=8, color=SMALL_PRINT)
    if ours:
        at = row + THICK / 2 if best else row
        colors = {"facecolor": "white", "edgecolor": BEHIND, "hatch": "////"} if behind else {"color": OURS}
        axes.barh(at, ours["median"], THICK, linewidth=1, **colors)
        axes.plot([ours["p10"], ours["p90"]], [at, at], color=FLOOR, linewidth=1)
        axes.text(ours["p90"] + gap, at, microseconds(ours["median"]), va="center", size=8,
                  color=BEHIND if behind else OURS, weight="bold")
    axes.plot([floor, floor], [row - 0.46, row + 0.46], color=FLOOR, linewidth=1.6, solid_capstyle="butt")
    axes.text(room, row, microseconds(floor), va="center", ha="right", size=8, color=FLOOR)


def draw_stages(axes, stages, batch, named):
    cells = [stage["times"][str(batch)] for stage in stages]
    ends = [c["ours"]["p90"] for c in cells if c["ours"]]
    longest = max(ends + [record_layer.public_best(c) or 0 for c in cells])
    room = 1.32 * longest
    axes.set(xlim=(0, room), ylim=(len(stages) - 0.5, -0.5), yticks=range(len(stages)))
    axes.set_yticklabels([stage["name"] for stage in stages] if named else [])
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8, color="#888888", labelcolor=SMALL_PRINT)
    axes.locator_params(axis="x", nbins=5)
    for row, cell in enumerate(cells):
        if row % 2 == 0:
            axes.axhspan(row - 0.5, row + 0.5, color=BAND, linewidth=0, zorder=0)
        draw_cell(axes, row, cell, room)


def write_around(figure, record):
    """Title, legend and small print."""
    figure.text(0.012, 0.977, "The attention of one DeepSeek-V3.2 layer at decode, in microseconds", size=12,
                weight="bold")
    handles = [
        Patch(color=PUBLIC, label="public best"),
        Patch(color=OURS, label="Fulgurite"),
        Patch(facecolor="white", edgecolor=BEHIND, hatch="////", label="Fulgurite, behind the public best"),
        Line2D([], [], color=FLOOR, linewidth=1.6, label="floor (bytes or operations)"),
    ]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.006, 0.969), ncol=4, frameon=False,
                  fontsize=9.5, handlelength=1.8)
    figure.text(0.014, 0.926, f"{record['device']}, {record['context'] // 1024}k of context, {record['heads']} "
                "heads. Numbers: medians; the thin line is p10 to p90. The two lowest rows have a scale of\n"
                "their own; what is public there has no norms, RoPE, quantization or cache writes, and ours has.",
                size=8.5, color=SMALL_PRINT, va="center")


def draw(record):
    parts = [stage for stage in record["stages"] if "floor_of" not in stage]
    sums = [stage for stage in record["stages"] if "floor_of" in stage]
    figure = plt.figure(figsize=(10.4, 12.6), facecolor="white")
    panels = figure.add_gridspec(
        2, 2, left=0.168, right=0.985, top=0.888, bottom=0.03, wspace=0.06, hspace=0.13)
    for index, batch in enumerate(record["batches"]):
        panel = panels[index].subgridspec(2, 1, height_ratios=[len(parts), len(sums)], hspace=0.11)
        for place, stages in enumerate((parts, sums)):
            axes = figure.add_subplot(panel[place])
            draw_stages(axes, stages, batch, named=index % 2 == 0)
            if place == 0:
                axes.set_title(f"batch {batch}", loc="left", size=11, weight="bold")
                axes.set_title("floor", loc="right", size=8)
    write_around(figure, record)
    # No date, and no version: the bytes are the record's alone.
    figure.savefig(CHART, metadata={"Date": None, "Creator": None})


def stages_behind(record):
    """A line of Markdown: by batch, ours and the public best where ours takes longer."""
    batches = []
    for batch in record["batches"]:
        cells = [(stage["name"].replace(", ", " and "), stage["times"][str(batch)]) for stage in record["stages"]]
        behind = [f"{name} {cell['ours']['median']:.1f} ({record_layer.public_best(cell):.1f})"
                  for name, cell in cells if record_layer.is_behind(cell)]
        if behind:
            batches.append(f"at batch {batch} " + ", ".join(behind))
    if not batches:
        return "No stage is behind the public best.\n"
    return "**Behind the public best** (us; public in brackets): " + "; ".join(batches) + ".\n"


def write_readme(record):
    with open(README, encoding="utf-8") as file:
        before, rest = file.read().split(BEGIN)
    with open(README, "w", encoding="utf-8") as file:
        file.write(before + BEGIN + stages_behind(record) + END + rest.split(END, 1)[1])


def main():
    record = record_layer.load()
    record_layer.check(record)
    with plt.rc_context(SETTINGS):
        draw(record)
    write_readme(record)


if __name__ == "__main__":
    main()
