from dataclasses import replace

import numpy as np
import pytest

from segviz_core.experiments.painting import Grid, paint
from segviz_core.experiments.patients import Patient, draw_patient
from segviz_core.experiments.shapes import Ellipsoid
from segviz_core.experiments.structures import EVERYWHERE, Structure
from segviz_core.labels import ORGANS

GRID = Grid((40, 40, 40), (4.0, 4.0, 4.0))
HU = {"fat": -100.0, "liver": 100.0, "bile": 10.0}.__getitem__
BALL = Ellipsoid((0, 0, 0), (40, 40, 40))


def straight(*structures: Structure) -> Patient:
    """A patient of these structures, not deformed and of standard size."""
    drawn = draw_patient(np.random.default_rng(0), lesion_chance=dict.fromkeys(ORGANS, 0.0))
    return replace(drawn, structures=structures, scale=(1.0, 1.0, 1.0), shift_z_mm=0.0, deformation_mm=0.0)


def test_a_smooth_ball_has_the_volume_of_a_ball() -> None:
    patient = straight(Structure("liver", (BALL,), organ="liver", roughness=0))
    hu, labels = paint(patient, GRID, HU)
    assert np.count_nonzero(labels == 1) * GRID.voxel_ml == pytest.approx(4 / 3 * np.pi * 4**3, rel=0.02)
    assert set(np.unique(hu)) == {0, 100}


def test_a_rough_surface_is_never_cut_by_its_box() -> None:
    patient = straight(Structure("liver", (BALL,), organ="liver", roughness=0.3))
    _, boxed = paint(patient, GRID, HU)
    x, y, z = np.meshgrid(*(axis.astype(np.float32) for axis in GRID.axes), indexing="ij")
    level = BALL.level(x, y, z) + 0.3 * patient.textures[0].sample(GRID.axes)
    np.testing.assert_array_equal(boxed == 1, level < 1)


def test_a_later_structure_covers_an_earlier_one_and_its_label() -> None:
    bile = Structure("bile", (BALL.scaled(0.5),), roughness=0)
    hu, labels = paint(straight(Structure("liver", (BALL,), organ="liver"), bile), GRID, HU)
    assert hu[20, 20, 20] == 10
    assert labels[20, 20, 20] == 0


def test_what_is_cut_out_and_what_it_may_cover_are_respected() -> None:
    liver = Structure("liver", (EVERYWHERE,), (BALL,), organ="liver", roughness=0)
    only_over_nothing = Structure("bile", (EVERYWHERE,), organ="pancreas", only_over="")
    lesion = Structure("liver", (EVERYWHERE,), offset_hu=-50, organ="liver", only_over="liver")
    hu, labels = paint(straight(liver, only_over_nothing, lesion), GRID, HU)
    inside = labels == ORGANS["pancreas"].value
    assert set(np.unique(hu[inside])) == {10}
    assert set(np.unique(hu[~inside])) == {50}
    assert inside.sum() * GRID.voxel_ml == pytest.approx(4 / 3 * np.pi * 4**3, rel=0.02)


@pytest.mark.parametrize("scale", [0.9, 1.1])
def test_scale_and_shift_move_organs_as_documented(scale: float) -> None:
    patient = replace(
        straight(Structure("liver", (BALL,), organ="liver", roughness=0)), scale=(scale,) * 3, shift_z_mm=10.0
    )
    _, labels = paint(patient, GRID, HU)
    center = np.argwhere(labels == 1).mean(axis=0) * 4 - 78
    np.testing.assert_allclose(center, (0, 0, 10 * scale), atol=0.5)
    assert np.count_nonzero(labels) * GRID.voxel_ml == pytest.approx(4 / 3 * np.pi * (4 * scale) ** 3, rel=0.03)
