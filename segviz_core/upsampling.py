"""From margins on the network's grid to labels on the CT's own: interpolated only where it decides something.

Interpolating the margins of all organs at every voxel of a CT costs 20 times more than the labels need (performance.md,
section 2). Between eight network voxels with one label, each won clearly, every interpolated voxel has that label:
what lies between them are weighted means, so a score that beats its threshold and all others at the corners does so
inside. What is left, the surfaces, is interpolated as `preprocessing.restore` does it and merged: the same labels,
voxel for voxel.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segviz_core.merging import cut, groups, merge
from segviz_core.meta_model import OrganEntry
from segviz_core.preprocessing import Box, NetworkGrid, native_samples

_ROUNDING = 4e-6
"""Of the largest score: more than two float32 values can lose against each other on the way through three
interpolations (15 roundings of 6e-8 each) and a division."""

SPECK_MM2 = 100.0
"""An organ that goes on beyond a cut crosses it with more: less is a tip of 11 mm, or a speck of noise."""

_SLAB = 1 << 21  # voxels of the CT filled at a time
_CHUNK = 1 << 14  # voxels interpolated at a time: their corners stay in the cache


@dataclass(frozen=True, eq=False)
class _Axis:
    """The CT's voxels `native` along one axis: the voxels of the box around each, and the weight of the second."""

    native: slice
    lower: NDArray[np.intp]
    upper: NDArray[np.intp]
    weight: NDArray[np.float32]


