"""A predictor against the truth of one test CT, on the CT's own grid: one row per organ (method.md section 8)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.metrics.calibration import calibration_binning
from numpy.typing import NDArray

from segviz_core.evaluation import dice_per_organ, evaluate
from segviz_core.experiments.datasets import Test
from segviz_core.experiments.predictors import Heads, Mask, Predictor
from segviz_core.labels import organs_named
from segviz_core.preprocessing import restore

BOX_MARGIN_MM = 20.0
"""ECE and Brier score are taken in the organ's box and this margin: far away all is easy (method.md section 8)."""

BINS = 15
"""Bins of the expected calibration error, as in Guo et al., arXiv 1706.04599."""

COLUMNS = (
    "case",
    "organ",
    "dice",
    "nsd",
    "hd95_mm",
    "truth_ml",
    "volume_error_ml",
    "false_positive_ml",
    "ece",
    "brier",
    "claimed_twice_ml",
)
"""What a result file holds per case and organ. `claimed_twice_ml`: volume that the organ's head and another one claim
before they compete; ECE and Brier are None for an organ that is not there."""


@dataclass(frozen=True)
class CaseScore:
    """Rows with the values of COLUMNS, one per organ, and the masks they belong to."""

    rows: list[dict[str, Any]]
    masks: dict[str, Mask]


def score(predictor: Predictor, test: Test, *, tolerance_mm: float) -> CaseScore:
    """All scores of one test case."""
    maps = restore(predictor.maps(test.intensities), test.grid)
    masks, probabilities = predictor.masks(maps), predictor.probabilities(maps)
    claims = predictor.claims(maps) if isinstance(predictor, Heads) else masks
    several = np.sum(list(claims.values()), axis=0) > 1
    spacing = test.grid.native_spacing_mm
    voxel_ml = math.prod(spacing) / 1000
    rows = []
    for organ, known in organs_named(predictor.organs).items():
        truth = test.truth == known.value
        (found,) = evaluate(
            masks[organ].astype(np.uint8),
            truth.astype(np.uint8),
            case=test.name,
            spacing_mm=spacing,
            organs={organ: 1},
            tolerance_mm=tolerance_mm,
        )
        ece, brier = _calibration(probabilities[organ], truth, spacing)
        twice = np.count_nonzero(several & claims[organ]) * voxel_ml
        values = {**vars(found), "ece": ece, "brier": brier, "claimed_twice_ml": twice}
        rows.append({k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()})
    return CaseScore(rows, masks)


def test_dice(predictor: Predictor, tests: Sequence[Test]) -> dict[str, float]:
    """Mean Dice per organ and `mean` over them, of the test cases that show the organ: for learning curves."""
    organs = organs_named(predictor.organs)
    found: dict[str, list[float]] = {organ: [] for organ in organs}
    for test in tests:
        masks = predictor.masks(restore(predictor.maps(test.intensities), test.grid))
        for organ, mask in masks.items():
            truth = test.truth == organs[organ].value
            if truth.any():
                found[organ].append(dice_per_organ(mask.astype(np.uint8), truth.astype(np.uint8), {organ: 1})[organ])
    dice = {organ: round(float(np.mean(values)), 4) for organ, values in found.items() if values}
    return dice | ({"mean": round(float(np.mean(list(dice.values()))), 4)} if dice else {})


test_dice.__test__ = False  # type: ignore[attr-defined]  # pytest: no test


def label_map(masks: dict[str, Mask]) -> NDArray[np.uint8]:
    """One label map of all organs, for pictures; where several claim a voxel, the first one has it."""
    labels, organs = np.zeros(next(iter(masks.values())).shape, np.uint8), organs_named(masks)
    for organ, mask in reversed(masks.items()):
        labels[mask] = organs[organ].value
    return labels


def _calibration(p: NDArray[np.float32], truth: Mask, spacing_mm: Sequence[float]) -> tuple[float | None, float | None]:
    """Expected calibration error and Brier score in the organ's box."""
    if not truth.any():
        return None, None
    box = []
    for axis in range(3):
        span = np.flatnonzero(truth.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = math.ceil(BOX_MARGIN_MM / spacing_mm[axis])
        box.append(slice(max(0, int(span[0]) - margin), int(span[-1]) + 1 + margin))
    inside, known = (torch.from_numpy(np.ascontiguousarray(v[tuple(box)]))[None, None] for v in (p, truth))
    confidence, accuracy, counts = calibration_binning(inside, known.float(), num_bins=BINS)
    share = counts / counts.sum()
    ece = float(torch.nansum((confidence - accuracy).abs() * share))
    return ece, float(((inside - known.float()) ** 2).mean())
