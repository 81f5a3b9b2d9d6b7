"""The rule that makes one label of the margins of all heads."""

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from segviz_core.labels import ORGANS
from segviz_core.merging import merge
from segviz_core.meta_model import OrganEntry

LIVER, SPLEEN = OrganEntry.of(ORGANS["liver"]), OrganEntry.of(ORGANS["spleen"])
TUMOUR = OrganEntry("tumour", 7, "Tumour", (200, 0, 0), "SCT^108369006^Neoplasm", "tumours")


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
