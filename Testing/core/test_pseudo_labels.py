"""What is left of an expert's labels before they teach (docs/method_log.md)."""

import numpy as np

from segviz_core.federation.pseudo_labels import without_small_pieces


def test_small_pieces_of_an_experts_organ_are_not_taught_and_two_kidneys_are():
    target = np.full((40, 12, 12), 20, np.uint8)  # a little everywhere: no piece of its own
    target[2:10, 2:10, 2:10] = 250  # one kidney
    target[30:38, 2:10, 2:9] = 200  # the other
    target[20:23, 2:5, 2:5] = 255  # what an unknown scanner made of something else
    kept = without_small_pieces(target, 0.3)
    assert (kept[20:23, 2:5, 2:5] == 0).all()
    kept[20:23, 2:5, 2:5] = 255
    assert (kept == target).all()
    assert (without_small_pieces(target, 0.0) == target).all()


def test_organ_that_the_expert_does_not_find_has_no_pieces():
    nothing = np.full((4, 4, 4), 100, np.uint8)
    assert (without_small_pieces(nothing, 0.3) == nothing).all()
