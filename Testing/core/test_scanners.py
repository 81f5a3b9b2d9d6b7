import numpy as np
import pytest

from segviz_core.experiments.scanners import SCANNERS
from segviz_core.labels import ORGANS

SPACING = (5.0, 5.0, 5.0)


@pytest.mark.parametrize("site", SCANNERS)
def test_noise_has_the_sd_of_the_site_within_14_to_24_hu(site: str) -> None:
    scanner = SCANNERS[site]
    image = scanner.expose(np.full((40, 40, 40), 60, np.float32), SPACING, np.random.default_rng(0))
    assert image.dtype == np.int16
    assert image.std() == pytest.approx(scanner.noise_hu, rel=0.03)
    assert 14 <= scanner.noise_hu <= 24


@pytest.mark.parametrize("site", SCANNERS)
def test_stored_values_stay_within_those_of_a_ct(site: str) -> None:
    ideal = np.where(np.random.default_rng(0).random((20, 20, 20)) < 0.5, -1000, 3000).astype(np.float32)
    image = SCANNERS[site].expose(ideal, SPACING, np.random.default_rng(0))
    assert image.min() >= -1024
    assert image.max() <= 3071


def test_slice_blur_is_the_same_in_mm_on_fine_and_coarse_grids() -> None:
    """The step response of 5 mm blur: 16 % of the step are reached one sigma before it."""
    for spacing in (2.5, 1.25):
        step = np.zeros((24, 24, 128), np.float32)
        step[:, :, 64:] = 1000
        image = SCANNERS["spleen"].expose(step, (spacing,) * 3, np.random.default_rng(0)).mean(axis=(0, 1))
        edge = (63.5 - np.interp(158.7, image, np.arange(128.0))) * spacing
        assert edge == pytest.approx(5, abs=0.6)


def test_field_of_view_is_cut_only_at_the_sites_of_the_method() -> None:
    rng = np.random.default_rng(0)
    ends = {site: np.mean([scanner.draw_fov(rng) for _ in range(200)], axis=0) for site, scanner in SCANNERS.items()}
    assert ends["spleen"] == pytest.approx((-40, np.inf), abs=2)
    assert ends["pancreas"] == pytest.approx((-80, np.inf), abs=2)
    assert ends["kidneys"] == pytest.approx((-np.inf, 70), abs=2)
    assert list(ends["liver"]) == list(ends["test"]) == [-np.inf, np.inf]


def test_kidney_site_scans_in_the_arterial_phase() -> None:
    hu = SCANNERS["kidneys"].hu
    assert (hu["cortex"], hu["medulla"], hu["liver"], hu["aorta"]) == (195, 105, 72, 240)


def test_test_site_has_hu_that_no_training_site_has() -> None:
    for tissue in ("liver", "spleen", "cortex", "aorta", "oral contrast"):
        assert SCANNERS["test"].hu[tissue] not in {SCANNERS[site].hu[tissue] for site in ORGANS}


def test_own_lesions_in_70_to_80_percent_except_at_the_spleen_site() -> None:
    chances = {site: SCANNERS[site].lesion_chance[site] for site in ORGANS}
    assert {site for site, chance in chances.items() if 0.7 <= chance <= 0.8} == {"liver", "kidneys", "pancreas"}
    assert chances["spleen"] < 0.2


@pytest.mark.parametrize("site", SCANNERS)
def test_bowel_wall_has_nearly_the_hu_of_the_pancreas(site: str) -> None:
    hu = SCANNERS[site].hu
    assert abs(hu["bowel wall"] - hu["pancreas"]) <= 10
