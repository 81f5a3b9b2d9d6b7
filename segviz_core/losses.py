"""Losses over annotated organs only, and distillation of foreign heads (method.md section 3)."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor


def soft_dice(p: Tensor, target: Tensor, *, smooth: float) -> Tensor:
    """D(a, b; e) = 1 - (2 sum ab + e) / (sum a + sum b + e), summed over batch and voxels."""
    return 1 - (2 * (p * target).sum() + smooth) / (p.sum() + target.sum() + smooth)


def supervised(logits: Mapping[str, Tensor], masks: Tensor, annotated: Tensor, organs: tuple[str, ...]) -> Tensor:
    """L_sup: Dice (smoothing 1e-5) + binary cross-entropy per own organ, over the cases where it is annotated.

    Args:
        logits: per organ (B, 2, X, Y, Z).
        masks: (B, K, X, Y, Z), 1 inside the organ, channels in the order of `organs`.
        annotated: (B, K) bool; an organ that is not annotated in a case adds nothing there.
        organs: the site's own organs.
    """
    terms = []
    for k, organ in enumerate(organs):
        chosen = annotated[:, k]
        if not bool(chosen.any()):
            continue
        margin, target = _margin(logits[organ])[chosen], masks[chosen, k]
        p = torch.sigmoid(margin)
        terms.append(soft_dice(p, target, smooth=1e-5) + F.binary_cross_entropy_with_logits(margin, target))
    return _sum(terms, logits)


def published(logits: Mapping[str, Tensor], masks: Tensor, annotated: Tensor, organs: tuple[str, ...]) -> Tensor:
    """L_pub: soft Dice, mean over both channels and the cases, no cross-entropy (arXiv 2301.07074).

    Arguments as in `supervised`.
    """
    dice = DiceLoss(softmax=True, to_onehot_y=True, smooth_nr=1e-5, smooth_dr=1e-5)
    terms = [
        dice(logits[organ].float()[annotated[:, k]], masks[annotated[:, k], k : k + 1])
        for k, organ in enumerate(organs)
        if bool(annotated[:, k].any())
    ]
    return _sum(terms, logits)


def distillation(logits: Mapping[str, Tensor], targets: Mapping[str, Tensor], gates: Mapping[str, float]) -> Tensor:
    """L_for: each foreign, frozen head follows its owner's soft maps t_j (B, X, Y, Z) in [0, 1].

    g_j [ BCE(p_j, t_j; weight c_j) + D(c_j p_j, c_j 1[t_j > .5]; 1) ], with c_j = 1 where the teacher is sure
    (t_j < .1 or > .9), else .1.
    """
    terms = []
    for organ, target in targets.items():
        gate = gates.get(organ, 1.0)
        if gate == 0:
            continue
        sure = torch.where((target < 0.1) | (target > 0.9), 1.0, 0.1)
        margin = _margin(logits[organ])
        cross_entropy = F.binary_cross_entropy_with_logits(margin, target, weight=sure)
        dice = soft_dice(sure * torch.sigmoid(margin), sure * (target > 0.5), smooth=1.0)
        terms.append(gate * (cross_entropy + dice))
    return _sum(terms, logits)


def _margin(logits: Tensor) -> Tensor:
    """Organ minus background logit, in fp32: its sigmoid is the softmax foreground."""
    return (logits[:, 1] - logits[:, 0]).float()


def _sum(terms: list[Tensor], logits: Mapping[str, Tensor]) -> Tensor:
    if terms:
        return torch.stack(terms).sum()
    anything = next(iter(logits.values()))
    return anything.sum() * 0.0  # keeps the graph, adds nothing
