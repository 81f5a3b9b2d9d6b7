"""How well a label map agrees with the truth: one row per case and organ, on the CT's own grid (method.md section 8).

An organ that is in neither map is right (Dice 1, NSD 1, HD95 0), one that is in only one map is all wrong (Dice 0,
NSD 0, HD95 = the image's diagonal), as BraTS counts; rows with `truth_ml == 0` can be set apart.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from numpy.typing import NDArray

from segviz_core.labels import ORGANS

TOLERANCE_MM = 2.0
"""Tolerance of NSD (method.md section 8: 2 mm; 1 voxel on 5 mm phantoms)."""

LABEL_VALUES: Mapping[str, int] = {organ.name: organ.value for organ in ORGANS.values()}


@dataclass(frozen=True)
class OrganScore:
    """One organ of one case.

    `nsd` is the share of both surfaces that lies within the tolerance of the other, by area; `hd95_mm` the larger of
    the two directed 95 % surface distances; `volume_error_ml` is predicted minus true; `false_positive_ml` the
    predicted volume outside the truth.
    """

    case: str
    organ: str
    dice: float
    nsd: float
    hd95_mm: float
    truth_ml: float
    volume_error_ml: float
    false_positive_ml: float


def evaluate(
    prediction: NDArray[np.integer],
    truth: NDArray[np.integer],
    *,
    case: str,
    spacing_mm: Sequence[float],
    organs: Mapping[str, int] = LABEL_VALUES,
    tolerance_mm: float = TOLERANCE_MM,
) -> tuple[OrganScore, ...]:
    """Scores of two label maps (I, J, K) on one grid, per organ of `organs` (name -> label value)."""
    _check_shapes(prediction, truth)
    voxel_ml = math.prod(spacing_mm) / 1000
    diagonal = math.hypot(*(n * s for n, s in zip(truth.shape, spacing_mm, strict=True)))
    scores = []
    for organ, value in organs.items():
        found, true = prediction == value, truth == value
        n_found, n_true, n_both = (int(np.count_nonzero(mask)) for mask in (found, true, found & true))
        nsd, hd95 = _surface_scores(found, true, spacing_mm, tolerance_mm, diagonal)
        scores.append(
            OrganScore(
                case,
                organ,
                _dice(n_found, n_true, n_both),
                nsd,
                hd95,
                truth_ml=n_true * voxel_ml,
                volume_error_ml=(n_found - n_true) * voxel_ml,
                false_positive_ml=(n_found - n_both) * voxel_ml,
            )
        )
    return tuple(scores)


def dice_per_organ(
    prediction: NDArray[np.integer], truth: NDArray[np.integer], organs: Mapping[str, int] = LABEL_VALUES
) -> dict[str, float]:
    """Dice of two label maps of one shape, per organ of `organs` (name -> label value)."""
    _check_shapes(prediction, truth)
    scores = {}
    for organ, value in organs.items():
        found, true = prediction == value, truth == value
        scores[organ] = _dice(*(int(np.count_nonzero(mask)) for mask in (found, true, found & true)))
    return scores


def _dice(found: int, true: int, both: int) -> float:
    return 2 * both / (found + true) if found + true else 1.0


def _surface_scores(
    found: NDArray[np.bool_], true: NDArray[np.bool_], spacing_mm: Sequence[float], tolerance_mm: float, diagonal: float
) -> tuple[float, float]:
    """NSD and HD95 (mm)."""
    if not found.any() and not true.any():
        return 1.0, 0.0
    if not found.any() or not true.any():
        return 0.0, diagonal
    box = _box(found | true)
    # A border of background, so that an organ cut by the edge of the image has a surface there.
    masks = [torch.from_numpy(np.pad(mask[box], 1))[None, None] for mask in (found, true)]
    spacing = [float(s) for s in spacing_mm]
    nsd = compute_surface_dice(*masks, [tolerance_mm], include_background=True, spacing=spacing, use_subvoxels=True)
    hd95 = compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=spacing)
    return float(nsd), float(hd95)


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    spans = [np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis))) for axis in range(3)]
    return tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)


def _check_shapes(prediction: NDArray[np.integer], truth: NDArray[np.integer]) -> None:
    if prediction.shape != truth.shape:
        raise ValueError(f"expected label maps of one shape, found {prediction.shape} and {truth.shape}")
