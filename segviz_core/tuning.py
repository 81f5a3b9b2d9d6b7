"""Heads on a frozen representation: re-fit them, and calibrate their temperature and threshold (method.md, phase 3)."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from segviz_core import losses
from segviz_core.cases import Case
from segviz_core.network import SegVizNet, fused_margins
from segviz_core.precision import autocast, channels_last
from segviz_core.torch_inference import margins
from segviz_core.training import TrainingConfig, cosine, draw_step, set_trainable

CHECKS = 4
"""Validation Dice is taken so often during tuning; the best head is kept (early stop)."""
THRESHOLDS = np.linspace(0.2, 0.8, 13)


def tune_heads(
    network: SegVizNet,
    cases: Sequence[Case],
    config: TrainingConfig,
    *,
    organs: Sequence[str],
    validation_cases: Sequence[Case] = (),
    on_step: Callable[[int, int], None] | None = None,
) -> None:
    """Train the heads of `organs` on L_sup in place; the representation stays as it is, its norm layers too.

    With validation cases the heads of the best check are kept, else the last ones.
    """
    own, device = tuple(organs), next(network.parameters()).device
    parameters = set_trainable(network, own=own, representation=False)
    optimizer = torch.optim.Adam(parameters, config.learning_rate, fused=True)
    best = {organ: (-1.0, copy.deepcopy(network.head(organ).state_dict())) for organ in own}
    if validation_cases and config.steps:
        best = {organ: (dice, best[organ][1]) for organ, dice in _dice(network, validation_cases, own, config).items()}
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, config.steps, config.learning_rate)
        batch = draw_step(cases, config, step, organs=own).to(device)
        with autocast(device, config.precision):
            with torch.no_grad():
                features = network.representation(channels_last(batch.images))
            predicted = fused_margins(features, [network.head(organ) for organ in own])
        loss = losses.supervised(predicted, batch.masks, batch.annotated)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if on_step:
            on_step(step + 1, config.steps)
        if validation_cases and (step + 1) % max(1, config.steps // CHECKS) == 0:
            for organ, dice in _dice(network, validation_cases, own, config).items():
                if dice > best[organ][0]:
                    best[organ] = (dice, copy.deepcopy(network.head(organ).state_dict()))
            set_trainable(network, own=own, representation=False)
    if validation_cases:
        for organ in own:
            network.head(organ).load_state_dict(best[organ][1])


def calibrate(
    network: SegVizNet, cases: Sequence[Case], *, organs: Sequence[str], patch_size: Sequence[int]
) -> dict[str, tuple[float, float]]:
    """Temperature (least cross-entropy) and threshold (best mean Dice) per organ on `cases`; (1, .5) without cases."""
    result = dict.fromkeys(organs, (1.0, 0.5))
    if not cases:
        return result
    network.eval()
    maps = [margins(network, case.intensities, organs=organs, patch_size=patch_size) for case in cases]
    for k, organ in enumerate(organs):
        pairs = [(m[k], case.masks[organ]) for m, case in zip(maps, cases, strict=True) if organ in case.masks]
        if not pairs or not any(mask.any() for _, mask in pairs):
            continue
        margin = np.concatenate([m.ravel() for m, _ in pairs]).astype(np.float64)
        truth = np.concatenate([mask.ravel() for _, mask in pairs])

        temperature = _temperature(margin, truth)
        scores = [np.mean([_overlap(m / temperature > _logit(h), mask) for m, mask in pairs]) for h in THRESHOLDS]
        result[organ] = (temperature, float(THRESHOLDS[int(np.argmax(scores))]))
    return result


def _dice(network: SegVizNet, cases: Sequence[Case], organs: Sequence[str], config: TrainingConfig) -> dict[str, float]:
    return validation_dice(network, cases, organs=organs, patch_size=config.patch_size)


def validation_dice(
    network: SegVizNet, cases: Sequence[Case], *, organs: Sequence[str], patch_size: Sequence[int]
) -> dict[str, float]:
    """Mean whole-volume Dice per organ on the network's grid, each head thresholded at .5.

    Organs that no case annotates are left out.
    """
    network.eval()
    scores: dict[str, list[float]] = {}
    for case in cases:
        maps = margins(network, case.intensities, organs=organs, patch_size=patch_size)
        for k, organ in enumerate(organs):
            if organ in case.masks:
                scores.setdefault(organ, []).append(_overlap(maps[k] > 0, case.masks[organ]))
    return {organ: float(np.mean(values)) for organ, values in scores.items()}


def _temperature(margin: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float:
    def cross_entropy(log_temperature: float) -> float:
        scaled = margin / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0, np.where(truth, -scaled, scaled))))

    return float(np.exp(minimize_scalar(cross_entropy, bounds=(-1.5, 1.5), method="bounded").x))


def _overlap(found: np.ndarray[Any, Any], truth: np.ndarray[Any, Any]) -> float:
    total = int(found.sum()) + int(truth.sum())
    return 2 * int((found & truth).sum()) / total if total else 1.0


def _logit(p: float) -> float:
    return float(np.log(p / (1 - p)))
