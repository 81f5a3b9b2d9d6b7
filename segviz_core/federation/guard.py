"""The guard: every reply of a site is checked alone before anything of it is used (flower.md section 3).

A bad reply is rejected by name and the round goes on. numpy only; the same checks serve the runner and Flower's server.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from segviz_core.errors import InputError
from segviz_core.federation.packets import Packet, check_schema
from segviz_core.federation.schema import REPLY
from segviz_core.federation.synchronization import COUNTER, VARIANCE, Spec, Template, check_arrays
from segviz_core.federation.transport import on_the_wire

MAX_CASES = 100_000
MAX_UPDATE_NORM = 1e4
"""Far above any honest update: Adam at 1e-3 moves 4.8 M weights by at most 2.2 per step."""
MAX_VALUE = 1e5
"""Of a weight; a variance is a square. The deepest features of honest studies have reached variances of 3e5."""
MEDIAN_FACTOR = 10.0


class Rejected(InputError):
    """A reply that is not used; the message says why, the site stays a member."""


def check_reply(
    reply: Packet, *, request: Packet, organs: Collection[str], template: Template, contract_hash: str
) -> None:
    """Check one reply against its request, the site's declared organs and the key template.

    Raises:
        Rejected: naming the first fault.
    """
    try:
        check_schema(reply, REPLY)
        for name in ("stage", "round"):
            if reply.settings.get(name) != request.settings[name]:
                raise InputError(f"{name}: expected {request.settings[name]}, found {reply.settings.get(name)}.")
        if reply.stage == "declare":
            _check_declaration(reply, contract_hash)
            organs = declared_organs(reply)
        if reply.stage == "train-head":
            organs = [organ for organ in organs if organ in str(request.settings["organs"]).split(",")]
        for group, spec in _expected_groups(reply.stage, organs, template, request).items():
            if group not in reply.arrays:
                raise InputError(f"expected the arrays {group}, found {sorted(reply.arrays)}.")
            check_arrays(reply.arrays[group], spec, what=group)
            check_values(reply.arrays[group], group)
        if extra := set(reply.arrays) - set(_expected_groups(reply.stage, organs, template, request)):
            raise InputError(f"unexpected arrays {sorted(extra)[0]}.")
        _check_metrics(reply, organs)
        if reply.stage == "train" and (norm := update_norm(reply)) > MAX_UPDATE_NORM:
            raise InputError(f"update norm {norm:.3g} is above {MAX_UPDATE_NORM:.0f}.")
    except InputError as error:
        raise Rejected(error.message) from error


def declared_organs(reply: Packet) -> tuple[str, ...]:
    """Organs of a `declare` reply, in the site's order."""
    return tuple(organ for organ in str(reply.settings.get("organs", "")).split(",") if organ)


def update_norm(reply: Packet) -> float:
    """Euclidean norm of a `train` reply's update."""
    return math.sqrt(sum(float(np.square(a, dtype=np.float64).sum()) for a in reply.arrays["update"].values()))


def outliers(norms: Mapping[str, float]) -> dict[str, str]:
    """Sites whose update is more than ten times the median, from three sites on: site -> reason."""
    if len(norms) < 3:
        return {}
    bound = MEDIAN_FACTOR * median(norms.values())
    return {
        site: f"update norm {norm:.3g} is above {MEDIAN_FACTOR:.0f} times the median of this round"
        for site, norm in norms.items()
        if norm > bound
    }


def check_values(arrays: Mapping[str, np.ndarray[Any, Any]], group: str) -> None:
    """Refuse absurdly large values, and negative variances and counters.

    Raises:
        InputError: naming the first.
    """
    for key, array in arrays.items():
        largest = float(np.abs(array).max()) if array.size else 0.0
        limit = 2.0**53 if key.endswith(COUNTER) else MAX_VALUE**2 if key.endswith(VARIANCE) else MAX_VALUE
        if largest > limit:
            raise InputError(f"{group}: {key}: expected values up to {limit:.0f}, found {largest:.3g}.")
        if key.endswith((VARIANCE, COUNTER)) and array.size and float(array.min()) < 0:
            raise InputError(f"{group}: {key}: expected no negative value, found {float(array.min()):.3g}.")


def _expected_groups(stage: str, organs: Collection[str], template: Template, request: Packet) -> dict[str, Spec]:
    heads: dict[str, Spec] = {f"head/{organ}": template.head for organ in organs}
    groups: dict[str, Spec] = {}
    if stage == "expert":
        groups = {"representation": template.representation, **heads}
    if stage == "train":
        fedbn = request.settings["mode"] == "segviz-fedbn"
        groups = {"update": template.shared(fedbn=fedbn), "norm": template.own_norm(fedbn=fedbn)}
        groups |= heads if request.settings.get("send_heads", True) else {}
    if stage in ("tune", "train-head", "heads"):
        groups = heads
    transport = str(request.settings.get("transport", "fp32"))
    return {group: on_the_wire(spec, group, transport=transport, norm=template.norm) for group, spec in groups.items()}


def _check_declaration(reply: Packet, contract_hash: str) -> None:
    if reply.settings.get("contract") != contract_hash:
        raise InputError("data contract: the site prepares its CTs in another way than this study.")
    if not declared_organs(reply):
        raise InputError("expected at least one organ in the label set, found none.")


def _check_metrics(reply: Packet, organs: Collection[str]) -> None:
    calibration = [f"{name}/{organ}" for organ in organs for name in ("temperature", "threshold")]
    required: Sequence[str] = {
        "declare": [f"cases/{organ}" for organ in organs],
        "train-local": ["loss", "steps"],
        "train-head": calibration,
        "train": ["loss", "steps", *(f"cases/{organ}" for organ in organs), *(f"dice/{organ}" for organ in organs)],
        "tune": calibration,
    }.get(reply.stage, [])
    for name in required:
        if name not in reply.metrics:
            raise InputError(f"metric {name} is missing.")
    for name, value in reply.metrics.items():
        kind, _, organ = name.partition("/")
        if organ and organ not in organs:
            raise InputError(f"{name}: this site declared {', '.join(organs)} only.")
        low, high = {
            "cases": (1, MAX_CASES),
            "dice": (0, 1),
            "temperature": (0.05, 20),
            "threshold": (0, 1),
            "steps": (0, 10_000_000),
            "seconds": (0, 1e7),
        }.get(kind, (-1e6, 1e6))
        if not low <= value <= high:
            raise InputError(f"{name}: expected {low} to {high:.0f}, found {value:.6g}.")
