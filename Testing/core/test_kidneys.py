"""Left and right kidney: sides are the patient's, whatever the axes of the CT."""

import numpy as np
import pytest

from segviz_core.kidneys import split_kidneys
from segviz_core.volumes import Volume

WINDOW = (-175.0, 250.0)
LEFT, RIGHT = 5, 6


def a_ct(shape=(41, 29, 20), *, air=-1000):
    """A body whose middle lies at R = 100 mm, 2 mm voxels, RAS axes."""
    voxels = np.full(shape, air, np.int16)
    voxels[4:37, 4:25] = 40
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[0, 3] = 100 - 2 * 20
    return Volume(voxels, affine)


def labels_with(*boxes):
    labels = np.zeros((41, 29, 20), np.uint8)
    labels[18:22, 5:8, 5:8] = 1
    for box in boxes:
        labels[box] = 3
    return labels


KIDNEY_AT_SMALL_R = np.s_[8:14, 10:16, 4:16]
KIDNEY_AT_LARGE_R = np.s_[27:33, 10:16, 4:16]


@pytest.mark.parametrize("air", [-1000, -125])
def test_left_is_at_smaller_r_and_other_organs_stay(air):
    found = split_kidneys(labels_with(KIDNEY_AT_SMALL_R, KIDNEY_AT_LARGE_R), a_ct(air=air), window_hu=(-125, 275))
    assert (found[KIDNEY_AT_SMALL_R] == LEFT).all()
    assert (found[KIDNEY_AT_LARGE_R] == RIGHT).all()
    assert (found[18:22, 5:8, 5:8] == 1).all()
    assert not (found == 3).any()


def test_sides_follow_the_affine_not_the_array():
    ct = a_ct()
    affine = ct.affine.copy()
    affine[0, 0], affine[0, 3] = -2.0, 100 + 2 * 20  # first axis runs to the patient's left
    found = split_kidneys(labels_with(KIDNEY_AT_SMALL_R), Volume(ct.voxels, affine), window_hu=WINDOW)
    assert (found[KIDNEY_AT_SMALL_R] == RIGHT).all()


def test_an_axis_order_other_than_ras_is_followed():
    ct, labels = a_ct(), labels_with(KIDNEY_AT_SMALL_R, KIDNEY_AT_LARGE_R)
    turned = Volume(ct.voxels.transpose(2, 1, 0), ct.affine[:, [2, 1, 0, 3]])
    found = split_kidneys(labels.transpose(2, 1, 0), turned, window_hu=WINDOW)
    np.testing.assert_array_equal(found.transpose(2, 1, 0), split_kidneys(labels, ct, window_hu=WINDOW))


def test_a_kidney_that_reaches_over_the_midline_stays_whole():
    reaching = np.s_[10:21, 10:16, 4:16]
    found = split_kidneys(labels_with(reaching), a_ct(), window_hu=WINDOW)
    assert (found[reaching] == LEFT).all()


def test_a_horseshoe_kidney_is_cut_at_the_midline():
    bridge = np.s_[14:27, 12:14, 4:7]
    labels = labels_with(KIDNEY_AT_SMALL_R, KIDNEY_AT_LARGE_R, bridge)
    found = split_kidneys(labels, a_ct(), window_hu=WINDOW)
    assert (found[:21][labels[:21] == 3] == LEFT).all()
    assert (found[21:][labels[21:] == 3] == RIGHT).all()


def test_a_map_without_kidneys_is_returned_as_it_is():
    labels = labels_with()
    np.testing.assert_array_equal(split_kidneys(labels, a_ct(), window_hu=WINDOW), labels)


def test_a_ct_without_air_or_body_still_has_a_middle():
    ct = a_ct()
    for value in (40, -900):
        found = split_kidneys(
            labels_with(KIDNEY_AT_SMALL_R), Volume(np.full_like(ct.voxels, value), ct.affine), window_hu=WINDOW
        )
        assert (found[KIDNEY_AT_SMALL_R] == LEFT).all()
