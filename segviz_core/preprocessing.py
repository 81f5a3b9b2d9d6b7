"""The one way of a CT to the network and of the network's output back: numpy only, the same in training, evaluation
and inference (method.md, section 5.7).

Axes are permuted and flipped to RAS; an oblique volume stays oblique. Resampling is separable trilinear with
half-pixel centres: output voxel x of an axis lies at input coordinate `(x + .5) * target / spacing - .5`, clamped at
the edges. HU are resampled first and windowed afterwards: all is linear up to the clip, and a graph that resizes the
stored int16 voxels gives the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segviz_core.contract import DataContract
from segviz_core.volumes import Affine, Volume

Triple = tuple[int, int, int]
Box = tuple[slice, slice, slice]
"""Voxels `start` to `stop` along each axis (R, A, S) of a network's grid."""

Samples = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]

_SLAB = 32
"""So many slices are resampled at a time: what lies between the steps then stays in the processor's cache (measured:
.7 of the time)."""


@dataclass(frozen=True, eq=False)
class NetworkGrid:
    """Where the network's voxels lie, and the way back to the CT.

    Network axis n (R, A or S) runs along axis `axes[n]` of the CT, backwards where `flips[n]`. `shape`, `spacing_mm`
    and `affine` (voxel centre -> RAS mm) describe the network's grid, `native_shape` and `native_spacing_mm` the CT's.
    """

    native_shape: Triple
    native_spacing_mm: tuple[float, float, float]
    axes: Triple
    flips: tuple[bool, bool, bool]
    shape: Triple
    spacing_mm: tuple[float, float, float]
    affine: Affine


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the network sees: voxels float32 `(X, Y, Z)` from 0 to 1, C-contiguous, and their grid."""

    voxels: NDArray[np.float32]
    grid: NetworkGrid


def prepare(ct: Volume, contract: DataContract) -> Prepared:
    """The CT (HU, any orientation and spacing) in the contract's orientation, spacing and window.

    The axes of `ct` must stand at right angles, as `volumes.read_ct` makes sure.
    """
    grid = network_grid(ct, contract)
    return Prepared(prepare_box(ct, contract, grid, whole(grid)), grid)


def prepare_box(ct: Volume, contract: DataContract, grid: NetworkGrid, box: Box) -> NDArray[np.float32]:
    """The voxels that `prepare` gives in `box` of `grid`, without making the others."""
    return _to_network(ct.voxels, grid, box, window_hu=contract.window_hu)


def whole(grid: NetworkGrid) -> Box:
    """The box of all voxels of `grid`."""
    x, y, z = (slice(0, size) for size in grid.shape)
    return x, y, z


def prepare_mask(mask: NDArray[np.bool_], grid: NetworkGrid) -> NDArray[np.bool_]:
    """A mask `(I, J, K)` on the CT's grid as the network sees it, `(X, Y, Z)`: resampled like the CT, then >= .5."""
    return _to_network(mask, grid, whole(grid)) >= 0.5


def restore(values: NDArray[np.float32], grid: NetworkGrid) -> NDArray[np.float32]:
    """`(C, X, Y, Z)` values of the network, interpolated on the CT's own grid and axes: float32 `(C, I, J, K)`."""
    for n, samples in enumerate(native_samples(grid)):
        values = _interpolate(values, 1 + n, samples)
    back = [1 + grid.axes.index(axis) for axis in range(3)]
    return values.transpose(0, *back)


def native_samples(grid: NetworkGrid) -> list[Samples]:
    """Per axis of the network and for each of the CT's voxels along it, in the CT's order: the two network voxels
    around it and the weight of the second."""
    found = []
    for n, axis in enumerate(grid.axes):
        scale = grid.native_spacing_mm[axis] / grid.spacing_mm[n]
        lower, upper, weight = _samples(grid.native_shape[axis], grid.shape[n], scale)
        step = -1 if grid.flips[n] else 1
        found.append((lower[::step], upper[::step], weight[::step]))
    return found


