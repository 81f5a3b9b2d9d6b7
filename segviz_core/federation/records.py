"""Packets as Flower's records and back.

Each group of arrays travels as one Flower array that holds a safetensors blob: Flower moves every array by requests of
its own, so 138 arrays would cost 138 round trips per hop, and equal groups of several sites are still stored once.
"""

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from safetensors.numpy import load, save

from segviz_core.federation.guard import Rejected
from segviz_core.federation.packets import Arrays, Packet
from segviz_core.federation.trainer_socket import ERRORS

_KIND = "safetensors"


def to_record(packet: Packet) -> RecordDict:
    """The records of `packet`."""
    groups = {name: _blob(arrays) for name, arrays in packet.arrays.items()}
    return RecordDict(
        {
            "settings": ConfigRecord(dict(packet.settings)),
            "arrays": ArrayRecord(groups),
            "metrics": MetricRecord({name: float(value) for name, value in packet.metrics.items()}),
        }
    )


def from_record(record: RecordDict) -> Packet:
    """The packet in `record`, which may come from anybody.

    Raises:
        Rejected: it holds an error code of a site, or cannot be read.
    """
    if "error" in record:
        code = str(record.config_records["error"].get("code", ""))
        raise Rejected(ERRORS.get(code, "the site sent an error without a known code") + ".")
    try:
        return Packet(
            settings=dict(record.config_records["settings"]),
            arrays={name: load(array.data) for name, array in record.array_records["arrays"].items()},
            metrics=dict(record.metric_records["metrics"]),
        )
    except Exception as error:
        raise Rejected("its reply cannot be read.") from error


def error_record(code: str) -> RecordDict:
    """What a site sends instead of a packet: one of the codes of trainer_socket.ERRORS, no text."""
    return RecordDict({"error": ConfigRecord({"code": code})})


def _blob(arrays: Arrays) -> Any:
    contiguous = {key: np.asarray(array, order="C") for key, array in arrays.items()}  # safetensors reads plain memory
    data = save(contiguous)
    return Array(dtype="uint8", shape=(len(data),), stype=_KIND, data=data)
