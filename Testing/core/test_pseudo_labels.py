"""What is left of an expert's labels before they teach (docs/method_log.md)."""

import numpy as np
import pytest
from scipy import ndimage
from toy_cases import PATCH, toy_settings
from toy_federation import run, sessions

from segviz_core.federation import pseudo_labels
from segviz_core.federation.pseudo_labels import without_small_pieces
from segviz_core.norm_statistics import adapted


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Sites whose cases the experts have labelled."""
    _, sites = run(tmp_path_factory.mktemp("labelled"))
    return sites


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


def test_soft_maps_are_zero_inside_the_sites_own_organ(labelled):
    for case in labelled["2"].site.training_cases:
        assert set(case.targets) == {"liver", "kidneys"}
        for target in case.targets.values():
            assert target.dtype == np.uint8
            assert not target[case.masks["spleen"]].any()


def test_experts_logits_are_raised_by_the_teacher_shift_of_the_study(tmp_path):
    logits = []
    for shift in (0.0, 2.0):
        _, sites = run(tmp_path / str(shift), teacher_shift=shift)
        case = sites["2"].site.training_cases[0]
        p = np.asarray(case.targets["liver"])[~case.masks["spleen"]] / 255
        logits.append(np.log(np.clip(p, 1e-3, 1 - 1e-3) / np.clip(1 - p, 1e-3, 1)))
    seen = (np.abs(logits[0]) < 2) & (np.abs(logits[1]) < 3)  # 8 bits hold these well
    assert seen.sum() > 100
    np.testing.assert_allclose(logits[1][seen] - logits[0][seen], 2, atol=0.15)


def test_sites_leave_out_the_small_pieces_that_the_study_leaves_out(tmp_path):
    for share in (0.0, 1.0):
        _, sites = run(tmp_path / str(share), teacher_pieces=share)
        pieces = [
            ndimage.label(np.asarray(target) > 127)[1]
            for case in sites["2"].site.training_cases
            for target in case.targets.values()
        ]
        assert max(pieces) > 1 if share == 0 else max(pieces) <= 1


def test_experts_label_with_the_norm_statistics_that_the_study_says(tmp_path, monkeypatch):
    shares = []

    def recorded(network, case, *, share, patch_size):
        shares.append((share, set(case.masks), tuple(patch_size)))
        return adapted(network, case, share=share, patch_size=patch_size)

    monkeypatch.setattr(pseudo_labels, "adapted", recorded)
    targets = []
    for share in (0.0, 0.75):
        _, sites = run(tmp_path / str(share), teacher_norm=share)
        targets.append(np.array(sites["2"].site.training_cases[0].targets["liver"]))
    assert {share for share, *_ in shares} == {0.75}
    assert (0.75, {"spleen"}, PATCH) in shares
    assert not np.array_equal(*targets)


def test_soft_maps_survive_a_restart_of_the_site(tmp_path):
    _, sites = run(tmp_path)
    before = sites["1"].site.training_cases[0].targets
    again = sessions(tmp_path, toy_settings())["1"].site.training_cases[0].targets
    assert set(again) == set(before)
    np.testing.assert_array_equal(again["spleen"], before["spleen"])
    assert isinstance(before["spleen"], np.memmap)  # memory does not grow with the number of cases
    assert isinstance(again["spleen"], np.memmap)


def test_experts_are_not_kept_at_the_other_sites(labelled):
    for site in labelled.values():
        names = [path.name for path in site.work.rglob("*") if path.is_file()]
        assert not [name for name in names if "expert" in name]
