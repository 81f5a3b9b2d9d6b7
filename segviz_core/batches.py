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
from torch import Tensor

from segviz_core.cases import Case

ROTATION_DEG, ZOOM, INTENSITY_SCALE, INTENSITY_SHIFT = 12.0, 0.10, 0.10, 0.10
"""Augmentation of method.md section 3, the same in every row: z-rotation, zoom, intensity; no flips."""


@dataclass(frozen=True)
class Batch:
    """Patches of one step.

    images (B, 1, X, Y, Z) in about [0, 1]; masks (B, K, X, Y, Z) of the own organs, 0 or 1; annotated (B, K) bool;
    targets: foreign organ -> (B, X, Y, Z) soft map in [0, 1].
    """

    images: Tensor
    masks: Tensor
    annotated: Tensor
    targets: dict[str, Tensor]


def draw_batch(
    cases: Sequence[Case],
    *,
    organs: Sequence[str],
    foreign: Sequence[str] = (),
    patch_size: Sequence[int],
    batch_size: int,
    rng: np.random.Generator,
) -> Batch:
    """Draw a batch: patches around a voxel of an own organ and anywhere, in turn (1:1)."""
    items = [_draw_patch(cases, organs, foreign, patch_size, rng, on_organ=i % 2 == 0) for i in range(batch_size)]
    channels = torch.stack([patch for patch, _ in items])
    split = 1 + len(organs)
    return Batch(
        images=channels[:, :1],
        masks=(channels[:, 1:split] >= 0.5).float(),
        annotated=torch.tensor([[organ in annotated for organ in organs] for _, annotated in items]),
        targets={organ: channels[:, split + j] for j, organ in enumerate(foreign)},
    )


def _draw_patch(
    cases: Sequence[Case],
    organs: Sequence[str],
    foreign: Sequence[str],
    patch_size: Sequence[int],
    rng: np.random.Generator,
    *,
    on_organ: bool,
) -> tuple[Tensor, frozenset[str]]:
    case = cases[int(rng.integers(len(cases)))]
    annotated = frozenset(organ for organ in organs if organ in case.masks)
    center = _center(case, sorted(annotated), rng, on_organ=on_organ)
    angle = math.radians(float(rng.uniform(-ROTATION_DEG, ROTATION_DEG)))
    zoom = float(rng.uniform(1 - ZOOM, 1 + ZOOM))
    # output voxel offset (patch axes) -> input voxel offset: rotate in the axial plane, scale by the zoom
    matrix = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]]) / zoom
    center = _inside(center, case.voxels.shape, patch_size)
    half = np.abs(matrix) @ ((np.asarray(patch_size) - 1) / 2) + 1
    low = np.floor(center - half).astype(int)
    size = np.ceil(center + half).astype(int) - low + 1
    empty = np.zeros(case.voxels.shape, np.uint8)
    maps: list[np.ndarray[Any, Any]] = [case.voxels]
    maps += [case.masks.get(organ, empty) for organ in organs]
    maps += [case.targets.get(organ, empty) for organ in foreign]
    region = torch.from_numpy(np.stack([_crop(m, low, size) for m in maps]))
    patch = F.grid_sample(
        region[None], _grid(matrix, center - low, patch_size, size), mode="bilinear", align_corners=True
    )[0]
    patch[0] /= 255
    if foreign:
        patch[1 + len(organs) :] /= 255
    scale = 1 + float(rng.uniform(-INTENSITY_SCALE, INTENSITY_SCALE))
    patch[0] = patch[0] * scale + float(rng.uniform(-INTENSITY_SHIFT, INTENSITY_SHIFT))
    return patch, annotated


def _center(
    case: Case, annotated: Sequence[str], rng: np.random.Generator, *, on_organ: bool
) -> np.ndarray[Any, np.dtype[np.float64]]:
    if on_organ and annotated:
        mask = case.masks[annotated[int(rng.integers(len(annotated)))]]
        inside = np.flatnonzero(mask)
        if inside.size:
            index = inside[int(rng.integers(inside.size))]
            return np.array(np.unravel_index(index, mask.shape), dtype=np.float64)
    return np.array([int(rng.integers(n)) for n in case.voxels.shape], dtype=np.float64)


def _inside(
    center: np.ndarray[Any, np.dtype[np.float64]], shape: Sequence[int], patch_size: Sequence[int]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Move the patch inside the volume; along an axis shorter than the patch, centre it."""
    half = (np.asarray(patch_size) - 1) / 2
    last = np.asarray(shape) - 1
    low = np.minimum(half, last / 2)
    return np.asarray(np.clip(center, low, np.maximum(low, last - half)))


def _crop(
    volume: np.ndarray[Any, Any], low: np.ndarray[Any, Any], size: np.ndarray[Any, Any]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The box at `low`, as float32; outside the volume is air (0)."""
    box = np.zeros(size, np.float32)
    start = np.maximum(low, 0)
    stop = np.minimum(low + size, volume.shape)
    if (start < stop).all():
        inner = tuple(slice(a, b) for a, b in zip(start - low, stop - low, strict=True))
        box[inner] = volume[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
    return box


def _grid(
    matrix: np.ndarray[Any, Any], center: np.ndarray[Any, Any], patch_size: Sequence[int], size: np.ndarray[Any, Any]
) -> Tensor:
    """Sampling grid for grid_sample (align_corners): (1, X, Y, Z, 3) with the last axis in z, y, x order."""
    axes = [np.arange(n) - (n - 1) / 2 for n in patch_size]
    offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    points = offsets @ matrix.T + center
    normalised = 2 * points / np.maximum(size - 1, 1) - 1
    return torch.from_numpy(np.ascontiguousarray(normalised[..., ::-1], dtype=np.float32))[None]
