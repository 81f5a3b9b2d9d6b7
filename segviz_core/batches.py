"""Augmented training patches from prepared cases (method.md section 3).

Every step draws from its own generator, seeded by (seed, phase, step): training can stop and resume at any step, in
chunks of any size, and see the same patches.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from segviz_core.cases import Case

ROTATION_DEG, ZOOM, INTENSITY_SCALE, INTENSITY_SHIFT = 12.0, 0.10, 0.10, 0.10
"""Augmentation of method.md section 3, the same in every row: z-rotation, zoom, intensity; no flips."""


@dataclass(frozen=True)
class Batch:
    """Patches of one step.

    images (B, 1, X, Y, Z) in about [0, 1]; masks (B, K, X, Y, Z) of the own organs, 0 or 1; annotated (B, K) bool;
    targets (B, J, X, Y, Z): soft maps of the foreign organs in [0, 1].
    """

    images: Tensor
    masks: Tensor
    annotated: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same patches on `device`."""
        return Batch(*(part.to(device) for part in (self.images, self.masks, self.annotated, self.targets)))


def draw_batch(
    cases: Sequence[Case],
    *,
    organs: Sequence[str],
    foreign: Sequence[str] = (),
    patch_size: Sequence[int],
    batch_size: int,
    rng: np.random.Generator,
    contrast: float = 0.0,
    coarse: float = 0.0,
) -> Batch:
    """Draw a batch: patches around a voxel of an own organ and anywhere, in turn (1:1).

    `contrast` is the largest |a| and |b| of the random curve of HU (method.md 9c); 0 switches it off. `coarse` is the
    share of patches at two or three times the cases' spacing: so `--fast` and the pass that locates the organs see a
    CT, and a network that never saw that finds nothing there.
    """
    drawn = [cases[int(rng.integers(len(cases)))] for _ in range(batch_size)]
    patches = [
        _draw_patch(case, organs, foreign, patch_size, rng, contrast=contrast, coarse=coarse, on_organ=i % 2 == 0)
        for i, case in enumerate(drawn)
    ]
    channels = torch.stack(patches)
    split = 1 + len(organs)
    return Batch(
        images=channels[:, :1],
        masks=(channels[:, 1:split] >= 0.5).float(),
        annotated=torch.tensor([[organ in case.masks for organ in organs] for case in drawn]),
        targets=channels[:, split:],
    )


def _draw_patch(
    case: Case,
    organs: Sequence[str],
    foreign: Sequence[str],
    patch_size: Sequence[int],
    rng: np.random.Generator,
    *,
    contrast: float,
    coarse: float,
    on_organ: bool,
) -> Tensor:
    """(1 + K + J, X, Y, Z): image, own masks and soft maps; what a case lacks is 0."""
    annotated = sorted(organ for organ in organs if organ in case.masks)
    step = int(rng.integers(2, 4)) if coarse and rng.random() < coarse else 1
    seen = [step * size for size in patch_size]
    center = _inside(_center(case, annotated, rng, on_organ=on_organ), case.voxels.shape, seen)
    angle = math.radians(float(rng.uniform(-ROTATION_DEG, ROTATION_DEG)))
    zoom = float(rng.uniform(1 - ZOOM, 1 + ZOOM))
    levels = np.arange(256, dtype=np.float32)
    maps: list[tuple[NDArray[Any] | None, NDArray[np.float32]]] = [(case.voxels, _intensities(rng, contrast))]
    maps += [(case.masks.get(organ), levels) for organ in organs]
    maps += [(case.targets.get(organ), levels / np.float32(255)) for organ in foreign]
    return _resample(maps, center, angle, zoom / step, patch_size)


def _center(
    case: Case, annotated: Sequence[str], rng: np.random.Generator, *, on_organ: bool
) -> np.ndarray[Any, np.dtype[np.float64]]:
    if on_organ and annotated:
        places = case.places(annotated[int(rng.integers(len(annotated)))])
        if places.size:
            index = places[int(rng.integers(places.size))]
            return np.array(np.unravel_index(index, case.voxels.shape), dtype=np.float64)
    return np.array([int(rng.integers(n)) for n in case.voxels.shape], dtype=np.float64)


