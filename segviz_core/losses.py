"""Losses over annotated organs only, and distillation of foreign heads (method.md section 3).

All take margins (B, K, X, Y, Z), organ minus background logit: their sigmoid is the softmax foreground. Sums over
voxels come first, one pass for all organs; what belongs to one organ or case is combined afterwards.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

VOXELS = (2, 3, 4)


def soft_dice(p: Tensor, target: Tensor, *, smooth: float) -> Tensor:
    """D(a, b; e) = 1 - (2 sum ab + e) / (sum a + sum b + e), summed over batch and voxels."""
    return _dice((p * target).sum(), p.sum() + target.sum(), smooth)


def supervised(margins: Tensor, masks: Tensor, annotated: Tensor) -> Tensor:
    """L_sup: Dice (smoothing 1e-5) + binary cross-entropy per own organ, over the cases where it is annotated.

    Args:
        margins: (B, K, X, Y, Z).
        masks: (B, K, X, Y, Z), 1 inside the organ.
        annotated: (B, K) bool; an organ that is not annotated in a case adds nothing there.
    """
    margins = _plain(margins)
    p, known = torch.sigmoid(margins), annotated.float()
    both, total = (p * masks).sum(VOXELS), p.sum(VOXELS) + masks.sum(VOXELS)
    cross_entropy = F.binary_cross_entropy_with_logits(margins, masks, reduction="none").mean(VOXELS)
    dice = _dice((both * known).sum(0), (total * known).sum(0), 1e-5)
    cases = known.sum(0)
    return ((dice + (cross_entropy * known).sum(0) / cases.clamp(min=1)) * (cases > 0)).sum()


def published(margins: Tensor, masks: Tensor, annotated: Tensor) -> Tensor:
    """L_pub: soft Dice, mean over both channels and the cases, no cross-entropy (arXiv 2301.07074).

    Arguments as in `supervised`.
    """
    p, known = torch.sigmoid(_plain(margins)), annotated.float()
    both, total = (p * masks).sum(VOXELS), p.sum(VOXELS) + masks.sum(VOXELS)
    voxels = masks[0, 0].numel()
    organ, background = _dice(both, total, 1e-5), _dice(voxels - total + both, 2 * voxels - total, 1e-5)
    return ((organ + background) / 2 * known / known.sum(0).clamp(min=1)).sum()


def distillation(margins: Tensor, targets: Tensor, gates: Sequence[float]) -> Tensor:
    """L_for: each foreign, frozen head follows its owner's soft map t_j; margins and targets (B, J, X, Y, Z).

    g_j [ BCE(p_j, t_j; weight c_j) + D(c_j p_j, c_j 1[t_j > .5]; 1) ], with c_j = 1 where the teacher is sure
    (t_j < .1 or > .9), else .1; one gate per foreign organ.
    """
    margins = _plain(margins)
    sure = torch.where((targets - 0.5).abs() > 0.4, 1.0, 0.1)
    cross_entropy = F.binary_cross_entropy_with_logits(margins, targets, weight=sure, reduction="none").mean(
        (0, *VOXELS)
    )
    p, truth = sure * torch.sigmoid(margins), sure * (targets > 0.5)
    dice = _dice((p * truth).sum((0, *VOXELS)), (p.sum((0, *VOXELS)) + truth.sum((0, *VOXELS))), 1.0)
    return (margins.new_tensor(gates) * (cross_entropy + dice)).sum()


def _dice(both: Tensor, total: Tensor, smooth: float) -> Tensor:
    return 1 - (2 * both + smooth) / (total + smooth)


def _plain(margins: Tensor) -> Tensor:
    """fp32, and in the memory order of the masks: mixed orders take several times as long."""
    return margins.to(torch.float32, memory_format=torch.contiguous_format)
