"""A hostile site: every round another bad answer (flower.md section 3). Runs where the honest ClientApp does.

Round 1 (`declare`) is honest, or it would not be a member; then BEHAVIOURS, one per round, in this order.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Array, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from segviz_core.federation import records
from segviz_core.federation.client_app import answer
from segviz_core.federation.packets import Packet

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    round_number = int(message.content["settings"]["round"])
    reply = answer(message.content, Path(str(context.node_config["site"])))
    if round_number > 1:
        reply = list(BEHAVIOURS.values())[round_number - 2](reply)
    return Message(reply, reply_to=message)


def client_raises(_: RecordDict) -> RecordDict:
    raise RuntimeError("crash while reading /data/DOE_JOHN.nii.gz")


def client_app_exits(_: RecordDict) -> RecordDict:
    os._exit(9)


def corrupt_bytes(reply: RecordDict) -> RecordDict:
    reply.array_records["arrays"]["update"] = Array("uint8", (4,), "safetensors", b"junk")
    return reply


def no_metrics(reply: RecordDict) -> RecordDict:
    del reply["metrics"]
    return reply


def weights(change: Callable[[np.ndarray], np.ndarray | None]) -> Callable[[RecordDict], RecordDict]:
    """Put another array, or none, in the place of one array of the update."""

    def spoil(reply: RecordDict) -> RecordDict:
        packet = records.from_record(reply)
        changed = change(packet.arrays["update"].pop("conv.weight"))
        if changed is not None:
            packet.arrays["update"]["conv.weight"] = changed
        return records.to_record(packet)

    return spoil


def metric(name: str, value: float | None) -> Callable[[RecordDict], RecordDict]:
    def spoil(reply: RecordDict) -> RecordDict:
        packet = records.from_record(reply)
        metrics = {key: number for key, number in packet.metrics.items() if key != name}
        return records.to_record(
            Packet(packet.settings, packet.arrays, metrics | ({} if value is None else {name: value}))
        )

    return spoil


def bad_head(reply: RecordDict) -> RecordDict:
    packet = records.from_record(reply)
    packet.arrays["head/pancreas"]["up.weight"] = np.zeros(7, np.float32)
    return records.to_record(packet)


BEHAVIOURS: dict[str, Callable[[RecordDict], RecordDict]] = {
    # what the coordinator says about it: the behaviour
    "its ClientApp raised an error": client_raises,
    "expected finite numbers, found NaN": weights(lambda array: array * np.float32("nan")),
    "expected values up to": weights(lambda array: array * np.float32(1e12)),
    "expected float32 (4, 3), found float32 (2, 3)": weights(lambda array: array[:2]),
    "missing conv.weight": weights(lambda array: None),
    "expected float32 (4, 3), found float64": weights(lambda array: array.astype(np.float64)),
    "cases/pancreas: expected 1 to 100000, found -5": metric("cases/pancreas", -5.0),
    "cases/pancreas: expected 1 to 100000, found 0": metric("cases/pancreas", 0.0),
    "its reply cannot be read": corrupt_bytes,
    "its reply cannot be read.": no_metrics,
    "metric dice/pancreas is missing": metric("dice/pancreas", None),
    "head/pancreas: up.weight: expected float32 (3,), found float32 (7,)": bad_head,
    "it went offline during the round": client_app_exits,
}
