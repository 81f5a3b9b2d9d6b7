"""Pictures of a table, as PNG bytes: learning curves, and Dice against what travelled."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from segviz_core.experiments.summaries import Entry

_COLORS = ("#1f6f8b", "#c0542b", "#4c8c4a", "#7b5aa6", "#b8860b", "#5a6b7b", "#a83f6f", "#2f9e94", "#000000")
_TEXT, _GRID = "#1d2733", "#d5dbe1"


def learning_curves(entries: Sequence[Entry]) -> bytes:
    """Mean test Dice against steps per site, mean over the repeats; for the reader only, nothing is selected by it."""
    figure = Figure(figsize=(9, 4.6), facecolor="white", layout="constrained")
    axes = figure.subplots()
    for color, entry in zip(_COLORS, _one_per_mode(entries), strict=False):
        points: dict[int, list[float]] = {}
        for result in entry.results:
            for row in result["curve"]:
                if "dice/mean" in row:
                    points.setdefault(row["step"], []).append(row["dice/mean"])
        if points:
            steps = sorted(points)
            axes.plot(steps, [np.mean(points[s]) for s in steps], marker="o", ms=4, color=color, label=entry.mode)
    axes.set_xlabel("Training steps per site", color=_TEXT)
    axes.set_ylabel("Mean Dice on the test cases", color=_TEXT)
    return _finished(figure, axes)


def traffic(entries: Sequence[Entry]) -> bytes:
    """Mean Dice against megabytes that a site sent and received."""
    figure = Figure(figsize=(9, 4.6), facecolor="white", layout="constrained")
    axes = figure.subplots()
    for color, entry in zip(_COLORS, _one_per_mode(entries), strict=False):
        values = entry.to_dict()
        axes.scatter(values["bytes_per_site"] / 1e6, values["dice"]["mean"], color=color, label=entry.mode, zorder=3)
    axes.set_xlabel("Megabytes per site, sent and received", color=_TEXT)
    axes.set_ylabel("Mean Dice on the test cases", color=_TEXT)
    return _finished(figure, axes)


def _one_per_mode(entries: Sequence[Entry]) -> list[Entry]:
    """Of the largest number of nodes, the assembled model of each mode; of single its networks."""
    nodes = max(entry.nodes for entry in entries)
    chosen: Mapping[str, Entry] = {
        entry.mode: entry
        for entry in entries
        if entry.mode == "single" or (entry.nodes == nodes and entry.evaluation == "assembled")
    }
    return list(chosen.values())


def _finished(figure: Figure, axes: Any) -> bytes:
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()
