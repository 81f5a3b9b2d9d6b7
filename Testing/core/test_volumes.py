"""Reading and writing volumes: what is kept exactly, and what is refused with which words."""

import contextlib
import gzip
import logging
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segviz_core.errors import InputError
from segviz_core.volumes import Volume, read_ct, read_labels, same_grid, write_labels

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
STRAIGHT = np.diag([0.8, 1.1, 3.0, 1.0])


def oblique(degrees=(20.0, -15.0, 30.0), spacing=(0.8, 1.1, 3.0), origin=(-120.5, 33.25, 411.0)) -> np.ndarray:
    """An affine of turned axes at right angles."""
    affine = np.eye(4)
    for axis, angle in enumerate(np.radians(degrees)):
        turn = np.eye(3)
        i, j = [n for n in range(3) if n != axis]
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        affine[:3, :3] = affine[:3, :3] @ turn
    affine[:3, :3] *= spacing
    affine[:3, 3] = origin
    return affine


def hounsfield(shape=(12, 14, 10), dtype=np.int16, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1024, 1500, shape).astype(dtype)


def write(path: Path, voxels: np.ndarray, affine: np.ndarray = STRAIGHT) -> Path:
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    degrees=st.tuples(*[st.floats(-40, 40)] * 3),
    spacing=st.tuples(*[st.floats(0.5, 7)] * 3),
    flips=st.tuples(*[st.booleans()] * 3),
    axes=st.permutations([0, 1, 2]),
)
def test_geometry_is_that_of_nibabel_in_any_orientation(tmp_path, degrees, spacing, flips, axes):
    affine = oblique(degrees, spacing)
    affine[:3, :3] = affine[:3, axes] * np.where(flips, -1, 1)
    path = write(tmp_path / "ct.nii.gz", hounsfield(), affine)
    volume = read_ct(path)
    np.testing.assert_allclose(volume.affine, nib.load(path).affine, atol=1e-4)
    np.testing.assert_allclose(volume.spacing_mm, np.array(spacing)[axes], rtol=1e-5)
    assert np.array_equal(volume.voxels, np.asarray(nib.load(path).dataobj))
    assert volume.voxels.dtype == np.int16


@pytest.mark.parametrize("name", ["out.nii.gz", "out.nii", "out.nrrd", "out.mha", "OUT.NII.GZ"])
def test_labels_come_back_on_the_ct_grid_in_every_format(tmp_path, name):
    ct = Volume(hounsfield(), oblique())
    labels = np.random.default_rng(1).integers(0, 5, ct.voxels.shape).astype(np.uint8)
    write_labels(tmp_path / name, labels, ct)
    back = read_labels(tmp_path / name)
    assert np.array_equal(back.voxels, labels)
    assert back.voxels.dtype == np.uint8
    np.testing.assert_allclose(back.affine, ct.affine, atol=1e-4)
    assert same_grid(back, ct)
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_itk_and_nibabel_find_written_nifti_at_the_same_place(tmp_path):
    ct = Volume(np.zeros((300, 2, 200), np.int16), oblique(origin=(-1200.7, 1833.2, 2411.9)))
    write_labels(tmp_path / "out.nii.gz", np.zeros(ct.voxels.shape, np.uint8), ct)
    image, corner = sitk.ReadImage(str(tmp_path / "out.nii.gz")), (299, 1, 199)
    lps = image.TransformIndexToPhysicalPoint(corner)
    expected = ct.affine @ (*corner, 1)
    np.testing.assert_allclose([-lps[0], -lps[1], lps[2]], expected[:3], atol=2e-4)
    np.testing.assert_allclose(nib.load(tmp_path / "out.nii.gz").affine @ (*corner, 1), expected, atol=2e-4)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nhdr", ".mhd"])
