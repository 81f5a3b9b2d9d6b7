"""Every reply is checked alone; a bad one is rejected by name (flower.md section 3)."""

import numpy as np
import pytest

from segviz_core.federation.guard import Rejected, check_reply, outliers
from segviz_core.federation.packets import Packet
from segviz_core.federation.synchronization import Template

TEMPLATE = Template(
    representation={"w": ((4,), "float32"), "bn.running_mean": ((1,), "float32")},
    norm=frozenset({"bn.running_mean"}),
    head={"w": ((2,), "float32")},
)
REQUEST = Packet({"stage": "train", "round": 3, "mode": "segviz+"})


def reply(*, arrays=None, metrics=None, settings=None) -> Packet:
    return Packet(
        {"stage": "train", "round": 3, "mode": "segviz+"} | (settings or {}),
        {
            "update": {"w": np.ones(4, np.float32)},
            "norm": {"bn.running_mean": np.zeros(1, np.float32)},
            "head/liver": {"w": np.ones(2, np.float32)},
        }
        | (arrays or {}),
        {"loss": 0.5, "steps": 2.0, "cases/liver": 3.0, "dice/liver": 0.5} | (metrics or {}),
    )


def check(packet: Packet, organs=("liver",)) -> None:
    check_reply(packet, request=REQUEST, organs=organs, template=TEMPLATE, contract_hash="c" * 64)


def test_honest_reply_passes():
    check(reply())


@pytest.mark.parametrize(
    "bad, words",
    [
        (reply(settings={"round": 2}), "round: expected 3, found 2"),
        (reply(settings={"stage": "tune"}), "stage: expected train, found tune"),
        (reply(arrays={"update": {"w": np.full(4, np.nan, np.float32)}}), "update: w: expected finite"),
        (reply(arrays={"update": {"w": np.full(4, 1e12, np.float32)}}), "expected values up to 100000"),
        (reply(arrays={"update": {"w": np.full(4, 9e4, np.float32)}}), "update norm 1.8e\\+05 is above 10000"),
        (reply(arrays={"update": {"w": np.ones(2, np.float32)}}), "found float32 \\(2,\\)"),
        (reply(arrays={"update": {}}), "missing w"),
        (reply(arrays={"update": {"w": np.ones(4)}}), "found float64"),
        (reply(arrays={"head/liver": {"w": np.ones(1, np.float32)}}), "head/liver: w"),
        (reply(arrays={"head/spleen": {"w": np.ones(2, np.float32)}}), "unexpected arrays head/spleen"),
        (reply(metrics={"cases/liver": -5.0}), "cases/liver: expected 1 to 100000, found -5"),
        (reply(metrics={"cases/liver": 0.0}), "cases/liver: expected 1 to 100000, found 0"),
        (reply(metrics={"dice/liver": 1.5}), "dice/liver: expected 0 to 1, found 1.5"),
        (reply(metrics={"dice/liver": float("nan")}), "expected a finite number"),
        (reply(metrics={"dice/spleen": 0.5}), "dice/spleen: this site declared liver only"),
        (Packet(REQUEST.settings, reply().arrays, {}), "metric loss is missing"),
        (Packet(REQUEST.settings, {}, reply().metrics), "expected the arrays update"),
    ],
)
def test_bad_reply_is_rejected_with_the_reason(bad, words):
    with pytest.raises(Rejected, match=words):
        check(bad)


def test_site_with_another_contract_may_not_declare():
    request = Packet({"stage": "declare", "round": 1, "mode": "segviz+"})
    declaration = Packet(
        {**request.settings, "site": "a", "organs": "liver", "contract": "d" * 64}, {}, {"cases/liver": 2.0}
    )
    with pytest.raises(Rejected, match="data contract"):
        check_reply(declaration, request=request, organs=(), template=TEMPLATE, contract_hash="c" * 64)


def test_negative_variance_is_rejected():
    template = Template({"v.running_var": ((1,), "float32")}, frozenset({"v.running_var"}), TEMPLATE.head)
    bad = reply(arrays={"update": {}, "norm": {"v.running_var": np.full(1, -1, np.float32)}})
    with pytest.raises(Rejected, match="no negative value"):
        check_reply(bad, request=REQUEST, organs=("liver",), template=template, contract_hash="")


def test_a_variance_may_be_as_large_as_the_square_of_the_largest_value():
    template = Template({"v.running_var": ((1,), "float32")}, frozenset({"v.running_var"}), TEMPLATE.head)
    known = {"request": REQUEST, "organs": ("liver",), "template": template, "contract_hash": ""}
    honest, absurd = (
        reply(arrays={"update": {}, "norm": {"v.running_var": np.full(1, variance, np.float32)}})
        for variance in (3.3e5, 1.1e10)
    )
    check_reply(honest, **known)
    with pytest.raises(Rejected, match=r"expected values up to 10000000000, found 1.1e\+10"):
        check_reply(absurd, **known)


def test_update_ten_times_the_median_is_an_outlier_from_three_sites_on():
    assert outliers({"a": 1.0, "b": 100.0}) == {}
    found = outliers({"a": 1.0, "b": 1.2, "c": 12.1})
    assert list(found) == ["c"]
    assert "10 times the median" in found["c"]
