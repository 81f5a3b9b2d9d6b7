"""The complete list of what may cross between coordinator and site: both ends refuse anything else.

Standard library only, so that a window can show what leaves a site without loading anything.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

DOING: Mapping[str, str] = {
    "declare": "joining",
    "train-local": "training alone",
    "expert": "sending its expert",
    "label": "labelling the organs of others",
    "train-head": "training the head of a new organ",
    "train": "training together",
    "tune": "tuning its heads",
    "heads": "sending its heads",
    "evaluate": "evaluating",
    "deliver": "receiving the meta-model",
}
"""What a site does in each stage."""
STAGES = tuple(DOING)

_ORGAN, _NUMBER = r"[a-z][a-z0-9_]{0,31}", r"\d{1,4}"
Bounds = tuple[type, float, float]


@dataclass(frozen=True)
class Schema:
    """What a packet of one direction may hold; ORGAN and NUMBER in a name stand for what varies.

    `settings`: name -> (type, lowest, highest), for texts the length.
    """

    settings: Mapping[str, Bounds]
    metrics: tuple[str, ...]
    groups: tuple[str, ...]


_BOTH: Mapping[str, Bounds] = {"stage": (str, 1, 16), "round": (int, 1, 1_000_000), "mode": (str, 1, 16)}

REPLY = Schema(
    settings={
        **_BOTH,
        "site": (str, 1, 64),
        "organs": (str, 1, 1000),
        "contract": (str, 64, 64),
        "version": (str, 1, 32),
    },
    metrics=("loss", "steps", "seconds", "cases/ORGAN", "dice/ORGAN", "temperature/ORGAN", "threshold/ORGAN"),
    groups=("representation", "update", "norm", "head/ORGAN"),
)

NEWS: Mapping[str, Bounds] = {
    "rounds": (int, 1, 1_000_000),
    "online": (int, 0, 100_000),
    "members": (int, 0, 100_000),
    "sites": (str, 0, 2000),
}
"""Told to the people at a site: planned rounds, sites online and expected, who takes part in this round."""


def news(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The news in the settings of a request, the sites as a list of names."""
    found = {name: settings[name] for name in NEWS if name in settings}
    return found | {"sites": [name for name in str(found.get("sites", "")).split(",") if name]}


_WEIGHTS = ("representation", "head/ORGAN")
REQUEST_GROUPS: Mapping[str, tuple[str, ...]] = {
    "declare": ("representation",),
    "label": ("expert/NUMBER/representation", "expert/NUMBER/head/ORGAN"),
    **dict.fromkeys(("train-head", "train", "tune", "evaluate"), _WEIGHTS),
    "deliver": ("model",),
}
"""The arrays of a request by stage; the other stages have none."""

REQUEST = Schema(
    settings={
        **_BOTH,
        "organs": (str, 0, 1000),
        "transport": (str, 4, 4),
        "first_step": (int, 0, 10_000_000),
        "steps": (int, 0, 10_000_000),
        "total_steps": (int, 0, 10_000_000),
        "learning_rate": (float, 0.0, 1.0),
        "foreign_weight": (float, 0.0, 100.0),
        "foreign_ramp": (float, 0.0, 1.0),
        "proximal": (float, 0.0, 100.0),
        "teacher_shift": (float, -10.0, 10.0),
        "teacher_pieces": (float, 0.0, 1.0),
        "teacher_norm": (float, 0.0, 1.0),
        "send_heads": (bool, 0, 1),
        "fixed_norm": (bool, 0, 1),
        "calibrate": (bool, 0, 1),
        **NEWS,
    },
    metrics=("gate/ORGAN", "temperature/ORGAN", "threshold/ORGAN", "weight/NUMBER/ORGAN"),
    groups=tuple(dict.fromkeys(group for groups in REQUEST_GROUPS.values() for group in groups)),
)

_TRAINING = ("first_step", "steps", "total_steps", "learning_rate")
NEEDED: Mapping[str, tuple[str, ...]] = {
    "train-local": _TRAINING,
    "train-head": ("organs", "steps", "learning_rate", "calibrate"),
    "train": (*_TRAINING, "foreign_weight", "foreign_ramp", "proximal"),
    "tune": ("steps", "learning_rate", "calibrate"),
}
"""Settings without which a request of this stage cannot be answered."""

LEAVES: Mapping[str, str] = {
    "stage": "which request is answered",
    "round": "number of the round",
    "mode": "how the sites of the study work together",
    "site": "pseudonym of this site",
    "organs": "names of the organs annotated here",
    "contract": "hash of how CTs are prepared",
    "version": "version of SegViz",
    "loss": "mean loss of the training",
    "steps": "number of training steps",
    "seconds": "time that the work took",
    "cases/ORGAN": "number of training cases per organ",
    "dice/ORGAN": "Dice per organ",
    "temperature/ORGAN": "calibration of an organ's probabilities",
    "threshold/ORGAN": "probability from which a voxel counts as the organ",
    "representation": "weights of the whole network but its heads, once",
    "update": "change of these weights, every round",
    "norm": "running mean and variance of the norm layers' features",
    "head/ORGAN": "weights of the head of an organ annotated here; once, where the study takes heads at its end",
}
"""All that a reply may hold, in words: what a person agrees to."""


def is_one_of(name: str, names: tuple[str, ...]) -> bool:
    """Whether `name` is one of `names`, in which ORGAN and NUMBER stand for what varies."""
    return bool(_pattern(names).fullmatch(name))


@lru_cache
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(name.replace("ORGAN", _ORGAN).replace("NUMBER", _NUMBER) for name in names))
