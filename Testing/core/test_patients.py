from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from segviz_core.experiments.painting import Grid, paint
from segviz_core.experiments.patients import draw_patient
from segviz_core.experiments.scanners import SCANNERS
from segviz_core.labels import ORGANS

GRID = Grid((64, 48, 48), (5.0, 5.0, 5.0))


@cache
def painted(seed: int, lesions: float = 0.0, missing: str = "") -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    patient = draw_patient(
        np.random.default_rng(seed), lesion_chance=dict.fromkeys(ORGANS, lesions), missing=[missing] if missing else []
    )
    return paint(patient, GRID, SCANNERS["test"].hu_of)


@pytest.mark.parametrize("organ", ["spleen", "pancreas", "kidneys"])
def test_a_patient_who_lost_an_organ_is_otherwise_the_same(organ: str) -> None:
    (hu, labels), (hu_without, labels_without) = painted(1), painted(1, missing=organ)
    assert ORGANS[organ].value not in labels_without
    elsewhere = labels != ORGANS[organ].value
    changed = (hu != hu_without) & elsewhere
    # Renal pelvis and splenic vein go with their organ.
    assert changed.sum() * GRID.voxel_ml < {"spleen": 1, "pancreas": 40, "kidneys": 80}[organ]
    np.testing.assert_array_equal(labels[elsewhere], labels_without[elsewhere])


def test_lesions_change_the_hu_inside_an_organ_but_never_its_label() -> None:
    (hu, labels), (hu_with, labels_with) = painted(2), painted(2, lesions=1.0)
    np.testing.assert_array_equal(labels, labels_with)
    for organ in ORGANS.values():
        changed = (hu != hu_with) & (labels == organ.value)
        assert changed.any(), organ.name
    assert not (hu != hu_with)[labels == 0].any()


def test_liver_is_on_the_right_and_spleen_on_the_left_of_the_patient() -> None:
    for seed in range(4):
        _, labels = painted(seed)
        x = {organ.name: GRID.axes[0][np.nonzero(labels == organ.value)[0]] for organ in ORGANS.values()}
        assert x["liver"].mean() > 20
        assert x["spleen"].mean() < -40
        assert {-1, 1} == set(np.sign(x["kidneys"]))


def test_unlabelled_tissue_has_the_hu_of_every_organ() -> None:
    """Bowel, stomach, vessels and muscle: HU alone must not give an organ away."""
    for seed in range(4):
        hu, labels = painted(seed)
        for tissue in ("liver", "spleen", "pancreas", "medulla"):
            like_organ = (np.abs(hu - SCANNERS["test"].hu_of(tissue)) < 20) & (labels == 0)
            assert like_organ.sum() * GRID.voxel_ml > 40, tissue
        assert ((hu > 20) & (hu < 70) & (labels == 0)).sum() * GRID.voxel_ml > 500  # muscle, psoas, fluid


def test_bowel_holds_gas_fluid_and_oral_contrast() -> None:
    tissues = {
        structure.tissue
        for seed in range(3)
        for structure in draw_patient(np.random.default_rng(seed), lesion_chance=dict.fromkeys(ORGANS, 0.0)).structures
    }
    assert {"gas", "water", "oral contrast", "bowel wall", "bile", "aorta", "vein", "muscle", "bone"} <= tissues


def test_pancreas_is_a_thin_curved_tube() -> None:
    for seed in range(4):
        _, labels = painted(seed)
        mask = np.pad(labels == ORGANS["pancreas"].value, 1)
        thickness = distance_transform_edt(mask, sampling=GRID.spacing_mm).max()
        extent = np.ptp(np.argwhere(mask), axis=0) * 5
        assert thickness <= 20
        assert extent[0] > 60


def test_patients_differ_in_size_place_and_shape() -> None:
    centers = np.array([np.argwhere(painted(seed)[1] == 1).mean(axis=0) * 5 for seed in range(6)])
    volumes = [np.count_nonzero(painted(seed)[1] == 1) for seed in range(6)]
    assert (centers.std(axis=0) > 3).all()
    assert np.std(volumes) / np.mean(volumes) > 0.05
