"""A site checks what comes from the coordinator as the coordinator checks what comes from a site."""

import numpy as np
import pytest
from toy_cases import toy_settings

from segviz_core.errors import InputError
from segviz_core.federation.packets import Packet
from segviz_core.federation.request_guard import check_request
from segviz_core.federation.synchronization import Template
from segviz_core.federation.transport import compact

TEMPLATE = Template(
    representation={"w": ((4,), "float32"), "bn.running_var": ((1,), "float32")},
    norm=frozenset({"bn.running_var"}),
    head={"w": ((2,), "float32")},
)
SITE = toy_settings(local_steps=40, new_head_steps=30).for_site("north")
TRAIN = {"first_step": 0, "steps": 2, "total_steps": 4, "learning_rate": 0.1}
TRAIN |= {"foreign_weight": 0.5, "foreign_ramp": 0.2, "proximal": 0.0}


def request(stage="train", *, arrays=None, **settings) -> Packet:
    theta = {"w": np.ones(4, np.float32), "bn.running_var": np.ones(1, np.float32)}
    groups = {"representation": theta, "head/liver": {"w": np.ones(2, np.float32)}} if arrays is None else arrays
    return Packet({"stage": stage, "round": 3, "mode": "segviz+", **TRAIN, **settings}, groups)


def check(packet: Packet) -> None:
    check_request(packet, settings=SITE, template=TEMPLATE)


def test_honest_request_passes_also_in_half_precision():
    check(request())
    check(compact(request(transport="fp16"), norm=TEMPLATE.norm))


@pytest.mark.parametrize(
    "bad, words",
    [
        (request(shell="rm"), "Setting 'shell' is not part of the protocol"),
        (request(steps=41), "steps: the kit of this study allows 40 in one request, found 41"),
        (request(transport="fp64"), "transport: expected one of fp32, fp16, found 'fp64'"),
        (request(sites="north,<b>"), "sites: expected names of letters, digits"),
        (Packet({"stage": "train", "round": 1, "mode": "segviz+"}), "train needs the setting first_step, found none"),
        (request(arrays={}), "train needs the arrays representation, found none"),
        (request(arrays={"model": {}}), "train holds no arrays model"),
        (request("expert"), "expert holds no arrays representation"),
        (request(arrays={"representation": {"w": np.ones(4, np.float32)}}), "missing bn.running_var"),
        (request(arrays={"representation": {"w": np.ones(4), "bn.running_var": np.ones(1)}}), "found float64"),
        (request("label", arrays={"expert/0/head/liver": {"w": np.full(2, np.nan, np.float32)}}), "expected finite"),
        (request("label", arrays={"expert/0/head/liver": {"w": np.full(2, 1e6, np.float32)}}), "values up to 100000"),
        (compact(request(), norm=TEMPLATE.norm), "expected float32 \\(4,\\), found float16"),
    ],
)
def test_request_that_does_not_fit_the_kit_or_the_network_is_refused(bad, words):
    with pytest.raises(InputError, match=words):
        check(bad)
