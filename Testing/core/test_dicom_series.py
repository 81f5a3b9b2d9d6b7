"""DICOM folders: one straight, complete CT series is read; everything else is refused with the reason."""

import random
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import SimpleITK as sitk

from segviz_core.errors import InputError
from segviz_core.volumes import read_ct

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
AXIAL = np.eye(3)
OBLIQUE = np.array([[0.96, -0.28, 0.0], [0.224, 0.768, -0.6], [0.168, 0.576, 0.8]])


def write_series(
    folder: Path,
    voxels: np.ndarray,
    *,
    directions=AXIAL,
    step=(0.0, 0.0, 2.5),
    spacing=(0.75, 0.9),
    series=1,
    modality="CT",
    skip=(),
    tags=MappingProxyType({}),
) -> np.ndarray:
    """Write `voxels` (I, J, K) slice by slice under shuffled names; `step` is in the series' own axes (mm).

    Returns the RAS affine that a reader should find.
    """
    folder.mkdir(exist_ok=True)
    origin = np.array([-150.0, -130.5, 77.25])
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    names = random.Random(series).sample(range(1000), voxels.shape[2])
    for k in range(voxels.shape[2]):
        if k in skip:
            continue
        image = sitk.GetImageFromArray(voxels[:, :, k].T[None])
        image.SetSpacing((*spacing, 1.0))
        position = origin + k * directions @ step
        slice_tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"1.2.826.0.1.{series}.{k + 1}",
            "0008|0060": modality,
            "0008|103e": f"Phase {series}",
            "0020|000d": "1.2.826.0.1",
            "0020|000e": f"1.2.826.0.1.{series}",
            "0020|0013": str(k),
            "0020|0032": "\\".join(f"{value:.6f}" for value in position),
            "0020|0037": "\\".join(f"{value:.8f}" for value in directions[:, :2].T.ravel()),
            "0028|1052": "-1024",
            "0028|1053": "1",
        }
        for key, value in (slice_tags | dict(tags)).items():
            image.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{series}_{names[k]:03d}.dcm"))
        writer.Execute(image)
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([directions[:, 0] * spacing[0], directions[:, 1] * spacing[1], directions @ step])
    affine[:3, 3] = origin
    return LPS_TO_RAS @ affine


@pytest.fixture
def voxels():
    return np.random.default_rng(0).integers(-1000, 1500, (16, 12, 9)).astype(np.int16)


@pytest.mark.parametrize("directions", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
def test_shuffled_series_becomes_the_volume_it_was(tmp_path, voxels, directions):
    affine = write_series(tmp_path / "ct", voxels, directions=directions)
    volume = read_ct(tmp_path / "ct")
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    assert np.array_equal(volume.voxels, voxels)
    assert volume.voxels.dtype == np.int16


def test_two_series_are_refused_by_their_names(tmp_path, voxels):
    write_series(tmp_path / "ct", voxels, series=1)
    write_series(tmp_path / "ct", voxels[:, :, :4], series=2)
    with pytest.raises(
        InputError, match=r"expected one DICOM series, found 2: Phase 1 \(9 files\), Phase 2 \(4 files\)"
    ):
        read_ct(tmp_path / "ct")


def test_missing_slice_is_refused_and_located(tmp_path, voxels):
    write_series(tmp_path / "ct", voxels, skip={5})
    with pytest.raises(InputError, match=r"found 2\.50 mm but 5\.00 mm between slices 5 and 6"):
        read_ct(tmp_path / "ct")


def test_doubled_slices_are_refused(tmp_path, voxels):
    write_series(tmp_path / "ct", voxels, step=(0.0, 0.0, 0.0))
    with pytest.raises(InputError, match="expected slices at equal distances"):
        read_ct(tmp_path / "ct")


def test_gantry_tilt_is_refused_with_its_angle(tmp_path, voxels):
    tilt = np.radians(12)
    write_series(tmp_path / "ct", voxels, step=(0.0, 2.5 * np.sin(tilt), 2.5 * np.cos(tilt)))
    with pytest.raises(InputError, match=r"found a gantry tilt of 12\.0 degrees"):
        read_ct(tmp_path / "ct")


def test_other_modality_is_refused(tmp_path, voxels):
    write_series(tmp_path / "mr", voxels, modality="MR")
    with pytest.raises(InputError, match="expected a CT series, found modality MR"):
        read_ct(tmp_path / "mr")


def test_single_slice_is_refused(tmp_path, voxels):
    write_series(tmp_path / "ct", voxels[:, :, :1])
    with pytest.raises(InputError, match="expected a series of slices, found one"):
        read_ct(tmp_path / "ct")


def test_slices_of_several_orientations_are_refused(tmp_path, voxels):
    write_series(tmp_path / "ct", voxels[:, :, :1], skip=())
    write_series(tmp_path / "more", voxels[:, :, :3], directions=OBLIQUE)
    for file in sorted((tmp_path / "more").iterdir())[1:]:
        file.rename(tmp_path / "ct" / f"more_{file.name}")
    with pytest.raises(InputError, match="expected parallel slices"):
        read_ct(tmp_path / "ct")


def test_folder_without_dicom_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(InputError, match="expected the DICOM files of one CT series, found none"):
        read_ct(tmp_path)
