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

_OPEN = 255
"""Stands among the codes (0 background, 1 the first entry, ...) where interpolation has to decide."""

_ROUNDING = 4e-6
"""Of the largest score: more than two float32 values can lose against each other on the way through three
interpolations (15 roundings of 6e-8 each) and a division."""

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

    Returns the voxels of `grid` around all that may bear a label in `box`; None: there is no organ.
    """
    codes = _codes(margins, entries)
    found = _bounds(codes)
    if found is None:
        return None
    axes = _axes(grid, box, core or box, found)
    out = labels.transpose(grid.axes)[tuple(axis.native for axis in axes)]
    memory = sorted(range(3), key=lambda n: -abs(out.strides[n]))  # filled in the order in which it lies there
    cells = np.ascontiguousarray(_cells(codes).transpose(memory))
    values = np.array([0] + [entry.value for entry in entries] + [0] * (255 - len(entries)), np.uint8)
    flat = margins.reshape(len(margins), -1)
    slow, middle, fast = (axes[n].lower for n in memory)
    filled = out.transpose(memory)
    step = max(1, _SLAB // max(1, len(middle) * len(fast)))
    for start in range(0, len(slow), step):
        slab = cells.take(slow[start : start + step], 0).take(middle, 1).take(fast, 2)
        filled[start : start + step] = values[slab]
        at = list(np.nonzero(slab == _OPEN))
        at[0] += start
        for first in range(0, len(at[0]), _CHUNK):
            chunk = tuple(index[first : first + _CHUNK] for index in at)
            by_network_axis = [chunk[memory.index(n)] for n in range(3)]
            filled[chunk] = merge(_interpolated(flat, margins.shape[1:], axes, by_network_axis), entries)
    x, y, z = (slice(b.start + part.start, b.start + part.stop) for b, part in zip(box, found, strict=True))
    return x, y, z


def _axes(grid: NetworkGrid, box: Box, core: Box, found: Box) -> list[_Axis]:
    """Per axis of the network, the CT's voxels in `core` that a label may reach: `found` holds all labels."""
    axes = []
    for n, (lower, upper, weight) in enumerate(native_samples(grid)):
        nearest = lower + (weight >= 0.5)
        cell = lower.clip(box[n].start, box[n].stop - 1) - box[n].start
        wanted = (nearest >= core[n].start) & (nearest < core[n].stop)
        wanted &= (cell >= found[n].start - 1) & (cell < found[n].stop)
        native = np.flatnonzero(wanted)  # in one piece: positions rise or fall along an axis
        part = slice(int(native[0]), int(native[-1]) + 1) if len(native) else slice(0, 0)
        upper = upper.clip(box[n].start, box[n].stop - 1) - box[n].start
        axes.append(_Axis(part, cell[part], upper[part], weight[part]))
    return axes


def _codes(margins: NDArray[np.float32], entries: Sequence[OrganEntry]) -> NDArray[np.uint8]:
    """Who wins each voxel (X, Y, Z) beyond all rounding: 0 background, 1 the first entry, ...; else `_OPEN`."""
    smallest = min(entry.temperature for entry in entries)
    largest = max(float(margins.max()), -float(margins.min())) / smallest  # NaN stays NaN, and all voxels open
    slack = np.float32(_ROUNDING * (largest + max(abs(cut(entry)) for entry in entries)))
    limits = [np.float32(entry.temperature * (cut(entry) - slack)) for entry in entries]
    codes = np.zeros(margins.shape[1:], np.uint8)
    for x in range(len(codes)):  # plane by plane, in the cache
        background = margins[0, x] <= limits[0]
        for margin, limit in zip(margins[1:], limits[1:], strict=True):
            background &= margin[x] <= limit
        near = ~background
        codes[x][near] = _clear_winners(margins[:, x][:, near], entries, slack)
    return codes


def _clear_winners(margins: NDArray[np.float32], entries: Sequence[OrganEntry], slack: np.float32) -> NDArray[np.uint8]:
    """The codes of margins (K, n). A winner is clear when no other of its group, whether above its own threshold or
    not, comes close: then the same winner at two places is the winner between them."""
    codes = np.zeros(margins.shape[1:], np.uint8)
    clear = np.ones(margins.shape[1:], bool)
    for group in groups(entries):
        best = np.full(codes.shape, -np.inf, np.float32)
        second, above = best.copy(), best.copy()
        winner = np.zeros(codes.shape, np.uint8)
        none = np.ones(codes.shape, bool)
        for k in group:
            score = margins[k] / np.float32(entries[k].temperature)
            over = score - np.float32(cut(entries[k]))
            none &= over <= -slack
            wins = score > best
            np.maximum(second, np.minimum(score, best), out=second)
            np.maximum(best, score, out=best)
            winner[wins] = k + 1
            above[wins] = over[wins]
        sure = (above > slack) & (best - second > slack)
        codes[sure] = winner[sure]
        clear &= none | sure
    codes[~clear] = _OPEN
    return codes


def _cells(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Per cell between a voxel and its next neighbours along all axes: the code of all eight, or `_OPEN`."""
    lowest, highest = codes.copy(), codes.copy()
    for n in range(3):
        this, following = ([slice(None)] * n + [part] for part in (slice(None, -1), slice(1, None)))
        for values, extreme in ((lowest, np.minimum), (highest, np.maximum)):
            extreme(values[tuple(this)], values[tuple(following)], out=values[tuple(this)])
    highest[lowest != highest] = _OPEN
    return highest


def _bounds(codes: NDArray[np.uint8]) -> Box | None:
    """The smallest box around everything that is not background."""
    marked = [np.flatnonzero(codes.any(axis=tuple(m for m in range(3) if m != n))) for n in range(3)]
    if not len(marked[0]):
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
