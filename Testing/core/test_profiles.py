from math import prod

import pytest

from segviz_core.experiments.profiles import PROFILES, Profile
from segviz_core.labels import ORGANS


def test_case_counts_are_those_of_the_method() -> None:
    counts = {name: ([p.cases[site] for site in p.cases], p.test_cases) for name, p in PROFILES.items()}
    assert counts == {
        "smoke": ([2, 2], 1),
        "small": ([13, 6, 28, 20], 16),
        "medium": ([131, 41, 282, 206], 60),
    }
    assert all(list(p.cases) == ["liver", "spleen", "pancreas", "kidneys"][: len(p.cases)] for p in PROFILES.values())


def test_small_trains_240_steps_per_site() -> None:
    assert PROFILES["small"].rounds * PROFILES["small"].steps_per_round == 240


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
def test_patch_fits_network_and_volume(profile: Profile) -> None:
    step = prod(profile.network["strides"])
    assert all(side % step == 0 for side in profile.patch_size)
    assert all(side <= n for side, n in zip(profile.patch_size, profile.shape, strict=True))
    assert len(profile.network["strides"]) == len(profile.network["channels"]) - 1


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
def test_profiles_cover_the_same_320_by_240_by_240_mm(profile: Profile) -> None:
    assert profile.contract.spacing_mm == profile.spacing_mm
    assert [n * mm for n, mm in zip(profile.shape, profile.spacing_mm, strict=True)] == [320, 240, 240]
    assert set(profile.cases) <= set(ORGANS)
