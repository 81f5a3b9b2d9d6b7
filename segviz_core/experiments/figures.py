"""The pictures of the demo's report, as PNG bytes: the CT with outlines in three planes, and the learning curves."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from segviz_core.labels import ORGANS, Organ
from segviz_core.volumes import Volume

SOFT_TISSUE_HU = (-160.0, 240.0)
"""The usual abdominal window: level 40, width 400."""

PLANES = (("Axial", 2, "RLAP"), ("Coronal", 1, "RLSI"), ("Sagittal", 0, "APSI"))
"""Name, RAS axis the plane is perpendicular to, letters at its left, right, upper and lower edge."""

_HALO = [withStroke(linewidth=2.5, foreground="black")]
_PHASES = ("train-local", "train")
_STYLES = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"))
_TEXT, _GRID = "#1d2733", "#d5dbe1"


@dataclass(frozen=True, eq=False)
class ShownCase:
    """The unseen CT that the report shows: HU, and the labels found and true (uint8, both on the CT's grid)."""

    name: str
    ct: Volume
    found: NDArray[np.uint8]
    truth: NDArray[np.uint8]


def organ_planes(case: ShownCase, *, title: str = "", dpi: int = 120) -> bytes:
    """PNG: axial, coronal and sagittal plane side by side, outlines found above, true outlines below.

    Shown the radiological way: the patient's right and the front at the left.
    """
    ct, found, truth = (_to_ras(voxels, case.ct.affine) for voxels in (case.ct.voxels, case.found, case.truth))
    order = np.argsort(nib.io_orientation(case.ct.affine)[:, 0])
    spacing = np.asarray(case.ct.spacing_mm)[order]
    size = np.asarray(ct.shape) * spacing
    widths = [size[0], size[0], size[1]]
    heights = [size[1], size[2], size[2]]
    panel_height = 11.5 * max(heights) / sum(widths)  # inches; half an inch of the width goes to the labels
    figure = Figure(figsize=(12, 2 * panel_height + 0.5), facecolor="white", layout="constrained")
    axes = figure.subplots(2, 3, width_ratios=widths)
    for column, (plane, axis, letters) in enumerate(PLANES):
        index = _most_telling(truth, axis)
        aspect = [spacing[1] / spacing[0], spacing[2] / spacing[0], spacing[2] / spacing[1]][column]
        for panel, labels in zip(axes[:, column], (found, truth), strict=True):
            _draw_plane(panel, _cut(ct, axis, index), _cut(labels, axis, index), aspect, letters)
        axes[0, column].set_title(plane, fontsize=13, color=_TEXT)
    for panel, name in zip(axes[:, 0], ("Meta-model", "Truth"), strict=True):
        panel.set_ylabel(name, fontsize=13, color=_TEXT, fontweight="bold")
    if title:
        figure.suptitle(title, fontsize=15, color=_TEXT, fontweight="bold")
    return _png(figure, dpi=dpi)


def learning_curves(history: Sequence[Mapping[str, Any]]) -> bytes:
    """PNG: loss per site and Dice per organ and site, against the round; rows as in a study's history.jsonl.

    Dice is that of the training patches at the site that annotates the organ, with the network it has just trained.
    """
    figure = Figure(figsize=(12, 4.2), facecolor="white", layout="constrained")
    loss_panel, dice_panel = figure.subplots(1, 2)
    phases = {stage: [row for row in history if row["complete"] and row["stage"] == stage] for stage in _PHASES}
    sites = sorted({site for rows in phases.values() for row in rows for site in row["sites"]})
    for site, (marker, line) in zip(sites, cycle(_STYLES)):
        for rows in phases.values():
            metrics = {row["round"]: row["sites"].get(site, {}).get("metrics", {}) for row in rows}
            organs = sorted({name.removeprefix("dice/") for m in metrics.values() for name in m if "dice/" in name})
            for panel, name, label in [(loss_panel, "loss", site), *((dice_panel, f"dice/{o}", o) for o in organs)]:
                points = [(number, values[name]) for number, values in metrics.items() if name in values]
                color = _color(label if panel is dice_panel else next(iter(organs), ""))
                style = {"marker": marker, "markersize": 4, "linestyle": line, "color": color, "label": label}
                panel.plot(*zip(*points, strict=True), **style)
    loss_panel.set_title("Loss at each site", color=_TEXT)
    dice_panel.set_title("Dice on each site's own training patches", color=_TEXT)
    dice_panel.set_ylim(0, 1)
    for panel in (loss_panel, dice_panel):
        _decorate(panel)
        if all(phases.values()):
            _mark_phases(panel, (phases["train-local"][-1]["round"] + phases["train"][0]["round"]) / 2)
    return _png(figure)


def _draw_plane(panel: Axes, ct: NDArray[Any], labels: NDArray[Any], aspect: float, letters: str) -> None:
    low, high = SOFT_TISSUE_HU
    panel.imshow(ct, cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="bilinear")
    for organ in _present(labels):
        mask = (labels == organ.value).astype(np.float32)
        color = _color(organ.name)
        panel.contour(mask, levels=[0.5], colors=["black"], linewidths=3.2, alpha=0.6)
        panel.contour(mask, levels=[0.5], colors=[color], linewidths=1.8)
        rows, columns = np.nonzero(mask)
        above = columns[rows == rows.min()].mean(), max(rows.min() - 1.0, 0.07 * len(mask))
        panel.annotate(organ.title, above, color="white", fontsize=10, ha="center", va="bottom", path_effects=_HALO)
    edges = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.97), (0.5, 0.03))
    alignments = (("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom"))
    for letter, (x, y), (across, along) in zip(letters, edges, alignments, strict=True):
        panel.text(x, y, letter, transform=panel.transAxes, color="white", fontsize=10, ha=across, va=along)
    panel.set_xticks([])
    panel.set_yticks([])
    for spine in panel.spines.values():
        spine.set_visible(False)


