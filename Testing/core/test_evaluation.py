"""Scores of label maps against cases whose answer is known."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from segviz_core.evaluation import dice_per_organ, evaluate

pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI calls itself

SPACING = (1.0, 1.5, 3.0)


def a_box(low, high, *, value=1, shape=(30, 30, 20)):
    labels = np.zeros(shape, np.uint8)
    labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = value
    return labels


def score(prediction, truth, **options):
    (row,) = evaluate(prediction, truth, case="c", spacing_mm=SPACING, organs={"liver": 1}, **options)
    return row


TRUTH = a_box((8, 8, 5), (20, 20, 12))


def test_a_perfect_map_scores_perfectly():
    row = score(TRUTH, TRUTH)
    assert (row.case, row.organ) == ("c", "liver")
    assert (row.dice, row.nsd, row.hd95_mm, row.volume_error_ml, row.false_positive_ml) == (1, 1, 0, 0, 0)
    assert row.truth_ml == pytest.approx(12 * 12 * 7 * 4.5 / 1000)


def test_a_shifted_box_has_the_known_overlap_volumes_and_distance():
    row = score(a_box((8, 8, 6), (20, 20, 13)), TRUTH)
    assert row.dice == pytest.approx(6 / 7)
    assert row.hd95_mm == pytest.approx(3.0)
    assert row.volume_error_ml == 0
    assert row.false_positive_ml == pytest.approx(12 * 12 * 4.5 / 1000)


def test_a_smaller_map_has_a_negative_volume_error_and_no_false_positives():
    row = score(a_box((8, 8, 5), (20, 20, 10)), TRUTH)
    assert row.volume_error_ml == pytest.approx(-12 * 12 * 2 * 4.5 / 1000)
    assert row.false_positive_ml == 0


def test_tolerance_decides_what_counts_as_the_same_surface():
    shifted = a_box((8, 8, 6), (20, 20, 13))  # 3 mm in z: top and bottom faces are off by more than 2 mm
    strict, tolerant = score(shifted, TRUTH), score(shifted, TRUTH, tolerance_mm=3.0)
    assert tolerant.nsd == pytest.approx(1.0)
    assert 0.6 < strict.nsd < 0.85


def test_nsd_weighs_surfaces_by_area_not_by_voxels():
    cube, shifted = a_box((8, 8, 5), (14, 14, 11)), a_box((9, 8, 5), (15, 14, 11))
    thin, thick = (
        evaluate(shifted, cube, case="c", spacing_mm=(1, 1, z), organs={"liver": 1}, tolerance_mm=0.5)[0].nsd
        for z in (0.1, 10)
    )
    assert thin > thick + 0.2  # the faces along x, which are off, weigh more as the voxels get higher


def test_an_organ_that_is_in_neither_map_is_right():
    row = score(np.zeros_like(TRUTH), np.zeros_like(TRUTH))
    assert (row.dice, row.nsd, row.hd95_mm, row.truth_ml) == (1, 1, 0, 0)


@pytest.mark.parametrize("swapped", [False, True])
def test_an_organ_missing_in_one_map_costs_the_diagonal(swapped):
    pair = (TRUTH, np.zeros_like(TRUTH)) if swapped else (np.zeros_like(TRUTH), TRUTH)
    row = score(*pair)
    assert (row.dice, row.nsd) == (0, 0)
    assert row.hd95_mm == pytest.approx(math.hypot(30, 45, 60))
    assert row.false_positive_ml == (pytest.approx(12 * 12 * 7 * 4.5 / 1000) if swapped else 0)


def test_an_organ_cut_by_the_edge_of_the_image_has_a_surface_there():
    truth, found = a_box((0, 3, 0), (10, 10, 10)), a_box((1, 3, 1), (10, 10, 10))
    inside = score(np.pad(found, 5), np.pad(truth, 5))
    assert score(found, truth).nsd == pytest.approx(inside.nsd)
    assert score(found, truth).hd95_mm == pytest.approx(inside.hd95_mm)


def test_hd95_agrees_with_distances_by_hand():
    rng = np.random.default_rng(0)
    truth = ndimage.gaussian_filter(rng.normal(size=(24, 22, 18)), 3) > 0.02
    found = ndimage.gaussian_filter(rng.normal(size=(24, 22, 18)), 3) > 0.02
    edges = [np.pad(mask, 1) & ~ndimage.binary_erosion(np.pad(mask, 1)) for mask in (found, truth)]
    to = [ndimage.distance_transform_edt(~edge, sampling=SPACING) for edge in edges]
    expected = max(np.percentile(to[1][edges[0]], 95), np.percentile(to[0][edges[1]], 95))
    row = score(found.astype(np.uint8), truth.astype(np.uint8))
    assert row.hd95_mm == pytest.approx(expected, rel=1e-4)


def test_each_organ_has_its_row_and_its_value():
    prediction, truth = TRUTH.copy(), a_box((8, 8, 5), (20, 20, 12), value=4)
    rows = evaluate(prediction, truth, case="c", spacing_mm=SPACING)
    assert [(row.organ, row.dice) for row in rows] == [("liver", 0), ("spleen", 1), ("kidneys", 1), ("pancreas", 0)]


labels = arrays.arrays(np.uint8, (4, 3, 2), elements=st.integers(0, 4))


@settings(max_examples=40, deadline=None)
@given(labels, labels)
def test_dice_per_organ_is_the_dice_of_the_rows_and_symmetric(prediction, truth):
    rows = evaluate(prediction, truth, case="c", spacing_mm=SPACING)
    assert dice_per_organ(prediction, truth) == {row.organ: row.dice for row in rows}
    assert dice_per_organ(truth, prediction) == dice_per_organ(prediction, truth)
    assert all(0 <= row.dice <= 1 and 0 <= row.nsd <= 1 and row.hd95_mm >= 0 for row in rows)


def test_maps_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match=r"one shape, found \(1, 2, 3\) and \(3, 2, 1\)"):
        dice_per_organ(np.zeros((1, 2, 3), int), np.zeros((3, 2, 1), int))
