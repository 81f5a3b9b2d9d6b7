"""Inference with torch: windows over whole volumes in training, one pass over a region on a graphics card."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_model import random_ct, random_model

from segviz_core.errors import Cancelled, InputError
from segviz_core.inference import segment
from segviz_core.torch_inference import OnePass, load_network, margins


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def network(model):
    return load_network(model)


def test_one_window_gives_what_the_network_gives(network):
    voxels = np.random.default_rng(0).random((16, 16, 16), np.float32)
    found = margins(network, voxels, organs=["spleen", "liver"], patch_size=(16, 16, 16), precision="fp32")
    with torch.no_grad():
        logits = network(torch.from_numpy(voxels)[None, None])
    for values, organ in zip(found, ("spleen", "liver"), strict=True):
        expected = (logits[organ][0, 1] - logits[organ][0, 0]).numpy()
        np.testing.assert_allclose(values, expected, atol=1e-5)


def test_whole_volumes_in_bf16_are_close_to_fp32_and_come_as_fp32(network):
    voxels = np.random.default_rng(0).random((24, 16, 40), np.float32)
    exact, close = (
        margins(network, voxels, organs=network.organs, patch_size=(16, 16, 16), precision=precision)
        for precision in ("fp32", "bf16")
    )
    assert close.dtype == np.float32
    assert np.abs(close - exact).max() < 0.1 * exact.std()
    assert not np.array_equal(close, exact)


def test_a_volume_smaller_than_a_patch_is_padded_with_air(network):
    voxels = np.random.default_rng(0).random((10, 16, 7), np.float32)
    found = margins(network, voxels, organs=["liver"], patch_size=(16, 16, 16))
    padded = np.pad(voxels, ((3, 3), (0, 0), (4, 5)))
    expected = margins(network, padded, organs=["liver"], patch_size=(16, 16, 16))[:, 3:-3, :, 4:-5]
    assert found.shape == (1, 10, 16, 7)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(st.tuples(*[st.integers(1, 40)] * 3), st.sampled_from([0.0, 0.25, 0.5]))
def test_progress_ends_at_the_number_of_windows(network, shape, overlap):
    seen = []
    margins(
        network,
        np.zeros(shape, np.float32),
        organs=["liver"],
        patch_size=(16, 16, 16),
        overlap=overlap,
        on_window=lambda done, total: seen.append((done, total)),
    )
    total = seen[-1][1]
    assert seen == [(done, total) for done in range(total + 1)]


def test_a_callback_that_cancels_stops_between_windows(network):
    seen = []

    def cancel_at_the_second_window(done, total):
        seen.append(done)
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        margins(
            network,
            np.zeros((40, 40, 40), np.float32),
            organs=["liver"],
            patch_size=(16, 16, 16),
            on_window=cancel_at_the_second_window,
        )
    assert seen == [0, 1, 2]


def test_a_network_in_train_mode_is_refused(model):
    network = load_network(model).train()
    with pytest.raises(ValueError, match="eval mode, found train mode"):
        margins(network, np.zeros((16, 16, 16), np.float32), organs=["liver"], patch_size=(16, 16, 16))


def test_one_pass_is_the_network_itself(model, network):
    voxels = np.random.default_rng(0).random((16, 24, 12), np.float32)
    found = OnePass(model, device="cpu").margins(voxels)
    with torch.no_grad():
        logits = network(torch.from_numpy(voxels)[None, None])
    for values, entry in zip(found, model.organs, strict=True):
        np.testing.assert_allclose(values, (logits[entry.name][0, 1] - logits[entry.name][0, 0]).numpy(), atol=1e-5)


def test_torch_and_the_deployed_network_label_alike(model):
    by_torch = segment(model, random_ct(), network=OnePass(model, device="cpu")).labels
    deployed = segment(model, random_ct(), device="cpu", precision="fp32").labels
    assert np.count_nonzero(by_torch != deployed) < 1e-4 * by_torch.size
    assert (by_torch > 0).sum() > 1000


def test_three_runs_of_the_deployed_network_give_identical_labels(model):
    first, *others = (segment(model, random_ct(), device="cpu").labels for _ in range(3))
    assert first.any()
    assert all(np.array_equal(first, other) for other in others)


def test_weights_that_do_not_fit_the_network_settings_are_refused(model):
    with pytest.raises(InputError, match=r"weights do not fit its network settings: .*size mismatch"):
        load_network(replace(model, network={**model.network, "channels": [8, 8, 16]}))
    weights = {key: value for key, value in model.weights.items() if key != "heads.liver.up.bias"}
    with pytest.raises(InputError, match=r"Missing key.*heads\.liver\.up\.bias"):
        load_network(replace(model, weights=weights))
