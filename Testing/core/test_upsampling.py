"""Labels painted from coarse margins are those of interpolating every margin at every voxel, without exception."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from segviz_core.contract import DataContract
from segviz_core.labels import ORGANS
from segviz_core.merging import merge
from segviz_core.meta_model import OrganEntry
from segviz_core.preprocessing import NetworkGrid, network_grid, restore, whole
from segviz_core.upsampling import paint
from segviz_core.volumes import Volume

ENTRIES = [OrganEntry.of(organ) for organ in ORGANS.values()]
TUMOUR = OrganEntry("tumour", 255, "Tumour", (200, 0, 0), "SCT^108369006^Neoplasm", "tumours")


@st.composite
def entries(draw) -> list[OrganEntry]:
    """One to five heads in any order, in one or two groups, with any temperature and threshold."""
    chosen = draw(st.permutations([*ENTRIES, TUMOUR]))[: draw(st.integers(1, 5))]
    calibration = st.one_of(st.just((1.0, 0.5)), st.tuples(st.floats(0.25, 4), st.floats(0.05, 0.95)))
    return [replace(entry, temperature=t, threshold=h) for entry in chosen for t, h in [draw(calibration)]]


@st.composite
def grids(draw) -> NetworkGrid:
    """Any orientation, a few voxels; the CT may be finer or coarser than the network's grid."""
    shape = draw(st.tuples(*[st.integers(2, 16)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.5, 4)] * 3))
    order, signs = draw(st.permutations(range(3))), draw(st.tuples(*[st.sampled_from((-1, 1))] * 3))
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3)[:, order] * signs) @ np.diag(spacing)
    order = draw(st.sampled_from("FC"))
    target = draw(st.tuples(*[st.floats(0.5, 4)] * 3))
    return network_grid(Volume(np.zeros(shape, np.int16, order=order), affine), DataContract(target))


def random_margins(draw, count: int, shape) -> np.ndarray:
    """Noise, plateaus or whole numbers: the last two tie at many voxels."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    margins = rng.normal(0, draw(st.sampled_from((1, 1000))), (count, *shape)) + rng.normal(-0.5, 1, (count, 1, 1, 1))
    kind = draw(st.sampled_from(("noise", "whole numbers", "plateaus", "one organ")))
    if kind == "whole numbers":
        margins = np.rint(margins)
    elif kind == "plateaus":
        margins = np.clip(margins, -0.5, 0.5)
    elif kind == "one organ":
        margins = np.abs(margins) * np.where(np.arange(count) == 0, 1, -1).reshape(-1, 1, 1, 1)
    return margins.astype(np.float32)


@settings(deadline=None, max_examples=150)
@given(entries=entries(), grid=grids(), data=st.data())
def test_painted_labels_are_those_of_all_margins_interpolated(entries, grid, data):
    margins = random_margins(data.draw, len(entries), grid.shape)
    labels = np.zeros(grid.native_shape, np.uint8, order=data.draw(st.sampled_from("FC")))
    paint(labels, margins, entries, grid, whole(grid))
    assert np.array_equal(labels, merge(restore(margins, grid), entries))


@settings(deadline=None, max_examples=100)
@given(entries=entries(), grid=grids(), data=st.data())
def test_a_box_paints_its_own_voxels_and_no_other(entries, grid, data):
    """The reference continues the margins of the box unchanged over the whole grid."""
    box, core = [], []
    for size in grid.shape:
        a, b, c, d = sorted(data.draw(st.tuples(*[st.integers(0, size)] * 4)))
        a, d = (a, d) if a < d else (0, size)
        b = min(max(a, b), d - 1)
        box.append(slice(a, d))
        core.append(slice(b, max(c, b + 1)))
    margins = random_margins(data.draw, len(entries), [part.stop - part.start for part in box])
    labels = np.zeros(grid.native_shape, np.uint8)
    paint(labels, margins, entries, grid, tuple(box), core=tuple(core))

    beyond = [(part.start, size - part.stop) for part, size in zip(box, grid.shape, strict=True)]
    expected = merge(restore(np.pad(margins, [(0, 0), *beyond], mode="edge"), grid), entries)
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij")).astype(np.float32)
    position = np.floor(restore(index, grid) + 0.5)
    inside = np.all([(position[n] >= core[n].start) & (position[n] < core[n].stop) for n in range(3)], axis=0)
    assert np.array_equal(labels, np.where(inside, expected, 0))


def test_an_organ_held_back_by_its_threshold_at_the_corners_may_win_between_them():
    """Same label at all corners, another one between them: thresholds make a winner's region not convex."""
    careful = replace(ENTRIES[1], threshold=1 / (1 + np.exp(-2.0)))
    margins = np.zeros((2, 2, 2, 2), np.float32)
    margins[:, 0] = np.array([0.5, 1.99]).reshape(2, 1, 1)  # the spleen is ahead, but below its threshold
    margins[:, 1] = np.array([9.1, 9.0]).reshape(2, 1, 1)
    grid = network_grid(Volume(np.zeros((12, 4, 4), np.int16), np.diag([0.5, 1.5, 1.5, 1])), DataContract((3, 3, 3)))
    labels = np.zeros(grid.native_shape, np.uint8)
    paint(labels, margins, [ENTRIES[0], careful], grid, whole(grid))
    assert set(np.unique(labels)) == {1, 2}
    assert set(np.unique(merge(margins, [ENTRIES[0], careful]))) == {1}


def test_specks_are_painted_but_no_organ_that_could_go_on_beyond_a_cut():
    grid = network_grid(Volume(np.zeros((24, 24, 24), np.int16), np.diag([2.0, 2, 2, 1])), DataContract((2, 2, 2)))
    margins = np.full((1, *grid.shape), -1, np.float32)
    margins[0, 6:14, 4:14, 5:15] = 1
    margins[0, 10:14, 10:14, 20:] = 1  # 64 mm2 at the rim
    labels = np.zeros(grid.native_shape, np.uint8)
    found = paint(labels, margins, ENTRIES[:1], grid, whole(grid))
    assert np.array_equal(labels, merge(margins, ENTRIES[:1]).reshape(labels.shape))
    assert found == (slice(6, 14), slice(4, 14), slice(5, 15))

    margins[0, 8:14, 8:14, 20:] = 1  # 144 mm2
    found = paint(np.zeros_like(labels), margins, ENTRIES[:1], grid, whole(grid))
    assert found == (slice(6, 14), slice(4, 14), slice(5, 24))

    margins[0] = -1
    margins[0, 10:14, 10:14, 20:] = 1
    assert paint(np.zeros_like(labels), margins, ENTRIES[:1], grid, whole(grid)) is None


def test_margins_that_are_not_numbers_bear_no_label():
    grid = network_grid(Volume(np.zeros((8, 8, 8), np.int16), np.eye(4)), DataContract((2, 2, 2)))
    labels = np.zeros(grid.native_shape, np.uint8)
    paint(labels, np.full((4, *grid.shape), np.nan, np.float32), ENTRIES, grid, whole(grid))
    assert not labels.any()
