"""Packet: what crosses between coordinator and site, and the complete list of what it may hold.

The same content travels through Flower (as records) and over the local socket to the trainer (one safetensors blob,
never pickle). `SETTINGS`, `METRICS` and `GROUPS` are the schema: both ends refuse anything else.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from segviz_core.errors import InputError

Setting = str | int | float | bool
Arrays = dict[str, np.ndarray[Any, Any]]

STAGES = ("declare", "train-local", "expert", "label", "train", "tune", "evaluate", "deliver")

SETTINGS: Mapping[str, tuple[type, float, float]] = {
    # name: (type, lowest, highest); for texts the length. A request with anything else is refused at the site.
    "stage": (str, 1, 16),
    "round": (int, 1, 1_000_000),
    "mode": (str, 1, 16),
    "site": (str, 1, 64),
    "organs": (str, 1, 1000),
    "contract": (str, 64, 64),
    "version": (str, 1, 32),
    "first_step": (int, 0, 10_000_000),
    "steps": (int, 0, 100_000),
    "total_steps": (int, 0, 10_000_000),
    "learning_rate": (float, 0.0, 1.0),
    "foreign_weight": (float, 0.0, 100.0),
    "foreign_ramp": (float, 0.0, 1.0),
    "proximal": (float, 0.0, 100.0),
    "calibrate": (bool, 0, 1),
}

METRICS = re.compile(
    r"(loss|steps|seconds)|(cases|dice|gate|temperature|threshold)/[a-z][a-z0-9_]{0,31}|weight/\d{1,4}/[a-z][a-z0-9_]{0,31}"
)
GROUPS = re.compile(
    r"representation|update|norm|model|head/[a-z][a-z0-9_]{0,31}|expert/\d{1,4}/(representation|head/[a-z][a-z0-9_]{0,31})"
)


@dataclass(frozen=True)
class Packet:
    """Settings (scalars), named groups of arrays, and metrics of one request or reply."""

    settings: Mapping[str, Setting]
    arrays: Mapping[str, Arrays] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        """What the request asks for: one of STAGES."""
        return str(self.settings["stage"])

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for group in self.arrays.values() for array in group.values())

    def heads(self) -> dict[str, Arrays]:
        """The groups named head/<organ>, by organ."""
        return {name.removeprefix("head/"): group for name, group in self.arrays.items() if name.startswith("head/")}

    def to_bytes(self) -> bytes:
        """One safetensors blob: arrays as tensors named group|key, the rest as JSON in its metadata."""
        tensors = {
            f"{group}|{key}": np.asarray(array, order="C")
            for group, arrays in self.arrays.items()
            for key, array in arrays.items()
        }
        header = {"settings": dict(self.settings), "metrics": dict(self.metrics), "groups": sorted(self.arrays)}
        return save(tensors, metadata={"packet": json.dumps(header)})

    @classmethod
    def from_bytes(cls, blob: bytes) -> "Packet":
        """The packet of `to_bytes`.

        Raises:
            InputError: `blob` is no such packet.
        """
        try:
            header_size = int.from_bytes(blob[:8], "little")
            header = json.loads(json.loads(blob[8 : 8 + header_size])["__metadata__"]["packet"])
            arrays: dict[str, Arrays] = {group: {} for group in header["groups"]}
            for name, array in load(blob).items():
                group, key = name.split("|", 1)
                arrays[group][key] = array
            return cls(header["settings"], arrays, header["metrics"])
        except Exception as error:
            raise InputError("Expected a SegViz packet, found other or damaged bytes.") from error


def check_schema(packet: Packet) -> None:
    """Refuse settings, metrics or array groups that the protocol does not name, or values out of range.

    Raises:
        InputError: naming the first offender.
    """
    for name, value in packet.settings.items():
        if name not in SETTINGS:
            raise InputError(f"Setting {name!r} is not part of the protocol.")
        kind, low, high = SETTINGS[name]
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise InputError(f"Setting {name}: expected {kind.__name__}, found {type(value).__name__}.")
        size = len(value) if isinstance(value, str) else value
        if not low <= size <= high:
            raise InputError(f"Setting {name}: expected {low} to {high}, found {value!r:.60}.")
    if packet.settings.get("stage") not in STAGES:
        raise InputError(f"Expected one of the stages {', '.join(STAGES)}, found {packet.settings.get('stage')!r:.40}.")
    for name, number in packet.metrics.items():
        if not METRICS.fullmatch(name):
            raise InputError(f"Metric {name!r:.60} is not part of the protocol.")
        if type(number) not in (int, float) or not math.isfinite(number):
            raise InputError(f"Metric {name}: expected a finite number, found {number!r:.60}.")
    for name in packet.arrays:
        if not GROUPS.fullmatch(name):
            raise InputError(f"Array group {name!r:.60} is not part of the protocol.")