def test_other_formats_hold_the_same_ct_as_nifti(tmp_path, suffix):
    nifti = write(tmp_path / "ct.nii.gz", hounsfield(), oblique())
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(tmp_path / f"ct{suffix}"))
    a, b = read_ct(nifti), read_ct(tmp_path / f"ct{suffix}")
    assert np.array_equal(a.voxels, b.voxels)
    np.testing.assert_allclose(a.affine, b.affine, atol=1e-4)


def test_scaled_8_bit_ct_is_read_in_hu(tmp_path, caplog):
    image = nib.Nifti1Image(np.arange(256, dtype=np.uint8).reshape(8, 8, 4), STRAIGHT)
    image.header.set_slope_inter(400 / 255, -125)
    nib.save(image, tmp_path / "ct.nii.gz")
    with caplog.at_level(logging.WARNING):
        volume = read_ct(tmp_path / "ct.nii.gz")
    assert volume.voxels.dtype == np.float32
    assert (volume.voxels.min(), volume.voxels.max()) == (-125, 275)
    assert "nothing below -200 HU" in caplog.text


@pytest.mark.parametrize("dtype, kept", [(np.int32, np.int16), (np.float64, np.float32), (np.int16, np.int16)])
def test_voxels_are_int16_where_values_allow_it_else_float32(tmp_path, dtype, kept):
    volume = read_ct(write(tmp_path / "ct.nii.gz", hounsfield(dtype=dtype)))
    assert volume.voxels.dtype == kept
    assert np.array_equal(volume.voxels, hounsfield())


def test_one_time_point_in_a_4d_file_is_a_volume(tmp_path):
    volume = read_ct(write(tmp_path / "ct.nii.gz", hounsfield()[..., None]))
    assert np.array_equal(volume.voxels, hounsfield())


def test_gzip_in_several_members_is_complete(tmp_path):
    content = write(tmp_path / "ct.nii", hounsfield()).read_bytes()
    (tmp_path / "ct.nii.gz").write_bytes(gzip.compress(content[:900]) + gzip.compress(content[900:]))
    assert np.array_equal(read_ct(tmp_path / "ct.nii.gz").voxels, hounsfield())


@pytest.mark.parametrize("missing", [(), ("isal", "isal.igzip", "isal.igzip_lib")], ids=["isal", "zlib alone"])
def test_zipped_labels_come_back_with_and_without_isal(missing, tmp_path, monkeypatch):
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    ct = read_ct(write(tmp_path / "ct.nii.gz", hounsfield()))
    labels = (ct.voxels > 0).astype(np.uint8)
    write_labels(tmp_path / "labels.nii.gz", labels, like=ct)
    assert np.array_equal(read_labels(tmp_path / "labels.nii.gz").voxels, labels)
    assert np.array_equal(np.asarray(nib.load(tmp_path / "labels.nii.gz").dataobj), labels)


def test_nifti_without_orientation_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(hounsfield(), None), tmp_path / "ct.nii.gz")
    with pytest.raises(InputError, match="expected a stored orientation, found neither qform nor sform"):
        read_ct(tmp_path / "ct.nii.gz")


def with_one(value: float) -> np.ndarray:
    voxels = hounsfield(dtype=np.float32)
    voxels[3, 4, 5] = value
    return voxels


def sheared() -> np.ndarray:
    affine = oblique()
    affine[:3, 1] += 0.1 * affine[:3, 0]
    return affine


BAD_CT = {
    "NaN": (with_one(np.nan), STRAIGHT, "expected finite HU, found 1 voxels"),
    "infinite": (with_one(-np.inf), STRAIGHT, "expected finite HU, found 1 voxels"),
    "constant": (np.full((8, 8, 8), 40, np.int16), STRAIGHT, "expected a CT, found 40 in every voxel"),
    "too high": (hounsfield(dtype=np.float32) * 10, STRAIGHT, r"expected HU from -2000 to 4000, found -\d+ to 14\d+"),
    "one slice": (hounsfield((12, 14, 1)), STRAIGHT, "expected a volume, found one slice"),
    "2D": (hounsfield((12, 14)), STRAIGHT, "expected a volume, found one slice"),
    "4D": (hounsfield((12, 14, 10, 3)), STRAIGHT, "expected one 3D image, found size 12x14x10x3"),
    "RGB": (
        np.zeros((9, 9, 9), [("R", "u1"), ("G", "u1"), ("B", "u1")]),
        STRAIGHT,
        "found size 9x9x9 with 3 component",
    ),
    "sheared": (hounsfield(), sheared(), "expected axes at right angles, found a sheared or tilted grid"),
}


