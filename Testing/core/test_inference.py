"""Inference: from a CT on any grid to labels on the same grid."""

from dataclasses import replace

import numpy as np
import pytest
from band_network import BandNetwork, band_model

from segviz_core import networks
from segviz_core.errors import Cancelled, InputError
from segviz_core.inference import segment
from segviz_core.meta_model import OrganEntry
from segviz_core.volumes import Volume

MODEL = band_model()
NETWORK = BandNetwork(MODEL)


def banded_ct(shape=(40, 36, 30), spacing_mm=(6.0, 6.0, 7.0), *, seed=0) -> Volume:
    """Blocks of random HU, noise, and air around a body-like ellipse; RAS axes, int16."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice([80, 110, 140, 190, 40, -100], size=(7, 7, 7))
    axes = [np.minimum((np.arange(n) * 7) // n, 6) for n in shape]
    hu = blocks[np.ix_(*axes)] + rng.normal(0, 3, size=shape)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -100, -90, -300
    return Volume(np.where(sum(axis**2 for axis in grid[:2]) < 0.9, hu, -1000).astype(np.int16), affine)


@pytest.fixture(scope="module")
def reference():
    return segment(MODEL, banded_ct(), network=NETWORK)


def test_labels_lie_on_the_grid_of_the_ct_and_volumes_are_counted(reference):
    ct = banded_ct()
    assert reference.labels.shape == ct.voxels.shape
    assert reference.labels.dtype == np.uint8
    assert reference.not_found == ()
    for entry in MODEL.organs:
        voxels = int((reference.labels == entry.value).sum())
        assert voxels > 50
        assert reference.volumes_ml[entry.name] == pytest.approx(voxels * 6 * 6 * 7 / 1000)
    assert {"locate", "prepare", "network", "restore"} == reference.seconds.keys()


def test_two_runs_give_the_same_voxels(reference):
    np.testing.assert_array_equal(segment(MODEL, banded_ct(), network=NETWORK).labels, reference.labels)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(), (0,), (0, 1, 2)])
def test_any_orientation_gives_the_same_organs_at_the_same_place(reference, order, flips):
    ct = banded_ct()
    voxels = np.flip(ct.voxels.transpose(order), flips)
    affine = ct.affine[:, [*order, 3]].copy()
    for axis in flips:
        affine[:, 3] += affine[:, axis] * (voxels.shape[axis] - 1)
        affine[:, axis] *= -1
    found = segment(MODEL, Volume(voxels, affine), network=NETWORK)
    np.testing.assert_array_equal(found.labels, np.flip(reference.labels.transpose(order), flips))


def test_an_oblique_ct_is_segmented_along_its_own_axes(reference):
    ct = banded_ct()
    angle = np.radians(20)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    found = segment(MODEL, Volume(ct.voxels, turn @ ct.affine), network=NETWORK)
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
def test_any_spacing_and_size_gives_labels_on_its_own_grid(shape, spacing):
    found = segment(MODEL, banded_ct(shape, spacing), network=NETWORK)
    assert found.labels.shape == shape


def test_the_grid_can_be_made_coarser_but_not_finer(reference):
    coarse = segment(MODEL, banded_ct(), spacing_mm=12.0, network=NETWORK)
    assert coarse.labels.shape == reference.labels.shape
    assert (coarse.labels != reference.labels).any()
    with pytest.raises(InputError, match=r"--spacing may only coarsen .* expected 8 mm or more, found 4"):
        segment(MODEL, banded_ct(), spacing_mm=4.0, network=NETWORK)
    with pytest.raises(InputError, match="may only coarsen"):
        segment(MODEL, banded_ct(), spacing_mm=float("nan"), network=NETWORK)


def test_leaving_organs_out_changes_no_voxel_of_the_others(reference):
    found = segment(MODEL, banded_ct(), organs=["spleen", "pancreas"], network=NETWORK)
    np.testing.assert_array_equal(found.labels, np.where(np.isin(reference.labels, (2, 4)), reference.labels, 0))
    assert list(found.volumes_ml) == ["spleen", "pancreas"]
    assert found.not_found == ()


def test_an_organ_without_a_head_is_refused_by_name():
    with pytest.raises(InputError, match=r"no head for heart: it segments liver, spleen, kidneys, pancreas"):
        segment(MODEL, banded_ct(), organs=["liver", "heart"], network=NETWORK)


def test_an_organ_that_no_voxel_shows_is_reported_and_not_invented():
    entries = [replace(e, threshold=1 - 1e-9) if e.name in ("spleen", "kidneys") else e for e in MODEL.organs]
    found = segment(replace(MODEL, organs=tuple(entries)), banded_ct(), split_kidneys=True, network=NETWORK)
    assert found.not_found == ("spleen", "left_kidney", "right_kidney")
    assert not np.isin(found.labels, (2, 3, 5, 6)).any()
    assert set(found.volumes_ml) == {"liver", "pancreas"}


def test_split_kidneys_take_the_place_of_the_kidneys(reference):
    found = segment(MODEL, banded_ct(), split_kidneys=True, network=NETWORK)
    assert [entry.title for entry in found.organs] == ["Liver", "Spleen", "Left kidney", "Right kidney", "Pancreas"]
    np.testing.assert_array_equal(np.isin(found.labels, (5, 6)), reference.labels == 3)
    assert found.volumes_ml["left_kidney"] + found.volumes_ml["right_kidney"] == pytest.approx(
        reference.volumes_ml["kidneys"]
    )


def test_a_new_organ_of_a_federation_is_segmented_with_its_own_value(reference):
    new = OrganEntry("duodenum", 7, "Duodenum", (1, 2, 3), "SCT^38848004^Duodenum")
    model = replace(MODEL, organs=(*MODEL.organs[:3], new), weights=MODEL.weights | {"heads.duodenum.up.weight": 0})
    found = segment(model, banded_ct(), network=NETWORK)  # its fourth margin is that of the pancreas
    np.testing.assert_array_equal(found.labels, np.where(reference.labels == 4, 7, reference.labels))


def test_a_tile_more_or_less_changes_no_voxel(reference):
    """A long scan in tiles: this network looks at single voxels, so that only a seam could make a difference."""
    ct = banded_ct((24, 20, 220), (8.0, 8.0, 8.0))
    steps = []
    whole = segment(MODEL, ct, network=NETWORK)
    tiled = segment(MODEL, ct, network=NETWORK, memory_mb=408, on_progress=lambda *step: steps.append(step))
    tiles = max(total for stage, _, total in steps if stage == "network")
    assert tiles >= 4
    assert [step for step in steps if step[0] == "network"][-1] == ("network", tiles, tiles)
    np.testing.assert_array_equal(tiled.labels, whole.labels)


def test_a_memory_limit_below_the_smallest_tile_is_refused_with_what_it_takes():
    with pytest.raises(InputError, match=r"Expected a memory limit of at least 0\.5 GB for this CT, found 0\.2\."):
        segment(MODEL, banded_ct(), network=NETWORK, memory_mb=200)


@pytest.mark.parametrize("stage", ["locate", "prepare", "network", "restore"])
def test_every_stage_can_be_cancelled(stage):
    def cancel(name, done, total):
        if name == stage:
            raise Cancelled

    with pytest.raises(Cancelled):
        segment(MODEL, banded_ct(), network=NETWORK, on_progress=cancel)


def test_fast_doubles_the_spacing_of_the_contract(reference):
    fast, network = banded_ct(), BandNetwork(MODEL)
    found = segment(MODEL, fast, network=network, fast=True)
    np.testing.assert_array_equal(found.labels, segment(MODEL, fast, network=NETWORK, spacing_mm=16.0).labels)
    assert network.seen == [(16, 16, 16)]


def test_the_network_never_sees_invented_air_at_the_ends_of_a_scan():
    """Sizes are raised by real voxels where the CT has them, else by its own mirror image: soft tissue goes on."""
    seen = []

    class Recorder(BandNetwork):
        def margins(self, voxels):
            seen.append(voxels)
            return super().margins(voxels)

    ct = Volume(np.full((30, 30, 30), 40, np.int16), np.diag([7.0, 7.0, 7.0, 1.0]))
    segment(MODEL, ct, network=Recorder(MODEL))
    assert seen[0].shape == (28, 28, 28)  # 26.25 voxels of 8 mm
    np.testing.assert_allclose(seen[0], (40 + 175) / 425, atol=1e-6)


def test_a_ct_of_nothing_but_air_is_not_shown_to_the_network():
    network = BandNetwork(MODEL)
    air = np.random.default_rng(0).normal(-1000, 20, (30, 30, 30)).astype(np.int16)
    found = segment(MODEL, Volume(air, np.eye(4)), network=network)
    assert found.region is None
    assert found.not_found == ("liver", "spleen", "kidneys", "pancreas")
    assert not found.labels.any()
    assert network.seen == []


@pytest.mark.skipif(networks._has_driver(), reason="needs a computer without an NVIDIA card")
def test_a_missing_graphics_card_is_named():
    with pytest.raises(InputError, match="NVIDIA graphics card and PyTorch with CUDA for --device cuda, found none"):
        segment(MODEL, banded_ct(), device="cuda")