def _present(labels: NDArray[Any]) -> Iterator[Organ]:
    return (organ for organ in ORGANS.values() if (labels == organ.value).any())


def _to_ras(voxels: NDArray[Any], affine: NDArray[np.float64]) -> NDArray[Any]:
    """Axes permuted and flipped to the nearest right, anterior, superior."""
    return np.asarray(nib.orientations.apply_orientation(voxels, nib.io_orientation(affine)))


def _cut(voxels: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """One plane of RAS voxels as an image: the patient's right, or the front, at the left; front, or head, up."""
    return np.asarray(np.take(voxels, index, axis=axis)[::-1, ::-1].T)


def _most_telling(labels: NDArray[Any], axis: int) -> int:
    """The plane that shows most organs well: the sum of each organ's share of its largest cut."""
    others = tuple(a for a in range(3) if a != axis)
    score = np.zeros(labels.shape[axis])
    for organ in _present(labels):
        area = (labels == organ.value).sum(axis=others)
        score += np.sqrt(area / area.max())
    return int(score.argmax()) if score.any() else labels.shape[axis] // 2


def _color(organ: str) -> tuple[float, float, float] | str:
    if organ not in ORGANS:
        return "#5a6b7b"
    red, green, blue = ORGANS[organ].color
    return red / 255, green / 255, blue / 255


def _decorate(panel: Axes) -> None:
    panel.set_xlabel("Round", color=_TEXT)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.grid(color=_GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    lines, labels = panel.get_legend_handles_labels()
    unique = dict(zip(labels, lines, strict=True))  # a line has two pieces, one per phase
    if unique:
        panel.legend(unique.values(), unique.keys(), frameon=False)


def _mark_phases(panel: Axes, boundary: float) -> None:
    panel.axvline(boundary, color="#5a6b7b", linewidth=1)
    for text, side, offset in (("alone", "right", -5), ("together", "left", 5)):
        panel.annotate(
            text, (boundary, 1), (offset, -4), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha=side, va="top", fontsize=9, color="#5a6b7b",
        )  # fmt: skip


def _png(figure: Figure, *, dpi: int = 120) -> bytes:
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi)
    return content.getvalue()
