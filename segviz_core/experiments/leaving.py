"""A site that leaves a study half-way by the coordinator's word: its head stays frozen and protected (method.md 6)."""

import math
import shutil
from collections.abc import Collection
from pathlib import Path

import numpy as np

from segviz_core.atomic import replacing, write_json
from segviz_core.federation.packets import Arrays
from segviz_core.federation.state import StudyState
from segviz_core.federation.study import CHECKPOINT_FILE, SITES_FILE, Study


def last_round(after: float, rounds: int) -> int:
    """The last of the shared `rounds` that a site takes part in which leaves `after` this share of them."""
    return math.ceil(after * rounds)


def leave_when_due(study: Study, site: str, after: float, *, checkpoint: Path) -> None:
    """Note in sites.json, as a coordinator does, that `site` has left, once its last round is done.

    The study's checkpoint of that moment is kept at `checkpoint`.
    """
    done = sum(r.stage == "train" for r in study.rounds[: study.state.finished])
    if done < last_round(after, study.settings.rounds) or (study.folder / SITES_FILE).exists():
        return
    with replacing(checkpoint) as temporary:
        shutil.copyfile(study.folder / CHECKPOINT_FILE, temporary)
    write_json(study.folder / SITES_FILE, {site: {"site": site, "allow": [], "removed": "left"}})


def frozen_since(checkpoint: Path, state: StudyState, *, heads: Collection[str]) -> dict[str, bool]:
    """Which `heads`, and whether the representation, are bit for bit those of an earlier checkpoint of the study."""
    before = StudyState.load(checkpoint)
    found = {"representation": _same(before.representation, state.representation)}
    return found | {organ: _same(before.heads[organ], state.heads[organ]) for organ in heads}


def _same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(
        array.dtype == other[key].dtype and np.array_equal(array, other[key]) for key, array in one.items()
    )