@pytest.mark.parametrize("case", BAD_CT)
def test_bad_ct_is_refused_with_the_reason(tmp_path, case):
    voxels, affine, words = BAD_CT[case]
    with pytest.raises(InputError, match=words) as caught:
        read_ct(write(tmp_path / "ct.nii.gz", voxels, affine))
    assert caught.value.hint
    assert "ct.nii.gz" in caught.value.message


def test_sheared_nrrd_is_refused(tmp_path):
    header = "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 12 14 10\nencoding: raw\n"
    header += "space directions: (1,0,0) (0.2,1,0) (0,0,2)\nspace origin: (0,0,0)\nendian: little\n\n"
    (tmp_path / "ct.nrrd").write_bytes(header.encode() + hounsfield().tobytes())
    with pytest.raises(InputError, match="expected axes at right angles"):
        read_ct(tmp_path / "ct.nrrd")


def test_nifti_with_two_geometries_is_refused(tmp_path):
    image = nib.Nifti1Image(hounsfield(), STRAIGHT)
    image.set_qform(STRAIGHT, 1)
    image.set_sform(sheared(), 1)
    nib.save(image, tmp_path / "ct.nii.gz")
    with pytest.raises(InputError, match=r"expected one geometry, found qform and sform [\d.]+ mm apart"):
        read_ct(tmp_path / "ct.nii.gz")


@pytest.mark.parametrize("lost", [5, 2000])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_truncated_file_is_refused(tmp_path, suffix, lost):
    path = tmp_path / f"ct{suffix}"
    write_labels(path, (hounsfield() % 200).astype(np.uint8), Volume(hounsfield(), STRAIGHT))
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(InputError, match=r"cannot be read to its end") as caught:
        read_ct(path)
    assert "damaged, incomplete" in caught.value.hint


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from([".nii.gz", ".nii"]),
    where=st.floats(0, 1),
    value=st.binary(min_size=4, max_size=4),
)
def test_four_wrong_bytes_anywhere_give_a_volume_or_an_input_error(tmp_path, suffix, where, value):
    path = tmp_path / f"ct{suffix}"
    write_labels(path, (hounsfield() % 200).astype(np.uint8), Volume(hounsfield(), oblique()))
    content = bytearray(path.read_bytes())
    start = int(where**3 * (len(content) - 4))  # more often in the header
    content[start : start + 4] = value
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        assert read_labels(path).voxels.ndim == 3


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.nii\.gz: expected a file or a DICOM folder, found nothing there"):
        read_ct(tmp_path / "nowhere.nii.gz")


@pytest.mark.parametrize(
    "name, words",
    [
        ("notes.txt", "expected NIfTI, NRRD, MHA or a DICOM folder, found another kind of file"),
        ("ct.nii.gz", "expected an image, but it cannot be read"),
        ("ct.nii", "expected an image, but it cannot be read"),
        ("ct.nrrd", "expected an image, but it cannot be read"),
        ("ct.mha", "expected an image, but it cannot be read"),
    ],
)
def test_file_that_is_no_image_is_refused(tmp_path, name, words):
    (tmp_path / name).write_bytes(b"Dear colleague, " * 30)
    with pytest.raises(InputError, match=words):
        read_ct(tmp_path / name)


