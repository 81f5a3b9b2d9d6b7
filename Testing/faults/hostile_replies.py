"""The hostile ClientApp of `make faults`: every round another bad reply, in the order of BEHAVIOURS.

The thirteen of flower.md section 3 are those of Testing/core/hostile_client_app.py; replays come on top.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from hostile_client_app import BEHAVIOURS as THIRTEEN
from hostile_client_app import client_app_exits

from segviz_core.federation import records
from segviz_core.federation.client_app import answer
from segviz_core.federation.packets import Packet

FIRST_ROUND = 2
"""Round 1 is answered honestly, or the site would be no member."""

app = ClientApp()
_site: list[Path] = []


@app.train()
def train(message: Message, context: Context) -> Message:
    _site[:] = [Path(str(context.node_config["site"]))]
    number = int(message.content["settings"]["round"])
    reply = answer(message.content, _site[0])
    if FIRST_ROUND <= number < FIRST_ROUND + len(BEHAVIOURS):
        reply = BEHAVIOURS[number - FIRST_ROUND][2](reply)
    return Message(reply, reply_to=message)


def for_an_older_round(reply: RecordDict) -> RecordDict:
    """This round's work, marked as that of the round before; the honest reply is kept for the next round."""
    packet = records.from_record(reply)
    (_site[0] / "kept.packet").write_bytes(packet.to_bytes())
    return records.to_record(
        Packet(packet.settings | {"round": int(packet.settings["round"]) - 1}, packet.arrays, packet.metrics)
    )


def replayed(_: RecordDict) -> RecordDict:
    """The honest reply of the round before, byte for byte."""
    return records.to_record(Packet.from_bytes((_site[0] / "kept.packet").read_bytes()))


def far_above_the_others(reply: RecordDict) -> RecordDict:
    """Finite, in bounds, and a hundred times what the others send."""
    packet = records.from_record(reply)
    update = {key: np.asarray(array * np.float32(100)) for key, array in packet.arrays["update"].items()}
    return records.to_record(Packet(packet.settings, {**packet.arrays, "update": update}, packet.metrics))


def another_stage(reply: RecordDict) -> RecordDict:
    packet = records.from_record(reply)
    return records.to_record(Packet(packet.settings | {"stage": "tune"}, packet.arrays, packet.metrics))


def head_of_another_site(reply: RecordDict) -> RecordDict:
    packet = records.from_record(reply)
    arrays = {**packet.arrays, "head/liver": packet.arrays["head/pancreas"]}
    return records.to_record(Packet(packet.settings, arrays, packet.metrics))


_TITLES = {
    "its ClientApp raised an error": "client raises",
    "expected finite numbers, found NaN": "NaN",
    "expected values up to": "x 1e12",
    "expected float32 (4, 3), found float32 (2, 3)": "wrong shape",
    "missing conv.weight": "missing key",
    "expected float32 (4, 3), found float64": "other dtype",
    "cases/pancreas: expected 1 to 100000, found -5": "negative count",
    "cases/pancreas: expected 1 to 100000, found 0": "zero count",
    "its reply cannot be read": "corrupt bytes",
    "its reply cannot be read.": "no metrics",
    "metric dice/pancreas is missing": "missing metric",
    "head/pancreas: up.weight: expected float32 (3,), found float32 (7,)": "bad head",
}
BEHAVIOURS: list[tuple[str, str, Callable[[RecordDict], RecordDict]]] = [
    # title, what the coordinator says about it, what is done to the honest reply; in the order of the rounds
    ("reply for an older round", "round: expected", for_an_older_round),
    ("replayed reply", "round: expected", replayed),
    ("another stage", "stage: expected train, found tune", another_stage),
    ("head of another site's organ", "unexpected arrays head/liver", head_of_another_site),
    ("x 100", "times the median", far_above_the_others),
    *((title, words, THIRTEEN[words]) for words, title in _TITLES.items()),
    ("ClientApp exits", "ended without a reply|offline", client_app_exits),
]
