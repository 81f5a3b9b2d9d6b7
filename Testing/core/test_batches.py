"""Training patches: where they lie, what they carry, and that they can be drawn again (method.md section 3)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_cases import BOXES, LEVELS, PATCH, SHAPE, toy_case

from segviz_core import batches
from segviz_core.batches import draw_batch
from segviz_core.cases import Case

CASES = [toy_case(f"c{i}", ("liver",), seed=i) for i in range(3)]


def draw(seed: int, *, cases=CASES, patch=PATCH, **options):
    return draw_batch(
        cases,
        organs=options.pop("organs", ("liver",)),
        patch_size=patch,
        batch_size=2,
        rng=np.random.default_rng(seed),
        **options,
    )


def test_same_generator_draws_the_same_patches():
    assert torch.equal(draw(5).images, draw(5).images)
    assert not torch.equal(draw(5).images, draw(6).images)


def test_every_other_patch_lies_on_an_own_organ():
    small = [toy_case("c", ("pancreas",), seed=0)]
    hits = [
        draw(seed, cases=small, patch=(8, 8, 8), organs=("pancreas",)).masks.flatten(1).any(1) for seed in range(20)
    ]
    assert all(bool(hit[0]) for hit in hits)
    assert not all(bool(hit[1]) for hit in hits)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.tuples(*[st.sampled_from([4, 8, 16, 24])] * 3))
def test_any_patch_size_works_also_beyond_the_volume(seed, patch):
    batch = draw(seed, patch=patch)
    assert batch.images.shape == (2, 1, *patch)
    assert batch.masks.shape == (2, 1, *patch)
    assert set(batch.masks.unique().tolist()) <= {0.0, 1.0}
    assert batch.images.isfinite().all()


def test_image_and_mask_stay_aligned_under_augmentation(monkeypatch):
    monkeypatch.setattr(batches, "INTENSITY_SCALE", 0.0)
    monkeypatch.setattr(batches, "INTENSITY_SHIFT", 0.0)
    for seed in range(10):
        batch = draw(seed)
        inside = batch.images[:, 0][batch.masks[:, 0] > 0] * 255
        assert inside.median().item() == pytest.approx(LEVELS["liver"], abs=10)


def test_without_augmentation_a_patch_is_a_crop_of_the_volume(monkeypatch):
    for name in ("ROTATION_DEG", "ZOOM", "INTENSITY_SCALE", "INTENSITY_SHIFT"):
        monkeypatch.setattr(batches, name, 0.0)
    batch = draw(3, cases=CASES[:1], patch=SHAPE)
    np.testing.assert_allclose(batch.images[0, 0].numpy() * 255, CASES[0].voxels, atol=1e-2)
    assert batch.masks[0, 0].bool().numpy()[BOXES["liver"]].all()


def test_coarse_patch_shows_two_or_three_times_as_much(monkeypatch):
    for name in ("ROTATION_DEG", "ZOOM", "INTENSITY_SCALE", "INTENSITY_SHIFT"):
        monkeypatch.setattr(batches, name, 0.0)
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None], (64, 64, 64))
    case = Case("ramp", ramp, {"liver": ramp > 30})
    seen = [draw(seed, cases=[case], patch=(8, 8, 8), coarse=1.0).images * 255 for seed in range(8)]
    steps = {round(float(step)) for images in seen for step in images.diff(dim=2).flatten()}
    assert steps == {2, 3}
    fine = draw(0, cases=[case], patch=(8, 8, 8)).images * 255
    assert {round(float(step)) for step in fine.diff(dim=2).flatten()} == {1}


def test_intensity_changes_by_at_most_scale_and_shift():
    for seed in range(20):
        image = draw(seed, patch=(8, 8, 8)).images
        assert image.min() > -0.11
        assert image.max() < 1.1 * 1 + 0.11


def test_soft_maps_of_foreign_organs_come_along_in_0_to_1():
    case = toy_case("c", ("liver",), seed=0)
    case.targets = {"spleen": np.full(SHAPE, 255, np.uint8)}
    batch = draw(1, cases=[case], foreign=("spleen", "kidneys"), patch=(4, 4, 4))
    assert batch.targets[:, 0].max().item() == pytest.approx(1.0)
    assert not batch.targets[:, 1].any()  # nobody labelled it: the map is empty


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.tuples(*[st.integers(3, 12)] * 3))
def test_patch_is_the_trilinear_one_of_torch(seed, patch):
    """Turned, magnified and reflected at the volume's faces: as grid_sample does it, 8 neighbours at a time."""
    rng = np.random.default_rng(seed)
    volume, center = rng.integers(0, 256, (9, 10, 11), np.uint8), rng.uniform(2, 7, 3)
    angle, zoom = rng.uniform(-0.3, 0.3), rng.uniform(0.8, 1.2)
    found = batches._resample([(volume, np.arange(256, dtype=np.float32))], center, angle, zoom, patch)
    offsets = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in patch], indexing="ij"), -1) / zoom
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    points = offsets @ turn.T + center + 20  # 20 voxels of margin, reflected
    large = torch.from_numpy(np.pad(volume, 20, "reflect").astype(np.float32))
    grid = torch.from_numpy(2 * points / (np.array(large.shape) - 1) - 1).flip(-1).float()
    expected = torch.nn.functional.grid_sample(large[None, None], grid[None], align_corners=True)[0]
    np.testing.assert_allclose(found, expected, atol=0.05)


def test_contrast_curve_rises_and_keeps_both_ends(monkeypatch):
    for name in ("INTENSITY_SCALE", "INTENSITY_SHIFT"):
        monkeypatch.setattr(batches, name, 0.0)
    curves = np.stack([batches._intensities(np.random.default_rng(seed), 0.45) for seed in range(200)])
    assert (np.diff(curves) > 0).all()
    np.testing.assert_allclose(curves[:, [0, 255]], np.tile([0, 1], (200, 1)), atol=1e-6)
    assert np.ptp(curves[:, 128]) > 0.2
    np.testing.assert_allclose(batches._intensities(np.random.default_rng(0), 0.0), np.arange(256) / 255, atol=1e-6)


def test_patch_larger_than_the_volume_shows_it_reflected_not_air(monkeypatch):
    for name in ("ROTATION_DEG", "ZOOM", "INTENSITY_SCALE", "INTENSITY_SHIFT"):
        monkeypatch.setattr(batches, name, 0.0)
    batch = draw(3, cases=CASES[:1], patch=(SHAPE[0], SHAPE[1], SHAPE[2] + 8))
    expected = np.pad(CASES[0].voxels, ((0, 0), (0, 0), (4, 4)), "reflect")
    np.testing.assert_allclose(batch.images[0, 0].numpy() * 255, expected, atol=1e-2)