def network_grid(ct: Volume, contract: DataContract) -> NetworkGrid:
    """The grid of the contract's orientation and spacing over the CT."""
    spacing = np.array(ct.spacing_mm)
    cosines = ct.affine[:3, :3] / spacing  # columns: directions of the CT's axes
    axes = max(permutations(range(3)), key=lambda order: sum(abs(cosines[n, order[n]]) for n in range(3)))
    flips = [bool(cosines[n, axes[n]] < 0) for n in range(3)]
    target = contract.spacing_mm
    shape = [max(1, round(ct.voxels.shape[axes[n]] * spacing[axes[n]] / target[n])) for n in range(3)]
    native_from_network = np.zeros((4, 4))
    native_from_network[3, 3] = 1
    for n, axis in enumerate(axes):
        scale = target[n] / spacing[axis]
        first = 0.5 * scale - 0.5
        native_from_network[axis, n] = -scale if flips[n] else scale
        native_from_network[axis, 3] = ct.voxels.shape[axis] - 1 - first if flips[n] else first
    return NetworkGrid(
        native_shape=_triple(ct.voxels.shape),
        native_spacing_mm=ct.spacing_mm,
        axes=_triple(axes),
        flips=(flips[0], flips[1], flips[2]),
        shape=_triple(shape),
        spacing_mm=target,
        affine=ct.affine @ native_from_network,
    )


def _to_network(
    voxels: NDArray[np.generic], grid: NetworkGrid, box: Box, *, window_hu: tuple[float, float] | None = None
) -> NDArray[np.float32]:
    """Any voxels on the CT's grid, resampled to `box` of the network's: float32 `(X, Y, Z)`, C-contiguous."""
    view = voxels.transpose(grid.axes)
    sizes = view.shape
    # The axis that shrinks most goes first; an order that depends on the network's axes alone makes the result the same
    # to the last bit for every orientation of the CT.
    order = sorted(range(3), key=lambda n: (grid.shape[n] / sizes[n], -n))
    samples: list[Samples] = []
    for n in range(3):
        scale = grid.spacing_mm[n] / grid.native_spacing_mm[grid.axes[n]]
        lower, upper, weight = _part(_samples(grid.shape[n], sizes[n], scale), box[n])
        if grid.flips[n]:
            lower, upper = sizes[n] - 1 - lower, sizes[n] - 1 - upper
        samples.append((lower, upper, weight))
    result = np.empty([len(weight) for _, _, weight in samples], np.float32)
    slowest = int(np.argmax(np.abs(view.strides)))  # slices that lie in one piece in memory
    for start in range(0, result.shape[slowest], _SLAB):
        part = [slice(None)] * 3
        part[slowest] = slice(start, start + _SLAB)
        near = [_part(*pair) for pair in zip(samples, part, strict=True)]
        first = [int(min(lower.min(), upper.min())) for lower, upper, _ in near]
        last = [int(max(lower.max(), upper.max())) for lower, upper, _ in near]
        piece: NDArray[Any] = view[tuple(slice(f, e + 1) for f, e in zip(first, last, strict=True))]
        for n in order:
            lower, upper, weight = near[n]
            piece = _interpolate(piece, n, (lower - first[n], upper - first[n], weight))
        result[tuple(part)] = piece if window_hu is None else _windowed(piece, window_hu)
    return result


def _windowed(hu: NDArray[np.float32], window_hu: tuple[float, float]) -> NDArray[np.float32]:
    """0 at the lower and 1 at the upper end of the window, clipped; in place."""
    low, high = window_hu
    np.clip(hu, low, high, out=hu)
    hu -= np.float32(low)
    hu /= np.float32(high - low)
    return hu


def _samples(count: int, available: int, scale: float) -> Samples:
    """Both neighbours of each of `count` output voxels of one axis and the weight of the second."""
    position = np.clip((np.arange(count) + 0.5) * scale - 0.5, 0, available - 1)
    lower = position.astype(np.intp)
    return lower, np.minimum(lower + 1, available - 1), (position - lower).astype(np.float32)


def _part(samples: Samples, part: slice) -> Samples:
    lower, upper, weight = samples
    return lower[part], upper[part], weight[part]


def _interpolate(values: NDArray[np.generic], axis: int, samples: Samples) -> NDArray[np.float32]:
    """Linear interpolation along one axis; the result has the memory order of `values`."""
    memory = sorted(range(values.ndim), key=lambda n: -abs(values.strides[n]))
    lower, upper, weight = samples
    values, at = values.transpose(memory), memory.index(axis)  # np.take copies what is not in C order
    first = values.take(lower, at).astype(np.float32, copy=False)
    result = values.take(upper, at).astype(np.float32, copy=False)
    result -= first
    result *= weight.reshape(-1, *[1] * (values.ndim - 1 - at))
    result += first
    return result.transpose(np.argsort(memory))


def _triple(values: Sequence[int]) -> Triple:
    i, j, k = values
    return i, j, k
