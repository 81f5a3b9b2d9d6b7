"""A packet survives the wire, and nothing that the protocol does not name gets through."""

import numpy as np
import pytest

from segviz_core.errors import InputError
from segviz_core.federation.packets import Packet, check_schema
from segviz_core.federation.schema import LEAVES, REPLY, REQUEST, REQUEST_GROUPS


def test_packet_survives_the_round_trip():
    packet = Packet(
        {"stage": "train", "round": 3, "learning_rate": 0.5, "calibrate": True},
        {
            "update": {"a.b": np.arange(6, dtype=np.float32).reshape(2, 3)},
            "norm": {"n": np.array(4, np.int64)},
            "head/liver": {},
        },
        {"loss": 0.25, "cases/liver": 3.0},
    )
    back = Packet.from_bytes(packet.to_bytes())
    assert back.settings == packet.settings
    assert back.metrics == packet.metrics
    assert set(back.arrays) == set(packet.arrays)
    assert back.arrays["norm"]["n"].shape == ()
    np.testing.assert_array_equal(back.arrays["update"]["a.b"], packet.arrays["update"]["a.b"])


@pytest.mark.parametrize("blob", [b"", b"not a packet", b"\x80\x04pickle", Packet({"stage": "train"}).to_bytes()[:-3]])
def test_other_bytes_are_refused(blob):
    with pytest.raises(InputError, match="Expected a SegViz packet"):
        Packet.from_bytes(blob)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"stage": "train", "path": "/etc"}, "Setting 'path' is not part of the protocol"),
        ({"stage": "shell"}, "Expected one of the stages"),
        ({"stage": "train", "steps": "12"}, "Setting steps: expected int, found str"),
        ({"stage": "train", "steps": -1}, "Setting steps: expected 0 to 10000000, found -1"),
        ({"stage": "train", "learning_rate": 7.0}, "Setting learning_rate: expected 0.0 to 1.0"),
        ({"stage": "train", "learning_rate": float("nan")}, "Setting learning_rate"),
        ({"stage": "train", "round": True}, "Setting round: expected int, found bool"),
    ],
)
def test_unknown_or_absurd_settings_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        check_schema(Packet(settings), REQUEST)


@pytest.mark.parametrize("name", ["patient", "dice/../liver", "cases/", "loss2", "weight/liver"])
def test_metric_outside_the_protocol_is_refused(name):
    with pytest.raises(InputError, match="not part of the protocol"):
        check_schema(Packet({"stage": "train"}, {}, {name: 1.0}), REPLY)


def test_metric_must_be_finite():
    with pytest.raises(InputError, match="expected a finite number"):
        check_schema(Packet({"stage": "train"}, {}, {"loss": float("nan")}), REPLY)


def test_array_group_outside_the_protocol_is_refused():
    with pytest.raises(InputError, match="'images' is not part of the protocol"):
        check_schema(Packet({"stage": "train"}, {"images": {}}), REPLY)


@pytest.mark.parametrize(
    "packet, words",
    [
        (Packet({"stage": "train", "learning_rate": 0.1}), "Setting 'learning_rate'"),
        (Packet({"stage": "train"}, {}, {"gate/liver": 1.0}), "Metric 'gate/liver'"),
        (Packet({"stage": "label"}, {"expert/0/representation": {}}), "Array group 'expert/0/representation'"),
    ],
)
def test_what_only_the_coordinator_sends_never_leaves_a_site(packet, words):
    check_schema(packet, REQUEST)
    with pytest.raises(InputError, match=words):
        check_schema(packet, REPLY)


def test_every_thing_that_may_leave_has_its_meaning_in_words():
    assert set(LEAVES) == {*REPLY.settings, *REPLY.metrics, *REPLY.groups}
    assert set(REQUEST.groups) == {group for groups in REQUEST_GROUPS.values() for group in groups}
