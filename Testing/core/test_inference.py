"""Inference: from a CT on any grid to labels on the same grid."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_model import random_ct, random_model

from segviz_core.errors import Cancelled, InputError
from segviz_core.inference import load_network, margins, merge, segment
from segviz_core.labels import ORGANS
from segviz_core.meta_model import OrganEntry
from segviz_core.volumes import Volume

LIVER, SPLEEN = OrganEntry.of(ORGANS["liver"]), OrganEntry.of(ORGANS["spleen"])
TUMOUR = OrganEntry("tumour", 7, "Tumour", (200, 0, 0), "SCT^108369006^Neoplasm", "tumours")


@pytest.fixture(scope="module")
def model():
    return random_model()


@pytest.fixture(scope="module")
def network(model):
    return load_network(model, device="cpu")


@pytest.fixture(scope="module")
def reference(model):
    return segment(model, random_ct(), device="cpu")


def test_one_window_gives_what_the_network_gives(network):
    voxels = np.random.default_rng(0).random((16, 16, 16), np.float32)
    found = margins(network, voxels, organs=["spleen", "liver"], patch_size=(16, 16, 16))
    with torch.no_grad():
        logits = network(torch.from_numpy(voxels)[None, None])
    for values, organ in zip(found, ("spleen", "liver"), strict=True):
        expected = (logits[organ][0, 1] - logits[organ][0, 0]).numpy()
        np.testing.assert_allclose(values, expected, atol=1e-5)


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
    network = load_network(model, device="cpu").train()
    with pytest.raises(ValueError, match="eval mode, found train mode"):
        margins(network, np.zeros((16, 16, 16), np.float32), organs=["liver"], patch_size=(16, 16, 16))


def values_at(*margins_per_organ):
    return np.array(margins_per_organ, np.float32).reshape(len(margins_per_organ), -1)


def test_the_larger_probability_above_its_threshold_wins():
    found = merge(values_at([2, 1, -1, -1], [1, 2, 1, -1]), [LIVER, SPLEEN])
    assert found.tolist() == [1, 2, 2, 0]
    assert found.dtype == np.uint8


def test_an_organ_below_its_own_threshold_leaves_the_voxel_to_the_next():
    strict = replace(LIVER, threshold=0.9)  # margin 2 is .88
    assert merge(values_at([2.0, 2.5], [1, 1]), [strict, SPLEEN]).tolist() == [2, 1]


def test_temperature_decides_between_heads():
    unsure = replace(LIVER, temperature=4.0)
    assert merge(values_at([3], [1]), [unsure, SPLEEN]).tolist() == [2]


def test_two_saturated_heads_are_still_compared():
    assert merge(values_at([40], [41]), [LIVER, SPLEEN]).tolist() == [2]


def test_a_task_of_another_group_lies_over_the_organ_and_needs_no_larger_probability():
    assert merge(values_at([3, 3, -3], [1, -1, 1]), [LIVER, TUMOUR]).tolist() == [7, 1, 7]


@given(
    st.lists(st.tuples(*[st.floats(-8, 8, width=32)] * 3), min_size=1, max_size=20),
    st.tuples(*[st.floats(0.25, 4)] * 3),
    st.tuples(*[st.floats(0.1, 0.9)] * 3),
)
def test_merging_agrees_with_its_definition_in_probabilities(voxels, temperatures, thresholds):
    entries = [
        OrganEntry.of(organ, temperature=t, threshold=h)
        for organ, t, h in zip(list(ORGANS.values())[:3], temperatures, thresholds, strict=True)
    ]
    found = merge(np.array(voxels, np.float32).T.copy(), entries)
    for label, voxel in zip(found, voxels, strict=True):
        q = [1 / (1 + np.exp(-m / t)) for m, t in zip(voxel, temperatures, strict=True)]
        above = [(value, k) for k, value in enumerate(q) if value > thresholds[k] + 1e-4]
        if label:
            k = int(label) - 1
            assert q[k] > thresholds[k] - 1e-4
            assert q[k] > max((value for value, _ in above), default=0) - 1e-4
        else:
            assert not above


def test_labels_lie_on_the_grid_of_the_ct_and_volumes_are_counted(model, reference):
    ct = random_ct()
    assert reference.labels.shape == ct.voxels.shape
    assert reference.labels.dtype == np.uint8
    assert reference.not_found == ()
    for entry in model.organs:
        voxels = int((reference.labels == entry.value).sum())
        assert voxels > 50
        assert reference.volumes_ml[entry.name] == pytest.approx(voxels * 6 * 6 * 7 / 1000)
    assert {"prepare", "network", "restore"} <= reference.seconds.keys()


def test_two_runs_give_the_same_voxels(model, reference):
    np.testing.assert_array_equal(segment(model, random_ct(), device="cpu").labels, reference.labels)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(), (0,), (0, 1, 2)])
def test_any_orientation_gives_the_same_organs_at_the_same_place(model, reference, order, flips):
    ct = random_ct()
    voxels = np.flip(ct.voxels.transpose(order), flips)
    affine = ct.affine[:, [*order, 3]].copy()
    for axis in flips:
        affine[:, 3] += affine[:, axis] * (voxels.shape[axis] - 1)
        affine[:, axis] *= -1
    found = segment(model, Volume(voxels, affine), device="cpu")
    np.testing.assert_array_equal(found.labels, np.flip(reference.labels.transpose(order), flips))


def test_an_oblique_ct_is_segmented_along_its_own_axes(model, reference):
    ct = random_ct()
    angle = np.radians(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    found = segment(model, Volume(ct.voxels, turn @ ct.affine), device="cpu")
    np.testing.assert_array_equal(found.labels, reference.labels)
    assert found.volumes_ml == pytest.approx(reference.volumes_ml)


@pytest.mark.parametrize(
    "shape,spacing",
    [
        ((60, 60, 90), (0.5, 0.5, 0.5)),
        ((20, 30, 25), (7, 7, 7)),
        ((90, 80, 6), (0.7, 0.7, 7)),
        ((2, 2, 2), (0.5, 1, 3)),
    ],
)
def test_any_spacing_and_size_gives_labels_on_its_own_grid(model, shape, spacing):
    found = segment(model, random_ct(shape, spacing), device="cpu")
    assert found.labels.shape == shape


def test_the_grid_can_be_made_coarser_but_not_finer(model, reference):
    coarse = segment(model, random_ct(), spacing_mm=12.0, device="cpu")
    assert coarse.labels.shape == reference.labels.shape
    assert (coarse.labels != reference.labels).any()
    with pytest.raises(InputError, match=r"--spacing may only coarsen .* expected 8 mm or more, found 4"):
        segment(model, random_ct(), spacing_mm=4.0, device="cpu")
    with pytest.raises(InputError, match="may only coarsen"):
        segment(model, random_ct(), spacing_mm=float("nan"), device="cpu")


def test_leaving_organs_out_changes_no_voxel_of_the_others(model, reference):
    found = segment(model, random_ct(), organs=["spleen", "pancreas"], device="cpu")
    np.testing.assert_array_equal(found.labels, np.where(np.isin(reference.labels, (2, 4)), reference.labels, 0))
    assert list(found.volumes_ml) == ["spleen", "pancreas"]
    assert found.not_found == ()


def test_an_organ_without_a_head_is_refused_by_name(model):
    with pytest.raises(InputError, match=r"no head for heart: it segments liver, spleen, kidneys, pancreas"):
        segment(model, random_ct(), organs=["liver", "heart"], device="cpu")


def test_an_organ_that_no_voxel_shows_is_reported_and_not_invented(model):
    entries = [replace(e, threshold=1 - 1e-9) if e.name in ("spleen", "kidneys") else e for e in model.organs]
    found = segment(replace(model, organs=tuple(entries)), random_ct(), split_kidneys=True, device="cpu")
    assert found.not_found == ("spleen", "left_kidney", "right_kidney")
    assert not np.isin(found.labels, (2, 3, 5, 6)).any()
    assert set(found.volumes_ml) == {"liver", "pancreas"}


def test_split_kidneys_take_the_place_of_the_kidneys(model, reference):
    found = segment(model, random_ct(), split_kidneys=True, device="cpu")
    assert [entry.title for entry in found.organs] == ["Liver", "Spleen", "Left kidney", "Right kidney", "Pancreas"]
    np.testing.assert_array_equal(np.isin(found.labels, (5, 6)), reference.labels == 3)
    assert found.volumes_ml["left_kidney"] + found.volumes_ml["right_kidney"] == pytest.approx(
        reference.volumes_ml["kidneys"]
    )


def test_a_new_organ_of_a_federation_is_segmented_with_its_own_value():
    new = OrganEntry("duodenum", 7, "Duodenum", (1, 2, 3), "SCT^38848004^Duodenum")
    model = random_model((ORGANS["liver"],))
    head = {key.replace("liver", "duodenum"): value for key, value in model.weights.items() if "liver" in key}
    entry = replace(new, threshold=model.organs[0].threshold)
    tiny = replace(model.organs[0], threshold=1 - 1e-9)
    found = segment(replace(model, organs=(tiny, entry), weights=dict(model.weights) | head), random_ct(), device="cpu")
    assert set(np.unique(found.labels)) == {0, 7}


def test_weights_that_do_not_fit_the_network_settings_are_refused(model):
    with pytest.raises(InputError, match=r"weights do not fit its network settings: .*size mismatch"):
        load_network(replace(model, network={"channels": [8, 8, 16], "strides": [2, 2], "num_res_units": 1}))
    weights = {key: value for key, value in model.weights.items() if key != "heads.liver.up.bias"}
    with pytest.raises(InputError, match=r"Missing key.*heads\.liver\.up\.bias"):
        load_network(replace(model, weights=weights))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a computer without an NVIDIA card")
def test_a_missing_graphics_card_is_named(model):
    with pytest.raises(InputError, match="NVIDIA graphics card for --device cuda, found none"):
        segment(model, random_ct(), device="cuda")
