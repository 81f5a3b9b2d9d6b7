"""Half precision on the wire: which arrays, how exact, and that errors of rounding do not pile up."""

import numpy as np
import pytest
from toy_sites import toy_sites, toy_study

from segviz_core.experiments.runner import run_study
from segviz_core.federation.packets import Packet
from segviz_core.federation.transport import compact, expand

RNG = np.random.default_rng(0)


def test_only_the_representation_and_its_updates_shrink_and_norm_layers_do_not():
    arrays = {"w": np.ones(8, np.float32), "bn.running_var": np.ones(2, np.float32), "n": np.array(3, np.int64)}
    packet = Packet({"stage": "label"}, dict.fromkeys(["representation", "update", "head/liver", "norm"], arrays))
    small = compact(packet, norm={"bn.running_var"})
    for group in ("representation", "update"):
        assert [small.arrays[group][key].dtype.name for key in arrays] == ["float16", "float32", "int64"]
    for group in ("head/liver", "norm"):
        assert small.arrays[group]["w"].dtype == np.float32
    assert {array.dtype.name for array in expand(small).arrays["update"].values()} == {"float32", "int64"}


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6])
def test_rounding_is_far_below_what_a_round_changes(size):
    update = RNG.normal(0, size, 10_000).astype(np.float32)
    packet = Packet({"stage": "train"}, {"update": {"w": update}})
    back = expand(compact(packet, norm=())).arrays["update"]["w"]
    # half a unit of the last place: 2^-11 of the value, 2^-25 where fp16 has no smaller exponent
    assert np.abs(back - update).max() <= max(np.abs(update).max() * 2.0**-11, 2.0**-25)


def test_errors_of_rounding_do_not_pile_up_over_the_rounds(tmp_path):
    """Steps that fp16 weights would swallow (1e-4 on 10) arrive in full, because the server keeps fp32."""
    sums = {}
    for transport in ("fp32", "fp16"):
        study = toy_study(tmp_path / transport, mode="segviz-fedavg", rounds=30, transport=transport)
        study.state.representation["w"] += np.float32(10)
        sites = toy_sites(study)
        for site in sites.values():
            site.step *= 1e-4
        run_study(study, sites)
        sums[transport] = study.state.representation["w"]
    np.testing.assert_allclose(sums["fp16"], 10 + 30 * 3e-4, rtol=1e-5)
    np.testing.assert_allclose(sums["fp16"], sums["fp32"], rtol=1e-6)


def test_history_shows_half_the_bytes(tmp_path):
    sizes = {}
    for transport in ("fp32", "fp16"):
        study = toy_study(tmp_path / transport, mode="segviz-fedavg", rounds=1, transport=transport)
        run_study(study, toy_sites(study))
        sizes[transport] = study.history()[1]["sites"]["north"]["bytes_received"]
    assert sizes["fp32"] - sizes["fp16"] == 4 * 2  # w: four numbers; the rest is norm layers and heads
