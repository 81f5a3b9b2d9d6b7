"""What travels in half precision where the study asks for it: the representation and its updates, nothing else.

Norm layers and heads stay in fp32: running variances do not survive fp16, and heads are sent as values, so that
rounding would swallow their small steps. Four heads are 3 % of the published network (.2 % with one decoder stage
each), of a small network more. Both ends compute in fp32; the server adds what sites send to its own fp32 weights, so
that errors of rounding do not pile up.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from segviz_core.federation.packets import Arrays, Packet
from segviz_core.federation.synchronization import Spec


def compact(packet: Packet, *, norm: Collection[str]) -> Packet:
    """The packet with the big float32 arrays as float16; `norm` names the representation's entries that stay."""
    return replace(packet, arrays={name: _compact(name, arrays, norm) for name, arrays in packet.arrays.items()})


def expand(packet: Packet) -> Packet:
    """The packet with float16 arrays as float32 again."""
    return replace(packet, arrays={name: _expand(arrays) for name, arrays in packet.arrays.items()})


def on_the_wire(spec: Spec, group: str, *, transport: str, norm: Collection[str]) -> Spec:
    """`spec` of a group as it travels."""
    if transport != "fp16" or not _shrinks(group):
        return spec
    return {key: (shape, "float16" if _halved(key, dtype, norm) else dtype) for key, (shape, dtype) in spec.items()}


def _shrinks(group: str) -> bool:
    return group == "update" or group.split("/")[-1] == "representation"


def _halved(key: str, dtype: str, norm: Collection[str]) -> bool:
    return dtype == "float32" and key not in norm


def _compact(group: str, arrays: Arrays, norm: Collection[str]) -> Arrays:
    if not _shrinks(group):
        return arrays
    with np.errstate(over="ignore"):  # infinity is refused by the guard at the other end
        return {
            key: array.astype(np.float16) if _halved(key, array.dtype.name, norm) else array
            for key, array in arrays.items()
        }


def _expand(arrays: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
    return {key: array.astype(np.float32) if array.dtype == np.float16 else array for key, array in arrays.items()}
