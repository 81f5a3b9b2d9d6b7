"""The rounds of a study, one after the other: a pure function of its settings and of what changed on the way.

method.md section 4 for the plan, section 6 for newcomers and for sites that are erased.
"""

from collections.abc import Callable, Mapping, Sequence
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


def schedule(settings: StudySettings, amendments: Sequence[tuple[int, str]] = ()) -> Sequence[Round]:
    """All rounds of a study, in order; round numbers are positions in this list, from 1, and never go back.

    Each of `amendments` (state.py) drops what was planned after so many rounds and puts one of AMENDMENTS in its place.
    """
    rounds = _everything(settings)
    for after, what in amendments:
        rounds = rounds[:after] + AMENDMENTS[what](settings)
    return rounds


def steps_per_site(settings: StudySettings, amendments: Sequence[tuple[int, str]], finished: int) -> int:
    """Training steps of a site that took part in everything, without those that a restart dropped."""
    begun_anew = {after: what for after, what in amendments if what in ("phase 2", "everything")}
    local = shared = 0
    for i, r in enumerate(schedule(settings, amendments)[:finished]):
        if i in begun_anew:
            shared, local = 0, local if begun_anew[i] == "phase 2" else 0
        local += int(r.settings["steps"]) if r.stage == "train-local" else 0
        shared += int(r.settings["steps"]) if r.stage == "train" else 0
    return local + shared


def _everything(settings: StudySettings) -> list[Round]:
    rounds = [Round("declare", required=True)]
    if settings.mode == "segviz+":
        rounds += [*_local_training(settings), Round("expert", required=True)]
    return rounds + _from_experts_on(settings)


def _from_experts_on(settings: StudySettings) -> list[Round]:
    rounds = []
    if settings.mode == "segviz+":
        rounds.append(Round("label", required=True))
        if settings.head_steps:
            rounds.append(_tune(settings, steps=settings.head_steps, calibrate=False))
    rounds += _shared_training(settings, settings.rounds)
    if settings.heads_at_end:
        rounds.append(Round("heads", required=True))
    if settings.mode == "segviz+" and settings.tune_steps:
        rounds.append(_tune(settings, steps=settings.tune_steps, calibrate=True))
    return [*rounds, Round("evaluate"), Round("deliver")]


def _for_newcomers(settings: StudySettings) -> list[Round]:
    rounds = [Round("declare"), Round("train-head", new_head(settings), required=True)]
    rounds += _shared_training(settings, settings.newcomer_rounds)
    if settings.mode == "segviz+" and settings.tune_steps and settings.newcomer_rounds:
        rounds.append(_tune(settings, steps=settings.tune_steps, calibrate=True))
    return [*rounds, Round("evaluate"), Round("deliver")]


AMENDMENTS: Mapping[str, Callable[[StudySettings], list[Round]]] = {
    "phase 2": _from_experts_on,  # a site was erased: again, from another site's expert
    "everything": _everything,  # the same, where no expert is left (or the mode knows none)
    "newcomers": _for_newcomers,  # after the end: method.md section 6, late joiner
    "end": lambda _: [],  # no newcomer came after all
}


def new_head(settings: StudySettings) -> dict[str, Setting]:
    """Settings for the head of an organ that comes late; its calibration comes with it."""
    return {"steps": settings.new_head_steps, "learning_rate": settings.new_head_learning_rate, "calibrate": True}


def _shared_training(settings: StudySettings, number: int) -> list[Round]:
    total = number * settings.steps_per_round
    proximal = settings.proximal
    if proximal is None:  # method.md section 4, defaults
        proximal = 1e-3 if settings.steps_per_round > 50 else 0.0
    fixed_from = number - round(settings.fixed_norm * number) if settings.mode == "segviz+" else number
    return [
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
                **({"send_heads": False} if settings.heads_at_end else {}),
                **({"fixed_norm": True} if i >= fixed_from else {}),
            },
        )
        for i in range(number)
    ]


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
