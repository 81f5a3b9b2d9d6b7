"""Pictures of a table, as PNG bytes: Dice of every case, learning curves, and Dice against what travelled."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from segviz_core.experiments.plan import ORDER, ROWS
from segviz_core.experiments.summaries import Entry

_PALETTE = ("#1f6f8b", "#c0542b", "#4c8c4a", "#7b5aa6", "#b8860b", "#5a6b7b", "#a83f6f", "#2f9e94", "#000000")
_COLORS = dict(zip(ROWS, _PALETTE, strict=True))
_TEXT, _GRID = "#1d2733", "#d5dbe1"
_BESIDE = {"textcoords": "offset points", "va": "center", "fontsize": 8, "color": _TEXT}


def dice_per_case(entries: Sequence[Entry]) -> bytes:
    """Dice of every test case, and their mean, by row and organ; rows that lack repeats of others say so."""
    chosen = _one_per_mode(entries)
    repeats = max((entry.repeats for entry in chosen), key=len)
    figure = Figure(figsize=(11, 0.8 + 0.36 * len(chosen)), facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(ORDER) + 1, sharey=True)
    names = [entry.mode + _partly(entry, repeats) for entry in chosen]
    for axes, organ in zip(panels, (*ORDER, None), strict=True):
        for y, entry in enumerate(chosen):
            color = _COLORS[entry.mode]
            values = list(entry.case_dice(organ).values())
            if values:
                mean = entry.to_dict()["dice"][organ or "mean"]
                axes.plot(values, [y] * len(values), "o", ms=4, color=color, alpha=0.3, markeredgewidth=0)
                axes.plot([mean], [y], "|", ms=15, markeredgewidth=2.5, color=color)
                axes.annotate(f"{mean:.2f}", (1, y), (5, 0), xycoords=("axes fraction", "data"), **_BESIDE)
        axes.set_title(organ or "mean", fontsize=10, color=_TEXT)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.set_xticks((0, 0.5, 1), ("0", ".5", "1"))
        _plain(axes)
    return _png(figure)


def learning_curves(entries: Sequence[Entry]) -> bytes:
    """Mean test Dice against steps per site, mean over the repeats; for the reader only, nothing is selected by it."""
    figure = Figure(figsize=(9, 4.6), facecolor="white", layout="constrained")
    axes = figure.subplots()
    for entry in _one_per_mode(entries):
        points: dict[int, list[float]] = {}
        for result in entry.results:
            for row in result["curve"]:
                if "dice/mean" in row:
                    points.setdefault(row["step"], []).append(row["dice/mean"])
        if points:
            steps = sorted(points)
            axes.plot(
                steps,
                [np.mean(points[s]) for s in steps],
                marker="o",
                ms=4,
                color=_COLORS[entry.mode],
                label=entry.mode,
            )
    axes.set_xlabel("Training steps per site", color=_TEXT)
    axes.set_ylabel("Mean Dice on the test cases", color=_TEXT)
    return _finished(figure, axes)


def traffic(entries: Sequence[Entry]) -> bytes:
    """Mean Dice against megabytes that a site sent and received."""
    figure = Figure(figsize=(9, 4.6), facecolor="white", layout="constrained")
    axes = figure.subplots()
    for entry in _one_per_mode(entries):
        color = _COLORS[entry.mode]
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


def _partly(entry: Entry, repeats: Sequence[int | str]) -> str:
    kind = "seed" if isinstance(repeats[0], int) else "fold"
    return "" if len(entry.repeats) == len(repeats) else f" ({kind} {', '.join(map(str, entry.repeats))} only)"


def _finished(figure: Figure, axes: Any) -> bytes:
    _plain(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return _png(figure)


def _plain(axes: Any) -> None:
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()
