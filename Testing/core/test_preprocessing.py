"""One geometry for all: orientation does not matter, positions are exact, and the way back ends on the CT's grid."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segviz_core.contract import DataContract
from segviz_core.preprocessing import network_grid, prepare, prepare_box, prepare_mask, restore
from segviz_core.volumes import Volume

ORIENTATIONS = [
    (axes, flips) for axes in itertools.permutations(range(3)) for flips in itertools.product((False, True), repeat=3)
]
WIDE = (-100.0, 100.0)


def turned(degrees: tuple[float, float, float]) -> np.ndarray:
    rotation = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        i, j = [n for n in range(3) if n != axis]
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ step
    return rotation


def stored_as(volume: Volume, axes: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """The same physical volume with permuted and reversed voxel axes."""
    voxels, affine = volume.voxels, volume.affine.copy()
    for axis in range(3):
        if flips[axis]:
            affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
            affine[:3, axis] *= -1
    voxels = voxels[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    affine[:3, :3] = affine[:3, list(axes)]
    return Volume(voxels.transpose(axes), affine)


def centres(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """RAS positions (X, Y, Z, 3) of all voxel centres."""
    indices = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    return indices @ affine[:3, :3].T + affine[:3, 3]


spacings = st.tuples(*[st.floats(0.5, 7)] * 3)
shapes = st.tuples(*[st.integers(2, 14)] * 3)
angles = st.tuples(*[st.floats(-25, 25)] * 3)
orientations = st.sampled_from(ORIENTATIONS)


@st.composite
def volumes(draw, *, spacing=spacings, shape=shapes) -> Volume:
    """Random HU (int16) on a turned grid around the origin, stored in any of the 48 orientations."""
    shape, affine = draw(shape), np.eye(4)
    affine[:3, :3] = turned(draw(angles)) * draw(spacing)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) / 2)
    voxels = np.random.default_rng(draw(st.integers(0, 99))).integers(-1024, 1500, shape).astype(np.int16)
    return stored_as(Volume(voxels, affine), *draw(orientations))


@settings(deadline=None)
@given(ct=volumes(), target=spacings, orientation=orientations)
def test_orientation_of_the_file_changes_no_bit(ct, target, orientation):
    contract = DataContract(target)
    a, b = prepare(ct, contract), prepare(stored_as(ct, *orientation), contract)
    assert np.array_equal(a.voxels, b.voxels)
    np.testing.assert_allclose(a.grid.affine, b.grid.affine, atol=1e-9)


@settings(deadline=None)
@given(ct=volumes(), target=spacings)
def test_network_axes_run_right_anterior_superior_at_the_spacing_of_the_contract(ct, target):
    grid = prepare(ct, DataContract(target)).grid
    columns = grid.affine[:3, :3]
    np.testing.assert_allclose(np.linalg.norm(columns, axis=0), target, rtol=1e-9)
    assert (np.diag(columns) > 0).all()
    assert (np.abs(columns).argmax(axis=0) == [0, 1, 2]).all()
    assert np.linalg.det(columns) > 0


@settings(deadline=None)
@given(ct=volumes(), target=spacings, axis=st.integers(0, 2))
def test_affine_of_the_network_grid_names_the_point_that_was_sampled(ct, target, axis):
    coordinate = centres(ct.voxels.shape, ct.affine)[..., axis].astype(np.float32)
    prepared = prepare(Volume(coordinate, ct.affine), DataContract(target, WIDE))
    points = centres(prepared.grid.shape, prepared.grid.affine)
    in_ct = (points - ct.affine[:3, 3]) @ np.linalg.inv(ct.affine[:3, :3]).T
    inside = ((in_ct >= 0) & (in_ct <= np.array(ct.voxels.shape) - 1)).all(axis=-1)  # clamped outside
    found = prepared.voxels * (WIDE[1] - WIDE[0]) + WIDE[0]
    np.testing.assert_allclose(found[inside], points[inside][:, axis], atol=1e-4)


@settings(deadline=None)
@given(ct=volumes(), target=spacings)
def test_voxels_are_the_windowed_trilinear_samples_of_torch(ct, target):
    torch = pytest.importorskip("torch", reason="torch is not installed here")
    contract = DataContract(target)
    prepared = prepare(ct, contract)
    points = centres(prepared.grid.shape, np.linalg.inv(ct.affine) @ prepared.grid.affine)  # in voxels of the CT
    normalised = (2 * points + 1) / np.array(ct.voxels.shape) - 1
    sampled = torch.nn.functional.grid_sample(
        torch.tensor(np.ascontiguousarray(ct.voxels), dtype=torch.float64)[None, None],
        torch.tensor(normalised[..., ::-1].copy())[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )[0, 0].numpy()
    low, high = contract.window_hu
    np.testing.assert_allclose(prepared.voxels, (np.clip(sampled, low, high) - low) / (high - low), atol=1e-3)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.25, 2.0, 3.0])
def test_resampling_is_that_of_torch_interpolate(scale):
    torch = pytest.importorskip("torch", reason="torch is not installed here")
    voxels = np.random.default_rng(0).normal(0, 50, (20, 12, 16)).astype(np.float32)
    prepared = prepare(Volume(voxels, np.diag([1.0, 1.0, 1.0, 1.0])), DataContract((1 / scale,) * 3, (-400, 400)))
    expected = torch.nn.functional.interpolate(
        torch.tensor(voxels)[None, None], scale_factor=scale, mode="trilinear", recompute_scale_factor=False
    )[0, 0]
    np.testing.assert_allclose(prepared.voxels, (expected.numpy() + 400) / 800, atol=1e-3)
    back = restore(prepared.voxels[None], prepared.grid)[0]
    sizes = voxels.shape
    expected = torch.nn.functional.interpolate(torch.tensor(prepared.voxels)[None, None], size=sizes, mode="trilinear")
    np.testing.assert_allclose(back, expected[0, 0].numpy(), atol=1e-3)


@settings(deadline=None)
@given(ct=volumes(), target=spacings, data=st.data())
def test_a_box_of_the_network_s_grid_has_the_voxels_of_the_whole(ct, target, data):
    contract = DataContract(target)
    grid = network_grid(ct, contract)
    starts = [data.draw(st.integers(0, size - 1)) for size in grid.shape]
    box = tuple(slice(a, data.draw(st.integers(a + 1, size))) for a, size in zip(starts, grid.shape, strict=True))
    part = prepare_box(ct, contract, grid, box)
    assert np.array_equal(part, prepare(ct, contract).voxels[box])
    assert part.flags.c_contiguous


@settings(deadline=None)
@given(ct=volumes(), target=spacings, channels=st.integers(1, 3))
def test_restored_values_have_the_shape_of_the_ct(ct, target, channels):
    grid = network_grid(ct, DataContract(target))
    values = np.random.default_rng(1).random((channels, *grid.shape), np.float32)
    restored = restore(values, grid)
    assert restored.shape == (channels, *ct.voxels.shape)
    assert restored.dtype == np.float32
    assert restored.min() >= values.min()
    assert restored.max() <= values.max()


@settings(deadline=None)
@given(ct=volumes(), target=spacings, orientation=orientations)
def test_orientation_of_the_file_changes_no_bit_of_what_is_restored(ct, target, orientation):
    contract = DataContract(target)
    grid = network_grid(ct, contract)
    values = np.random.default_rng(1).random((1, *grid.shape), np.float32)
    turned_ct = stored_as(ct, *orientation)
    there = stored_as(Volume(restore(values, grid)[0], ct.affine), *orientation).voxels
    assert np.array_equal(restore(values, network_grid(turned_ct, contract))[0], there)


@settings(deadline=None)
@given(
    ct=volumes(spacing=st.tuples(*[st.floats(0.5, 3)] * 3), shape=st.tuples(*[st.integers(14, 24)] * 3)),
    target=st.tuples(*[st.floats(1, 3)] * 3),
)
def test_smooth_intensities_survive_the_way_to_the_network_and_back(ct, target):
    points = centres(ct.voxels.shape, ct.affine)
    smooth = 60 * np.sin(points @ [0.02, 0.015, -0.01]).astype(np.float32)
    prepared = prepare(Volume(smooth, ct.affine), DataContract(target, WIDE))
    back = restore(prepared.voxels[None], prepared.grid)[0] * 200 - 100
    np.testing.assert_allclose(back, smooth, atol=9)  # clamping moves border voxels by up to 3 mm along each axis
    np.testing.assert_allclose(back[6:-6, 6:-6, 6:-6], smooth[6:-6, 6:-6, 6:-6], atol=0.3)


def test_window_clips_and_scales_to_one():
    voxels = np.array([-1000, -175, 37, 250, 3000], np.float32).reshape(5, 1, 1).repeat(2, 1).repeat(2, 2)
    prepared = prepare(Volume(voxels, np.eye(4)), DataContract((1, 1, 1), (-175, 250)))
    np.testing.assert_allclose(prepared.voxels[:, 0, 0], [0, 0, 212 / 425, 1, 1], atol=1e-6)
    assert prepared.voxels.dtype == np.float32
    assert prepared.voxels.flags.c_contiguous


def test_ct_itself_is_not_changed():
    voxels = np.random.default_rng(0).normal(0, 500, (6, 7, 8)).astype(np.float32)
    before = voxels.copy()
    prepare(Volume(voxels, np.eye(4)), DataContract((1, 1, 1)))
    assert np.array_equal(voxels, before)


@settings(deadline=None)
@given(ct=volumes(), target=spacings)
def test_mask_is_resampled_as_the_ct_is(ct, target):
    mask = ct.voxels > 100
    as_ct = prepare(Volume(mask.astype(np.float32), ct.affine), DataContract(target, (0, 1)))
    assert np.array_equal(prepare_mask(mask, as_ct.grid), as_ct.voxels >= 0.5)
    assert prepare_mask(np.ones_like(mask), as_ct.grid).all()
    assert not prepare_mask(np.zeros_like(mask), as_ct.grid).any()


def test_organ_keeps_its_place_and_volume():
    affine = np.diag([-0.8, -0.8, 5.0, 1.0])
    ball = np.linalg.norm(centres((80, 80, 14), affine) - [-30, -34, 30], axis=-1) < 22
    ct = Volume(np.where(ball, 100, 0).astype(np.int16), affine)
    grid = prepare(ct, DataContract((2, 2, 2))).grid
    mask = prepare_mask(ball, grid)
    millilitres = np.prod(grid.spacing_mm) * mask.sum() / 1000
    assert millilitres == pytest.approx(np.prod(ct.spacing_mm) * ball.sum() / 1000, rel=0.05)
    np.testing.assert_allclose(centres(grid.shape, grid.affine)[mask].mean(axis=0), [-30, -34, 30], atol=0.5)
    back = restore(mask[None].astype(np.float32), grid)[0] >= 0.5
    assert 2 * (back & ball).sum() / (back.sum() + ball.sum()) > 0.93


def test_volume_thinner_than_one_network_voxel_keeps_one():
    prepared = prepare(Volume(np.full((2, 30, 30), 50, np.int16), np.diag([0.5, 2, 2, 1.0])), DataContract((6, 4, 4)))
    assert prepared.voxels.shape == (1, 15, 15)
    assert restore(prepared.voxels[None], prepared.grid).shape == (1, 2, 30, 30)