def paint(
    labels: NDArray[np.uint8],
    margins: NDArray[np.float32],
    entries: Sequence[OrganEntry],
    grid: NetworkGrid,
    box: Box,
    *,
    core: Box | None = None,
) -> Box | None:
    """Write label values into `labels` (I, J, K), the CT's grid, which is 0 there before.

    `margins` (K, X, Y, Z), one per entry, lie on `box` of `grid`. The CT's voxels that lie in the network's voxels of
    `core` (default: all of `box`) are painted. At the rim of `box` margins go on unchanged, as at the rim of the grid.

    Returns the voxels of `grid` around the organs in `box`, between planes that they cross with `SPECK_MM2` or more;
    None: there is no organ of that size.
    """
    undecided = next(value for value in range(1, 256) if all(value != entry.value for entry in entries))
    decided = _decided(margins, entries, undecided)
    found = _bounds(decided)
    if found is None:
        return None
    near = [slice(max(0, part.start - 1), part.stop + 1) for part in found]  # and the background beside it
    cells = _cells(decided[tuple(near)], undecided)
    axes = _axes(grid, box, core or box, near)
    out = labels.transpose(grid.axes)[tuple(axis.native for axis in axes)]
    memory = sorted(range(3), key=lambda n: -abs(out.strides[n]))  # filled in the order in which it lies there
    cells = np.ascontiguousarray(cells.transpose(memory))
    slow, middle, fast = (axes[n].lower - near[n].start for n in memory)
    filled, flat = out.transpose(memory), margins.reshape(len(margins), -1)
    step = max(1, _SLAB // max(1, len(middle) * len(fast)))
    for start in range(0, len(slow), step):
        slab = cells.take(slow[start : start + step], 0).take(middle, 1).take(fast, 2)
        filled[start : start + step] = slab
        rest = np.flatnonzero(slab == undecided)
        for first in range(0, len(rest), _CHUNK):
            i, j, k = np.unravel_index(rest[first : first + _CHUNK], slab.shape)
            at = (i + start, j, k)
            values = _interpolated(flat, margins.shape[1:], axes, [at[memory.index(n)] for n in range(3)])
            filled[at] = merge(values, entries)
    organs = _bounds(decided, [SPECK_MM2 / (math.prod(grid.spacing_mm) / mm) for mm in grid.spacing_mm])
    if organs is None:
        return None
    x, y, z = (slice(b.start + part.start, b.start + part.stop) for b, part in zip(box, organs, strict=True))
    return x, y, z


def _axes(grid: NetworkGrid, box: Box, core: Box, near: Sequence[slice]) -> list[_Axis]:
    """Per axis of the network, the CT's voxels that belong to `core` and lie in the part `near` of the box."""
    axes = []
    for n, (lower, upper, weight) in enumerate(native_samples(grid)):
        nearest = lower + (weight >= 0.5)
        cell = lower.clip(box[n].start, box[n].stop - 1) - box[n].start
        wanted = (nearest >= core[n].start) & (nearest < core[n].stop)
        wanted &= (cell >= near[n].start) & (cell < near[n].stop)
        native = np.flatnonzero(wanted)  # in one piece: positions rise or fall along an axis
        part = slice(int(native[0]), int(native[-1]) + 1) if len(native) else slice(0, 0)
        upper = upper.clip(box[n].start, box[n].stop - 1) - box[n].start
        axes.append(_Axis(part, cell[part], upper[part], weight[part]))
    return axes


def _decided(margins: NDArray[np.float32], entries: Sequence[OrganEntry], undecided: int) -> NDArray[np.uint8]:
    """The label of each voxel (X, Y, Z) that is clear beyond all rounding, else `undecided`."""
    smallest = min(entry.temperature for entry in entries)
    largest = max(float(margins.max()), -float(margins.min())) / smallest  # NaN stays NaN: nothing is clear
    slack = np.float32(_ROUNDING * (largest + max(abs(cut(entry)) for entry in entries)))
    limits = [np.float32(entry.temperature * (cut(entry) - slack)) for entry in entries]
    labels = np.zeros(margins.shape[1:], np.uint8)
    for x, plane in enumerate(labels):  # plane by plane, in the cache
        background = margins[0, x] <= limits[0]
        for margin, limit in zip(margins[1:], limits[1:], strict=True):
            background &= margin[x] <= limit
        near = ~background
        plane[near] = _clear_winners(margins[:, x][:, near], entries, slack, undecided)
    return labels


def _clear_winners(
    margins: NDArray[np.float32], entries: Sequence[OrganEntry], slack: np.float32, undecided: int
) -> NDArray[np.uint8]:
    """The same for margins (K, n). A winner is clear when no other of its group, above its own threshold or not, comes
    close to it: then the winner at two places is the winner between them."""
    labels = np.zeros(margins.shape[1:], np.uint8)
    clear = np.ones(labels.shape, bool)
    for group in groups(entries):
        best = np.full(labels.shape, -np.inf, np.float32)
        second, above = best.copy(), best.copy()
        winner = np.zeros_like(labels)
        none = np.ones_like(clear)
        for k in group:
            score = margins[k] / np.float32(entries[k].temperature)
            over = score - np.float32(cut(entries[k]))
            none &= over <= -slack
            wins = score > best
            np.maximum(second, np.minimum(score, best), out=second)
            np.maximum(best, score, out=best)
            winner[wins] = entries[k].value
            above[wins] = over[wins]
        sure = (above > slack) & (best - second > slack)
        labels[sure] = winner[sure]
        clear &= none | sure
    labels[~clear] = undecided
    return labels


def _cells(labels: NDArray[np.uint8], undecided: int) -> NDArray[np.uint8]:
    """Per cell between a voxel and its next neighbours along all axes: the label of all eight, else `undecided`."""
    lowest, highest = labels.copy(), labels.copy()
    for n in range(3):
        this, following = ([slice(None)] * n + [part] for part in (slice(None, -1), slice(1, None)))
        for values, extreme in ((lowest, np.minimum), (highest, np.maximum)):
            extreme(values[tuple(this)], values[tuple(following)], out=values[tuple(this)])
    highest[lowest != highest] = undecided
    return highest


def _bounds(labels: NDArray[np.uint8], least: Sequence[float] = (1, 1, 1)) -> Box | None:
    """The smallest box around everything that is not background, of planes that show so many voxels of it per axis."""
    others = [tuple(m for m in range(3) if m != n) for n in range(3)]
    marked = [np.flatnonzero(np.count_nonzero(labels, axis=others[n]) >= least[n]) for n in range(3)]
    if not all(len(index) for index in marked):
        return None
    x, y, z = (slice(int(index[0]), int(index[-1]) + 1) for index in marked)
    return x, y, z


def _interpolated(
    flat: NDArray[np.float32], shape: Sequence[int], axes: Sequence[_Axis], at: Sequence[NDArray[np.intp]]
) -> NDArray[np.float32]:
    """Margins (K, n) at n voxels of the CT, `at` per axis of the network; axes in `preprocessing.restore`'s order."""
    strides = [math.prod(shape[n + 1 :]) for n in range(3)]
    x, y, z = ([side[at[n]] * strides[n] for side in (axes[n].lower, axes[n].upper)] for n in range(3))
    weights = [axes[n].weight[at[n]] for n in range(3)]
    values = [[[flat.take(i + j + k, 1) for i in x] for j in y] for k in z]
    return _between([_between([_between(pair, weights[0]) for pair in row], weights[1]) for row in values], weights[2])


def _between(pair: Sequence[NDArray[np.float32]], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    first, result = pair
    result -= first
    result *= weight
    result += first
    return result