def _inside(
    center: np.ndarray[Any, np.dtype[np.float64]], shape: Sequence[int], patch_size: Sequence[int]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Move the patch inside the volume; along an axis shorter than the patch, centre it."""
    half = (np.asarray(patch_size) - 1) / 2
    last = np.asarray(shape) - 1
    low = np.minimum(half, last / 2)
    return np.asarray(np.clip(center, low, np.maximum(low, last - half)))


def _intensities(rng: np.random.Generator, contrast: float) -> NDArray[np.float32]:
    """What each of the 256 levels of a prepared CT becomes in this patch: curve, scale and shift.

    The curve v + a sin(2 pi v) / 2 pi + b sin(pi v) / pi keeps 0 and 1 and rises while |a| + |b| < 1 (method.md 9c).
    """
    v = np.arange(256) / 255
    a, b = rng.uniform(-contrast, contrast, 2)
    v = v + a * np.sin(2 * np.pi * v) / (2 * np.pi) + b * np.sin(np.pi * v) / np.pi
    scale = 1 + rng.uniform(-INTENSITY_SCALE, INTENSITY_SCALE)
    return np.asarray(v * scale + rng.uniform(-INTENSITY_SHIFT, INTENSITY_SHIFT), np.float32)


def _resample(
    maps: Sequence[tuple[NDArray[Any] | None, NDArray[np.float32]]],
    center: NDArray[np.float64],
    angle: float,
    zoom: float,
    patch_size: Sequence[int],
) -> Tensor:
    """Trilinear values (C, X, Y, Z) of 8-bit maps, each seen through its table of 256 values; None is a map of 0.

    The patch lies around `center` (voxels), turned by `angle` (radians) in the axial plane and magnified by `zoom`.
    Only two axes turn, so z goes first; then four columns along z make each column of the patch. Beyond the volume it
    is reflected, as one pass over a region pads.
    """
    x, y = (np.arange(n) - (n - 1) / 2 for n in patch_size[:2])
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    columns_x = cos * x[:, None] - sin * y[None, :] + center[0]
    columns_y = sin * x[:, None] + cos * y[None, :] + center[1]
    z = (np.arange(patch_size[2]) - (patch_size[2] - 1) / 2) / zoom + center[2]
    low = np.array([math.floor(axis.min()) for axis in (columns_x, columns_y, z)])
    high = np.array([math.floor(axis.max()) + 2 for axis in (columns_x, columns_y, z)])
    size = high - low

    below = np.floor(z)
    z_index, z_weight = torch.from_numpy(below.astype(np.int64) - low[2]), torch.from_numpy((z - below).astype("f4"))
    rows = torch.zeros(int(size[0] * size[1]), len(maps), int(patch_size[2]))
    for channel, (volume, table) in enumerate(maps):
        if volume is not None:
            values = torch.from_numpy(table[_crop(volume, low, high)]).reshape(len(rows), -1)
            lower, upper = values.index_select(1, z_index), values.index_select(1, z_index + 1)
            torch.lerp(lower, upper, z_weight, out=rows[:, channel])

    x0, y0 = np.floor(columns_x), np.floor(columns_y)
    wx, wy = columns_x - x0, columns_y - y0
    first = (x0.astype(np.int64) - low[0]) * size[1] + y0.astype(np.int64) - low[1]
    neighbours = np.stack([first, first + 1, first + size[1], first + size[1] + 1], -1)
    weights = np.stack([(1 - wx) * (1 - wy), (1 - wx) * wy, wx * (1 - wy), wx * wy], -1)
    patch = F.embedding_bag(
        torch.from_numpy(neighbours.reshape(-1, 4)),
        rows.flatten(1),
        mode="sum",
        per_sample_weights=torch.from_numpy(weights.reshape(-1, 4).astype(np.float32)),
    )
    return patch.reshape(*patch_size[:2], len(maps), patch_size[2]).permute(2, 0, 1, 3)


def _crop(volume: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.uint8]:
    """Voxels [low, high) of an 8-bit map, reflected at its faces where the box reaches beyond them."""
    start, stop = np.clip(low, 0, np.array(volume.shape) - 1), np.clip(high, 1, volume.shape)
    box = np.asarray(volume[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]).view(np.uint8)
    if (start > low).any() or (stop < high).any():
        box = np.pad(
            box, [(int(s - a), int(b - e)) for a, b, s, e in zip(low, high, start, stop, strict=True)], "reflect"
        )
    return box
