"""What the server does with a round's accepted replies, per stage (method.md section 4).

Replies are read tensor by tensor from the round's folder in site order, so that memory does not grow with the number of
sites and the order of arrival does not matter.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segviz_core.federation.packets import Arrays
from segviz_core.federation.reply_file import ReplyFile
from segviz_core.federation.settings import StudySettings
from segviz_core.federation.state import StudyState
from segviz_core.federation.synchronization import Template, average, average_statistics


class Replies:
    """The accepted replies of one round on disk: metrics in memory, arrays read one at a time."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.sites = sorted(files)
        self._files = {site: ReplyFile(files[site]) for site in self.sites}
        self.metrics = {site: file.metrics for site, file in self._files.items()}

    def read(self, site: str, group: str, key: str) -> np.ndarray[Any, Any]:
        """One array of one site."""
        return self._files[site].read(group, key)

    def group(self, site: str, group: str, keys: Sequence[str]) -> Arrays:
        """All arrays `keys` of one group of one site."""
        return {key: self.read(site, group, key) for key in keys}

    def owners(self, organ: str) -> list[str]:
        """Sites whose reply carries the head of `organ`, in site order."""
        return [site for site, file in self._files.items() if file.holds(f"head/{organ}")]


def aggregate(
    stage: str,
    replies: Replies,
    state: StudyState,
    *,
    settings: StudySettings,
    template: Template,
) -> None:
    """Change `state` by the accepted replies of one `stage`."""
    steps: dict[str, Callable[[], None]] = {
        "expert": lambda: _start_from_experts(replies, state, template),
        "heads": lambda: _take_heads(replies, state, template),
        "train-head": lambda: _take_new_heads(replies, state, template),
        "train": lambda: _average_round(replies, state, settings, template),
        "tune": lambda: _take_tuned_heads(replies, state, template),
        "evaluate": lambda: state.dice.update(_mean_metric(replies, state, "dice")),
    }
    if replies.sites and stage in steps:
        steps[stage]()


def _start_from_experts(replies: Replies, state: StudyState, template: Template) -> None:
    """Phase 2 starts from the expert of the site with most cases; never from a mean of unsynchronised networks."""
    size = {member.site: member.size for member in state.members.values()}
    best = max(replies.sites, key=lambda site: size[site])
    state.representation = replies.group(best, "representation", list(template.representation))
    _take_heads(replies, state, template)
    _set_gates(replies, state)


def _take_heads(replies: Replies, state: StudyState, template: Template) -> None:
    """Of heads that never met, the one of the owner with most cases; never a mean."""
    for organ in _organs(state):
        if owners := replies.owners(organ):
            largest = max(owners, key=lambda site: _cases(state, site, organ))
            state.heads[organ] = replies.group(largest, f"head/{organ}", list(template.head))


def _set_gates(replies: Replies, state: StudyState) -> None:
    for organ, dice in _mean_metric(replies, state, "dice").items():
        state.gates[organ] = min(1.0, max(0.0, (dice - 0.3) / 0.4))  # g_j of method.md section 3


def _average_round(replies: Replies, state: StudyState, settings: StudySettings, template: Template) -> None:
    equal = [1.0] * len(replies.sites)
    new: Arrays = {}
    for key in template.shared(fedbn=settings.fedbn):
        delta = average((replies.read(site, "update", key) for site in replies.sites), equal)
        if settings.server_momentum:
            delta = state.momentum.get(key, np.zeros_like(delta)) * settings.server_momentum + delta
            state.momentum[key] = delta
        new[key] = np.asarray(state.representation[key] + delta, dtype=state.representation[key].dtype)
    own = template.own_norm(fedbn=settings.fedbn)
    new |= average_statistics(lambda i, key: replies.read(replies.sites[i], "norm", key), own, equal)
    if settings.keeps_norms:
        state.norms |= {site: replies.group(site, "norm", list(own)) for site in replies.sites}
    state.representation = new
    _average_heads(replies, state, template)


def _average_heads(replies: Replies, state: StudyState, template: Template) -> None:
    """Only owners change a head, weighted by their cases; the head of an absent owner stays as it was."""
    for organ in _organs(state):
        owners = replies.owners(organ)
        if not owners:
            continue
        weights = [float(_cases(state, site, organ)) for site in owners]
        group = f"head/{organ}"

        def read(i: int, key: str, owners: list[str] = owners, group: str = group) -> np.ndarray[Any, Any]:
            return replies.read(owners[i], group, key)

        state.heads[organ] = average_statistics(read, template.head, weights)


def _take_tuned_heads(replies: Replies, state: StudyState, template: Template) -> None:
    _average_heads(replies, state, template)
    logs = {
        site: {name: math.log(v) if name.startswith("temperature") else v for name, v in metrics.items()}
        for site, metrics in replies.metrics.items()
    }
    temperatures = _mean_metric(replies, state, "temperature", logs)
    thresholds = _mean_metric(replies, state, "threshold", logs)
    for organ in temperatures:
        state.calibration[organ] = (math.exp(temperatures[organ]), thresholds[organ])


def _take_new_heads(replies: Replies, state: StudyState, template: Template) -> None:
    _take_tuned_heads(replies, state, template)
    _set_gates(replies, state)


def _mean_metric(
    replies: Replies, state: StudyState, name: str, metrics: Mapping[str, Mapping[str, float]] | None = None
) -> dict[str, float]:
    """Mean of a metric per organ over the sites that report it, weighted by their cases (method.md 5.4)."""
    result = {}
    for organ in _organs(state):
        values = {
            site: reported[f"{name}/{organ}"]
            for site, reported in (metrics or replies.metrics).items()
            if f"{name}/{organ}" in reported
        }
        if values:
            total = sum(_cases(state, site, organ) for site in values)
            result[organ] = sum(value * _cases(state, site, organ) / total for site, value in values.items())
    return result


def _organs(state: StudyState) -> list[str]:
    return list(dict.fromkeys(organ for member in state.members.values() for organ in member.organs))


def _cases(state: StudyState, site: str, organ: str) -> int:
    return next(m.cases[organ] for m in state.members.values() if m.site == site and organ in m.cases)
