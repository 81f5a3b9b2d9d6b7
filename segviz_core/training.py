"""A plain training loop, no federation: supervised steps on own organs, optionally with distillation of foreign heads.

network = SegVizNet(NetworkConfig(), ["liver"])
train(network, site.training_cases, TrainingConfig(learning_rate=1e-3, steps=200))
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from segviz_core import losses
from segviz_core.batches import Batch, draw_batch
from segviz_core.cases import Case
from segviz_core.network import NORM_TYPES, SegVizNet, fused_margins
from segviz_core.precision import Precision, autocast_for_gradients, channels_last

CLIP_NORM = 5.0
FLOOR = 0.05
"""The cosine ends at this fraction of the learning rate, as in the pilot."""


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of one phase: `total_steps` of it, of which a call trains [first_step, first_step + steps).

    `loss` is "supervised" (L_sup) or "published" (L_pub). The learning rate falls along one cosine over the whole
    phase. `seed_words` name the stream of patches (study seed, site, phase). With `patch_sizes` every step draws one of
    them instead of `patch_size`. `contrast` bounds the random curve of HU (method.md 9c; 0: none). `precision` "auto"
    is bf16 where the processor computes it, else fp32. `coarse` is the share of patches at two or three times the
    spacing (batches.py). With `fixed_norm` the representation's norm layers normalise as in use, by their running
    statistics, and leave these as they are: what is trained is what is averaged (FixBN, arXiv 2303.06530).
    """

    steps: int
    learning_rate: float = 1e-3
    patch_size: tuple[int, int, int] = (48, 48, 32)
    batch_size: int = 2
    first_step: int = 0
    total_steps: int = 0
    loss: Literal["supervised", "published"] = "supervised"
    seed_words: tuple[str | int, ...] = (0,)
    patch_sizes: tuple[tuple[int, int, int], ...] = ()
    contrast: float = 0.45
    precision: Precision = "auto"
    coarse: float = 0.0
    fixed_norm: bool = False


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
    if config.fixed_norm:
        _fix_norm(network.representation)
    optimizer = optimizer or torch.optim.Adam(parameters, config.learning_rate, fused=True)
    start = [p.detach().clone() for p in network.representation.parameters()] if proximal else []
    total = config.total_steps or config.first_step + config.steps
    device = next(network.parameters()).device
    loss_sum, overlap = 0.0, np.zeros((len(own), 2))
    for done in range(config.steps):
        step = config.first_step + done
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, total, config.learning_rate)
        batch = draw_step(cases, config, step, organs=own, foreign=foreign).to(device)
        with autocast_for_gradients(batch.images, network.config.strides, config.precision):
            features = network.representation(channels_last(batch.images))
            margins = fused_margins(features, [network.head(organ) for organ in own])
            if foreign:
                foreign_margins = fused_margins(features, [network.head(organ) for organ in foreign])
        supervised = losses.supervised if config.loss == "supervised" else losses.published
        loss = supervised(margins, batch.masks, batch.annotated)
        if distillation and foreign:
            ramp = min(1.0, step / (distillation.ramp * total)) if distillation.ramp else 1.0
            gates = [(distillation.gates or {}).get(organ, 1.0) for organ in foreign]
            loss = loss + ramp * distillation.weight * losses.distillation(foreign_margins, batch.targets, gates)
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
        _count_overlap(overlap, margins, batch)
        if on_step:
            on_step(done + 1, config.steps)
    dice = {
        organ: 2 * both / total if total else 1.0 for organ, (both, total) in zip(own, overlap.tolist(), strict=True)
    }
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


def draw_step(
    cases: Sequence[Case], config: TrainingConfig, step: int, *, organs: Sequence[str], foreign: Sequence[str] = ()
) -> Batch:
    """The patches of one step: everything random in it comes from `config.seed_words` and `step`."""
    rng = step_generator(*config.seed_words, step)
    sizes = config.patch_sizes or (config.patch_size,)
    return draw_batch(
        cases,
        organs=organs,
        foreign=foreign,
        patch_size=sizes[int(rng.integers(len(sizes)))],
        batch_size=config.batch_size,
        rng=rng,
        contrast=config.contrast,
        coarse=config.coarse,
    )


def _fix_norm(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, NORM_TYPES):
            layer.eval()


def _count_overlap(overlap: np.ndarray[Any, Any], margins: Tensor, batch: Batch) -> None:
    """Add |found and true| and |found| + |true| per organ."""
    with torch.no_grad():
        found = margins > 0
        both = (found * batch.masks).sum(losses.VOXELS)
        total = found.sum(losses.VOXELS) + batch.masks.sum(losses.VOXELS)
        overlap += (torch.stack([both, total], -1) * batch.annotated[..., None]).sum(0).cpu().numpy()
