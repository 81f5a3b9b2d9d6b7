"""Packet: what crosses between coordinator and site.

The same content travels through Flower (as records) and over the local socket to the trainer (one safetensors blob,
never pickle). schema.py lists what it may hold.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from safetensors.numpy import load, save

from segviz_core.errors import InputError
from segviz_core.federation.schema import STAGES, Schema, is_one_of

Setting = str | int | float | bool
Arrays = dict[str, np.ndarray[Any, Any]]


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


def check_schema(packet: Packet, schema: Schema) -> None:
    """Refuse settings, metrics or array groups that `schema` does not name, or values out of range.

    Raises:
        InputError: naming the first offender.
    """
    for name, value in packet.settings.items():
        if name not in schema.settings:
            raise InputError(f"Setting {name!r:.60} is not part of the protocol.")
        kind, low, high = schema.settings[name]
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise InputError(f"Setting {name}: expected {kind.__name__}, found {type(value).__name__}.")
        size = len(value) if isinstance(value, str) else value
        if not low <= size <= high:
            raise InputError(f"Setting {name}: expected {low} to {high}, found {value!r:.60}.")
    if packet.settings.get("stage") not in STAGES:
        raise InputError(f"Expected one of the stages {', '.join(STAGES)}, found {packet.settings.get('stage')!r:.40}.")
    for name, number in packet.metrics.items():
        if not is_one_of(name, schema.metrics):
            raise InputError(f"Metric {name!r:.60} is not part of the protocol.")
        if type(number) not in (int, float) or not math.isfinite(number):
            raise InputError(f"Metric {name}: expected a finite number, found {number!r:.60}.")
    for name in packet.arrays:
        if not is_one_of(name, schema.groups):
            raise InputError(f"Array group {name!r:.60} is not part of the protocol.")
