"""A plain training loop, no federation: supervised steps on own organs, optionally with distillation of foreign heads.

network = SegVizNet(NetworkConfig(), ["liver"])
train(network, site.training_cases, TrainingConfig(learning_rate=1e-3, steps=200))
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from segviz_core import losses
from segviz_core.batches import draw_batch
from segviz_core.cases import Case
from segviz_core.network import SegVizNet, fused_logits

CLIP_NORM = 5.0
FLOOR = 0.05
"""The cosine ends at this fraction of the learning rate, as in the pilot."""


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of one phase: `total_steps` of it, of which a call trains [first_step, first_step + steps).

    `loss` is "supervised" (L_sup) or "published" (L_pub). The learning rate falls along one cosine over the whole
    phase. `seed_words` name the stream of patches (study seed, site, phase).
    """

    steps: int
    learning_rate: float = 1e-3
    patch_size: tuple[int, int, int] = (48, 48, 32)
    batch_size: int = 2
    first_step: int = 0
    total_steps: int = 0
    loss: Literal["supervised", "published"] = "supervised"
    seed_words: tuple[str | int, ...] = (0,)


@dataclass(frozen=True)
class Distillation:
    """L_for: weight lambda rising from 0 over the first `ramp` share of the phase, gates g_j per foreign organ."""

    organs: tuple[str, ...]
    weight: float = 0.5
    ramp: float = 0.2
    gates: Mapping[str, float] | None = None


@dataclass(frozen=True)
class TrainingSummary:
    """Mean loss over the steps, and the Dice of the training patches per own organ (thresholded at .5)."""

    loss: float
    dice: dict[str, float]
    steps: int


def train(
    network: SegVizNet,
    cases: Sequence[Case],
    config: TrainingConfig,
    *,
    organs: Sequence[str] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    distillation: Distillation | None = None,
    proximal: float = 0.0,
    on_step: Callable[[int, int], None] | None = None,
) -> TrainingSummary:
    """Train `network` in place on the own `organs` (default: all its heads).

    With `distillation`, the foreign heads are frozen and in eval mode, and the cases' soft maps are their targets. With
    `proximal` > 0, mu/2 |theta - theta_start|^2 is added. `on_step(done, steps)` may raise errors.Cancelled.
    """
    own = tuple(organs or network.organs)
    foreign = distillation.organs if distillation else ()
    parameters = set_trainable(network, own=own)
    optimizer = optimizer or torch.optim.Adam(parameters, config.learning_rate)
    start = [p.detach().clone() for p in network.representation.parameters()] if proximal else []
    total = config.total_steps or config.first_step + config.steps
    loss_sum, overlap = 0.0, {organ: [0.0, 0.0] for organ in own}
    for done in range(config.steps):
        step = config.first_step + done
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, total, config.learning_rate)
        batch = draw_batch(
            cases,
            organs=own,
            foreign=foreign,
            patch_size=config.patch_size,
            batch_size=config.batch_size,
            rng=step_generator(*config.seed_words, step),
        )
        features = network.representation(batch.images)
        logits = logits_of(network, features, own)
        supervised = losses.supervised if config.loss == "supervised" else losses.published
        loss = supervised(logits, batch.masks, batch.annotated, own)
        if distillation and foreign:
            ramp = min(1.0, step / (distillation.ramp * total)) if distillation.ramp else 1.0
            foreign_logits = logits_of(network, features, foreign)
            loss = loss + ramp * distillation.weight * losses.distillation(
                foreign_logits, batch.targets, distillation.gates or {}
            )
        if proximal:
            distance = sum(
                ((p - q) ** 2).sum() for p, q in zip(network.representation.parameters(), start, strict=True)
            )
            loss = loss + proximal / 2 * distance
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        loss_sum += loss.item()
        _count_overlap(overlap, logits, batch.masks, batch.annotated, own)
        if on_step:
            on_step(done + 1, config.steps)
    dice = {organ: 2 * both / total if total else 1.0 for organ, (both, total) in overlap.items()}
    return TrainingSummary(loss_sum / max(1, config.steps), dice, config.steps)


def set_trainable(network: SegVizNet, *, own: Sequence[str], representation: bool = True) -> list[nn.Parameter]:
    """Put the representation (if trainable) and own heads into train mode, everything else into frozen eval mode.

    Returns the trainable parameters.
    """
    network.representation.train(representation).requires_grad_(representation)
    for organ in network.organs:
        network.head(organ).train(organ in own).requires_grad_(organ in own)
    return [p for p in network.parameters() if p.requires_grad]


def cosine(step: int, total: int, learning_rate: float) -> float:
    """Monotone cosine from `learning_rate` down to FLOOR of it."""
    return learning_rate * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * min(step, total) / max(1, total))))


def step_generator(*words: str | int) -> np.random.Generator:
    """Random generator of one step, the same on every machine: words (seed, site, phase, step) are its seed."""
    return np.random.default_rng([w if isinstance(w, int) else zlib.crc32(w.encode()) for w in words])


def logits_of(network: SegVizNet, features: Tensor, organs: Sequence[str]) -> dict[str, Tensor]:
    logits = fused_logits(features, [network.head(organ) for organ in organs])
    return {organ: logits[:, i] for i, organ in enumerate(organs)}


def _count_overlap(
    overlap: dict[str, list[float]],
    logits: Mapping[str, Tensor],
    masks: Tensor,
    annotated: Tensor,
    organs: Sequence[str],
) -> None:
    with torch.no_grad():
        for k, organ in enumerate(organs):
            found = (logits[organ][:, 1] > logits[organ][:, 0]) & annotated[:, k, None, None, None]
            truth = (masks[:, k] > 0) & annotated[:, k, None, None, None]
            overlap[organ][0] += float((found & truth).sum())
            overlap[organ][1] += float(found.sum() + truth.sum())
