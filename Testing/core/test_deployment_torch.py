"""The OpenVINO graph gives the numbers of the torch network that was trained."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from untrained_model import untrained_model

from segviz_core.deployment import deploy
from segviz_core.labels import ORGANS
from segviz_core.meta_model import activations
from segviz_core.network import NetworkConfig
from segviz_core.torch_inference import OnePass, load_network


@st.composite
def models(draw):
    head_stages = draw(st.sampled_from([1, 2]))
    levels = draw(st.integers(1 + head_stages, 4))
    return untrained_model(
        channels=tuple(draw(st.lists(st.integers(1, 6), min_size=levels, max_size=levels))),
        strides=(2, *draw(st.lists(st.sampled_from([1, 2]), min_size=levels - 2, max_size=levels - 2))),
        num_res_units=draw(st.integers(1, 3)),
        head_stages=head_stages,
        organs=draw(st.lists(st.sampled_from(sorted(ORGANS)), min_size=1, max_size=4, unique=True)),
        seed=draw(st.integers(0, 999)),
    )


@settings(max_examples=12, deadline=None)
@given(model=models(), sizes=st.tuples(*[st.integers(1, 3)] * 3))
def test_margins_are_those_of_torch(model, sizes):
    voxels = np.random.default_rng(0).random([8 * size for size in sizes], np.float32)
    expected = OnePass(model, device="cpu").margins(voxels)
    np.testing.assert_allclose(deploy(model, precision="fp32").margins(voxels), expected, atol=1e-4)


def test_the_published_network_gives_the_margins_of_torch():
    config = NetworkConfig()
    model = untrained_model(config.channels, config.strides, config.num_res_units, tuple(ORGANS))
    voxels = np.random.default_rng(0).random((32, 16, 16), np.float32)
    expected = OnePass(model, device="cpu").margins(voxels)
    np.testing.assert_allclose(deploy(model, precision="fp32").margins(voxels), expected, atol=1e-4)


@pytest.mark.parametrize("head_stages, beside", [(1, 1), (2, 2)])
def test_every_rounded_activation_is_found_among_the_weights_keys(head_stages, beside):
    model = untrained_model((4, 6, 8), (2, 1), 2, head_stages=head_stages)
    network = load_network(model)
    last = [head.act for head in network.heads.values()]  # heads of one stage run as one
    units = sum(isinstance(m, nn.PReLU) and m not in last for m in network.modules())
    residual_units = [m for m in network.modules() if type(m).__name__ == "ResidualUnit"]
    shortcuts = sum(type(m.residual).__name__ == "Conv3d" for m in residual_units)
    assert len(activations(model.weights)) == units + len(residual_units) + shortcuts + beside
