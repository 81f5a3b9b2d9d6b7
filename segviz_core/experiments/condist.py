"""ConDistFL's conditional distillation on SegViz's network and budget: "ConDistFL-style" (arXiv 2308.04070)."""

import torch
from torch import Tensor

from segviz_core.losses import soft_dice

TEMPERATURE = 2.0
FIRST_WEIGHT, LAST_WEIGHT = 0.01, 1.0
"""The weight of the distillation rises linearly over the rounds (method.md section 4)."""

SERVER_MOMENTUM = 0.6
"""As published: NVIDIA/NVFlare, research/condist-fl/jobs/condist/server/config/config_fed_server.json."""


def conditional_distillation(logits: Tensor, teacher: Tensor, mask: Tensor, own: int) -> Tensor:
    """mean_g D(M Q_g, M Q_g^teacher) over background and each foreign organ g, where nothing of one's own is.

    Q_g = P_g / (1 - P_own) at softmax temperature 2: the softmax of all channels but the own one. M is 1 where the
    label is background and the teacher does not see the own organ.

    Args:
        logits, teacher: (B, 1+K, X, Y, Z); the teacher is the model at the start of the round.
        mask: (B, X, Y, Z), 1 inside the site's own organ, whose channel is `own`.
    """
    others = [channel for channel in range(logits.shape[1]) if channel != own]
    where = ((mask < 0.5) & (teacher.argmax(1) != own)).float()
    q = (logits[:, others].float() / TEMPERATURE).softmax(1)
    target = (teacher[:, others].float() / TEMPERATURE).softmax(1)
    terms = [soft_dice(where * q[:, g], where * target[:, g], smooth=1e-5) for g in range(len(others))]
    return torch.stack(terms).mean()


def weight(round_number: int, rounds: int) -> float:
    """w_r of round 0 .. rounds - 1."""
    return FIRST_WEIGHT + (LAST_WEIGHT - FIRST_WEIGHT) * round_number / max(1, rounds - 1)
