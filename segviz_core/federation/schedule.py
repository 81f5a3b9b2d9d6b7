"""The rounds of a study, one after the other: a pure function of its settings (method.md section 4)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from segviz_core.federation.packets import Setting
from segviz_core.federation.settings import StudySettings


@dataclass(frozen=True)
class Round:
    """One request to all sites: its stage and the settings that go with it.

    A `required` round needs a usable reply of every member before the study goes on; the others take who replies.
    """

    stage: str
    settings: dict[str, Setting] = field(default_factory=dict)
    required: bool = False


def schedule(settings: StudySettings) -> Sequence[Round]:
    """All rounds of a study, in order; round numbers are positions in this list, from 1."""
    rounds = [Round("declare", required=True)]
    if settings.mode == "segviz+":
        rounds += _local_training(settings)
        rounds += [Round("expert", required=True), Round("label", required=True)]
        if settings.head_steps:
            rounds.append(_tune(settings, steps=settings.head_steps, calibrate=False))
    total = settings.rounds * settings.steps_per_round
    proximal = settings.proximal
    if proximal is None:  # method.md section 4, defaults
        proximal = 1e-3 if settings.steps_per_round > 50 else 0.0
    rounds += [
        Round(
            "train",
            {
                "first_step": i * settings.steps_per_round,
                "steps": settings.steps_per_round,
                "total_steps": total,
                "learning_rate": settings.shared_learning_rate,
                "foreign_weight": settings.foreign_weight if settings.mode == "segviz+" else 0.0,
                "foreign_ramp": settings.foreign_ramp,
                "proximal": proximal,
            },
        )
        for i in range(settings.rounds)
    ]
    if settings.mode == "segviz+" and settings.tune_steps:
        rounds.append(_tune(settings, steps=settings.tune_steps, calibrate=True))
    rounds += [Round("evaluate"), Round("deliver")]
    return rounds


def _local_training(settings: StudySettings) -> list[Round]:
    bounds = [settings.local_steps * i // settings.local_chunks for i in range(settings.local_chunks + 1)]
    return [
        Round(
            "train-local",
            {
                "first_step": first,
                "steps": last - first,
                "total_steps": settings.local_steps,
                "learning_rate": settings.learning_rate,
            },
            required=True,
        )
        for first, last in pairwise(bounds)
    ]


def _tune(settings: StudySettings, *, steps: int, calibrate: bool) -> Round:
    return Round("tune", {"steps": steps, "learning_rate": settings.learning_rate, "calibrate": calibrate})
