"""Which part of a CT the network has to see: the body, and within it the organs (performance.md, section 3).

Boxes are found on coarse views and given back on the network's grid. The rule: a box may be too large, never too small.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from segviz_core.contract import DataContract
from segviz_core.merging import cut
from segviz_core.meta_model import OrganEntry
from segviz_core.preprocessing import Box, NetworkGrid, network_grid
from segviz_core.volumes import Volume

AIR_HU = -400.0
"""Below lies air: outside the body, in the lungs and in the bowel."""

BODY_MARGIN_MM = 5.0
"""Air around the body, beyond the step of the view."""

MARGIN_MM = 15.0
"""What the network sees around an organ: context, and room for what the coarse pass missed at the organ's rim."""

COARSE_FACTOR, COARSEST_MM = 3.0, 6.0
"""Organs are located at three times the contract's spacing, but not beyond 6 mm, where the pancreas is a few voxels."""

SMALL = 4_000_000
"""A body of fewer network voxels is segmented as soon as its organs are located (.25 CPU seconds)."""

LARGE_SHARE = 0.8
"""A region of more than this share of the body saves too little to leave something out for it."""

_BODY_STEP_MM = 5.0
_SENSITIVE = 1.0
"""How far below its threshold, in logits, a coarse score already counts: to locate is not to segment."""


def body_box(ct: Volume, grid: NetworkGrid, *, window_hu: tuple[float, float]) -> Box | None:
    """The voxels of `grid` around everything denser than air, None when there is nothing.

    Every 4th to 8th voxel of a fine CT is looked at. In a clipped CT air lies at the lower end of the window, so the
    limit lies above it.
    """
    steps = [max(1, min(8, round(_BODY_STEP_MM / mm))) for mm in ct.spacing_mm]
    view = ct.voxels[tuple(slice(None, None, step) for step in steps)]
    extent = _extent(view > max(AIR_HU, window_hu[0] + 5))
    if extent is None:
        return None
    low, high = np.zeros(3), np.zeros(3)
    for n, axis in enumerate(grid.axes):
        first, last = ((extent[side][axis] + sign) * steps[axis] for side, sign in ((0, -1), (1, 1)))
        if grid.flips[n]:
            first, last = (ct.voxels.shape[axis] - 1 - index for index in (last, first))
        low[n], high[n] = first * grid.native_spacing_mm[axis], (last + 1) * grid.native_spacing_mm[axis]
    return _box(low - BODY_MARGIN_MM, high + BODY_MARGIN_MM, grid)


def organs_box(
    see: Callable[[DataContract, NetworkGrid, Box], NDArray[np.float32]],
    ct: Volume,
    contract: DataContract,
    grid: NetworkGrid,
    body: Box,
    entries: Sequence[OrganEntry],
) -> Box:
    """The voxels of `grid` within `body` around all organs, and `MARGIN_MM` more.

    `see(contract, grid, box)` gives the network's margins (K, X, Y, Z); it is asked for a coarse view. All of `body` is
    given back where that would be too coarse, where it saves nothing, and where one of the organs is not seen: a coarse
    view is no proof that it is not there.
    """
    x, y, z = (COARSE_FACTOR * mm for mm in contract.spacing_mm)
    if max(x, y, z) > COARSEST_MM or voxels(body) < SMALL:
        return body
    contract = replace(contract, spacing_mm=(x, y, z))
    coarse = network_grid(ct, contract)
    box = on_grid(body, grid, coarse)
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for margin, entry in zip(see(contract, coarse, box), entries, strict=True):
        extent = _extent(margin > entry.temperature * (cut(entry) - _SENSITIVE))
        if extent is None:
            return body
        first, last = (np.add(side, [part.start for part in box]) for side in extent)
        low = np.minimum(low, first * coarse.spacing_mm)
        high = np.maximum(high, (last + 1) * coarse.spacing_mm)
    region = common(_box(low - MARGIN_MM, high + MARGIN_MM, grid), body)
    return region if voxels(region) < LARGE_SHARE * voxels(body) else body


def on_grid(box: Box, grid: NetworkGrid, other: NetworkGrid) -> Box:
    """The voxels of `other` around the same place: both grids begin at the CT's rim."""
    low, high = (np.array([getattr(part, end) for part in box]) * grid.spacing_mm for end in ("start", "stop"))
    return _box(low, high, other)


def common(a: Box, b: Box) -> Box:
    """The voxels of both boxes."""
    x, y, z = (slice(max(p.start, q.start), min(p.stop, q.stop)) for p, q in zip(a, b, strict=True))
    return x, y, z


def joined(a: Box | None, b: Box | None) -> Box | None:
    """The smallest box around both."""
    if a is None or b is None:
        return a or b
    x, y, z = (slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(a, b, strict=True))
    return x, y, z


def reaches_a_cut(found: Box | None, region: Box, body: Box) -> bool:
    """Whether what was found in `region` goes on to a side where `region` ends within `body`: it may go on beyond."""
    return found is not None and any(
        (r.start > b.start and f.start <= r.start) or (r.stop < b.stop and f.stop >= r.stop)
        for f, r, b in zip(found, region, body, strict=True)
    )


def grown(box: Box, multiple: int, shape: Sequence[int]) -> Box:
    """`box` with every size raised to a multiple of `multiple` by voxels on both sides, as far as a grid of `shape`
    has them."""
    parts = []
    for part, size in zip(box, shape, strict=True):
        wanted = -(-(part.stop - part.start) // multiple) * multiple
        start = max(0, min(part.start - (wanted - (part.stop - part.start)) // 2, size - wanted))
        parts.append(slice(start, min(size, start + wanted)))
    x, y, z = parts
    return x, y, z


def voxels(box: Box) -> int:
    """How many voxels a box has."""
    return math.prod(part.stop - part.start for part in box)


def _extent(mask: NDArray[np.bool_]) -> tuple[list[int], list[int]] | None:
    """First and last index of a mask along each axis."""
    marked = [np.flatnonzero(mask.any(axis=tuple(m for m in range(3) if m != n))) for n in range(3)]
    if not len(marked[0]):
        return None
    return [int(index[0]) for index in marked], [int(index[-1]) for index in marked]


def _box(low: NDArray[np.float64], high: NDArray[np.float64], grid: NetworkGrid) -> Box:
    """The voxels of `grid` between two corners, in mm from the grid's rim along R, A and S."""
    parts = []
    for n, size in enumerate(grid.shape):
        start = math.floor(low[n] / grid.spacing_mm[n])
        stop = math.ceil(high[n] / grid.spacing_mm[n])
        start = min(max(0, start), size - 1)
        parts.append(slice(start, min(size, max(stop, start + 1))))
    x, y, z = parts
    return x, y, z