def test_label_fractions_are_refused_and_whole_floats_are_not(tmp_path):
    labels = np.zeros((6, 6, 6), np.float32)
    labels[2:4] = 2
    read = read_labels(write(tmp_path / "label.nii.gz", labels))
    assert read.voxels.dtype == np.uint8
    assert np.array_equal(read.voxels, labels)
    for value in (0.5, np.nan, np.inf):
        labels[3, 3, 3] = value
        with pytest.raises(InputError, match="expected whole numbers as label values, found others"):
            read_labels(write(tmp_path / "label.nii.gz", labels))


def test_large_label_values_survive(tmp_path):
    labels = np.zeros((6, 6, 6), np.int16)
    labels[2:4] = 1000
    assert np.array_equal(read_labels(write(tmp_path / "label.nii.gz", labels)).voxels, labels)


def test_grids_are_the_same_up_to_a_tenth_of_a_voxel():
    ct = Volume(hounsfield(), oblique())
    shifted = ct.affine.copy()
    shifted[0, 3] += 0.07
    assert same_grid(ct, Volume(ct.voxels, shifted))
    shifted[0, 3] += 0.02
    assert not same_grid(ct, Volume(ct.voxels, shifted))
    assert not same_grid(ct, Volume(ct.voxels[:-1], ct.affine))
    turned = oblique((20.0, -15.0, 32.0))
    assert not same_grid(ct, Volume(ct.voxels, turned))


def test_labels_of_another_shape_or_type_are_a_programming_error(tmp_path):
    ct = Volume(hounsfield(), STRAIGHT)
    with pytest.raises(ValueError, match="expected uint8"):
        write_labels(tmp_path / "out.nii.gz", ct.voxels, ct)
    with pytest.raises(ValueError, match="expected uint8"):
        write_labels(tmp_path / "out.nii.gz", np.zeros((2, 2, 2), np.uint8), ct)


def test_output_of_another_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected one of \.nii, \.nii\.gz, \.nrrd, \.mha"):
        write_labels(tmp_path / "out.png", np.zeros((4, 4, 4), np.uint8), Volume(np.zeros((4, 4, 4)), STRAIGHT))


def test_output_in_a_missing_folder_says_so(tmp_path):
    with pytest.raises(InputError, match=r"Cannot write .*: the folder does not exist"):
        write_labels(tmp_path / "a" / "out.nrrd", np.zeros((4, 4, 4), np.uint8), Volume(np.zeros((4, 4, 4)), STRAIGHT))


# A file larger than the allowed size fails as one on a full disk does: the image library cannot write its end.
WRITE_WITH_LITTLE_ROOM = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from segviz_core.errors import InputError
from segviz_core.volumes import Volume, write_labels
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
labels = np.random.default_rng(0).integers(0, 250, (40, 40, 40)).astype(np.uint8)
try:
    write_labels(Path(sys.argv[1]), labels, Volume(labels, np.eye(4)))
except InputError as error:
    sys.exit(error.message)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
@pytest.mark.usefixtures("unmeasured_children")
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_full_disk_leaves_the_old_labels(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    path.write_text("the old file")
    command = [sys.executable, "-c", WRITE_WITH_LITTLE_ROOM, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert run.returncode == 1
    assert "Cannot write" in run.stderr
    assert "disk may be full" in run.stderr or "File too large" in run.stderr
    assert "Traceback" not in run.stderr
    assert path.read_text(encoding="utf-8") == "the old file"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["hcc_tace_009_ct.nii.gz", "totalsegmentator_example_ct.nii.gz"])
def test_real_ct_keeps_voxels_and_geometry(tmp_path, name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} is not on this machine")
    image, volume = nib.load(path), read_ct(path)
    np.testing.assert_allclose(volume.affine, image.affine, atol=1e-4)
    assert volume.voxels.dtype == np.int16
    assert np.array_equal(volume.voxels, np.asarray(image.dataobj))
    labels = (volume.voxels > 150).astype(np.uint8)
    write_labels(tmp_path / "out.nii.gz", labels, volume)
    written = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(written.affine, image.affine, atol=1e-4)
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(written.dataobj), labels)
