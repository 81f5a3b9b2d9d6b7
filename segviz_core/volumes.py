"""CT volumes and label maps, from and to files, on the file's own grid."""

import errno
import gzip
import logging
import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from segviz_core.atomic import check_writable, replacing
from segviz_core.dicom_series import find_series
from segviz_core.errors import InputError

sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK's C++ warnings go to stderr: ours are sentences

Affine = NDArray[np.float64]

_log = logging.getLogger(__name__)

READABLE = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
WRITABLE = (".nii", ".nii.gz", ".nrrd", ".mha")
HU_RANGE = (-2000.0, 4000.0)
_RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_RIGHT_ANGLE_TOLERANCE = 1e-3  # cosine, 0.06 degrees: float32 and rounded DICOM directions pass, shear does not


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels `(I, J, K)` and the 4x4 float64 affine from voxel indices to RAS millimetres."""

    voxels: NDArray[Any]
    affine: Affine

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxel centres along each voxel axis."""
        i, j, k = (float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))
        return i, j, k


def read_ct(path: Path) -> Volume:
    """The CT in a NIfTI, NRRD or MHA file or a DICOM folder, in HU: int16 where the values allow it, else float32.

    A CT without any voxel below -200 HU (clipped, or not a CT) is accepted with a warning in the log.

    Raises:
        InputError: missing, unreadable, truncated, not one 3D image, sheared, not finite, constant, or not in HU.
    """
    volume = _read(path)
    voxels = volume.voxels
    low, high = voxels.min(), voxels.max()  # NaN wins in both
    if not (np.isfinite(low) and np.isfinite(high)):
        count = voxels.size - np.count_nonzero(np.isfinite(voxels))
        raise InputError(f"{path}: expected finite HU, found {count} voxels that are not.", hint="Export the CT again.")
    if low == high:
        raise InputError(f"{path}: expected a CT, found {low:g} in every voxel.", hint="Choose another file.")
    step = max(1, round((voxels.size / 1e6) ** (1 / 3)))
    typical = np.percentile(voxels[::step, ::step, ::step], (1, 99))
    if typical[0] < HU_RANGE[0] or typical[1] > HU_RANGE[1]:
        raise InputError(
            f"{path}: expected HU from {HU_RANGE[0]:g} to {HU_RANGE[1]:g}, found {typical[0]:.0f} to {typical[1]:.0f}"
            " (1 to 99 % of the voxels).",
            hint="Store the CT in HU; set padding outside the scan to -1024.",
        )
    if low >= -200:
        _log.warning("%s: nothing below -200 HU: a clipped CT, or not a CT.", path)
    small = voxels.dtype.kind in "iu" and low >= -(2**15) and high < 2**15
    return Volume(voxels.astype(np.int16 if small else np.float32, copy=False), volume.affine)


def read_labels(path: Path) -> Volume:
    """The label map in a file: uint8 where the values allow it, else int32.

    Raises:
        InputError: as `read_ct`, but for the intensities; values that are not whole numbers.
    """
    volume = _read(path)
    voxels = volume.voxels
    low, high = voxels.min(), voxels.max()
    whole = voxels.dtype.kind != "f" or np.array_equal(voxels, np.rint(voxels))
    if not (whole and low >= -(2**31) and high < 2**31):
        raise InputError(
            f"{path}: expected whole numbers as label values, found others.",
            hint="Export the label map without interpolation, not a probability map.",
        )
    return Volume(voxels.astype(np.uint8 if low >= 0 and high <= 255 else np.int32, copy=False), volume.affine)


def write_labels(path: Path, labels: NDArray[np.uint8], like: Volume) -> None:
    """Write `labels` (uint8, shape of `like`) in one step on the grid of `like`, exact to 1e-4 mm.

    Raises:
        InputError: the suffix is none of `WRITABLE`, or the file cannot be written; an old file stays as it was.
    """
    if labels.dtype != np.uint8 or labels.shape != like.voxels.shape:
        raise ValueError(f"expected uint8 {like.voxels.shape}, found {labels.dtype} {labels.shape}")
    check_output(path)
    with replacing(path) as temporary:
        if _is_nifti(path):
            _write_nifti(temporary, labels, like)
        else:
            _write_itk(temporary, labels, like)


def check_output(path: Path) -> None:
    """Refuse a label file that `write_labels` could not write, before the work that fills it.

    Raises:
        InputError: the suffix is none of `WRITABLE`; the folder is missing or not writable.
    """
    if not path.name.lower().endswith(WRITABLE):
        raise InputError(f"{path}: expected one of {', '.join(WRITABLE)}.", hint="Choose another file name.")
    check_writable(path)


def same_grid(a: Volume, b: Volume) -> bool:
    """Whether both have one shape and no voxel centre lies further apart than a tenth of the smallest spacing."""
    if a.voxels.shape != b.voxels.shape:
        return False
    return _largest_distance(a.affine, b.affine, a.voxels.shape) <= 0.1 * min(a.spacing_mm)


def _read(path: Path) -> Volume:
    if not path.exists():
        raise InputError(f"{path}: expected a file or a DICOM folder, found nothing there.", hint="Check the path.")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: there is no permission to read it.", hint="Ask the owner of the file.")
    if not path.is_dir() and not path.name.lower().endswith(READABLE):
        raise InputError(
            f"{path}: expected NIfTI, NRRD, MHA or a DICOM folder, found another kind of file.",
            hint="For DICOM choose the folder that holds the slices.",
        )
    volume = _read_nifti(path) if _is_nifti(path) else _read_itk(path)
    axes = volume.affine[:3, :3] / volume.spacing_mm
    if not np.allclose(axes.T @ axes, np.eye(3), atol=_RIGHT_ANGLE_TOLERANCE):
        raise InputError(
            f"{path}: expected axes at right angles, found a sheared or tilted grid.",
            hint="Resample the image to a straight grid first.",
        )
    return volume


def _is_nifti(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def _read_nifti(path: Path) -> Volume:
    """By nibabel: ITK fills a truncated file with anything and takes NaN for 0, both without a word."""
    import nibabel as nib  # here: Slicer's Python has none and hands over NRRD
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        # All of it at once, so that gzip comes to its end and finds damage by the checksum there.
        content = _unzipped(path.read_bytes()) if path.name.lower().endswith(".gz") else path.read_bytes()
        image = nib.Nifti1Image.from_bytes(content)
        qform, sform = image.get_qform(coded=True)[0], image.get_sform(coded=True)[0]
        shape, dtype = image.shape, image.get_data_dtype()
    except (HeaderDataError, WrapStructError, OSError, EOFError, ValueError, zlib.error) as error:
        raise _unreadable(path) from error
    _check_shape(path, shape, components=len(dtype.fields or "1"))
    if math.prod(shape) * dtype.itemsize > len(content):
        raise _unreadable(path)
    _check_forms(path, qform, sform, shape[:3])
    try:
        data = image.dataobj
        if (data.slope, data.inter) == (1, 0):  # as they lie in the file: no copy
            voxels = np.frombuffer(content, dtype, math.prod(shape), data.offset)
        else:
            voxels = np.asanyarray(data)
        voxels = voxels.reshape(shape[:3], order="F")
    except (OSError, ValueError, OverflowError) as error:  # the data's offset points behind the end
        raise _unreadable(path) from error
    return Volume(voxels, np.asarray(image.affine, np.float64))


def _unzipped(content: bytes) -> bytes:
    """isal takes a third of the time of Python's own zlib (.2 s for 512x512x128); Slicer's Python has none."""
    try:
        from isal.igzip import decompress
        from isal.igzip_lib import IsalError
    except ImportError:
        return gzip.decompress(content)
    try:
        return bytes(decompress(content))
    except IsalError as error:  # type: ignore[misc]  # its stubs leave out what it derives from
        raise zlib.error(str(error)) from error


def _check_forms(path: Path, qform: Affine | None, sform: Affine | None, shape: Sequence[int]) -> None:
    """A NIfTI header has room for two geometries: ITK reads the first, nibabel the second. None or a pair of
    different ones makes programs disagree about where the patient's left or back is."""
    if qform is None and sform is None:
        raise InputError(
            f"{path}: expected a stored orientation, found neither qform nor sform.",
            hint="Convert the image again from its DICOM files.",
        )
    if qform is None or sform is None:
        return
    distance = _largest_distance(qform, sform, shape)
    if distance > 0.1 * min(np.linalg.norm(sform[:3, :3], axis=0)):
        raise InputError(
            f"{path}: expected one geometry, found qform and sform {distance:.1f} mm apart.",
            hint="Save the image again with the geometry that is right.",
        )


def _write_nifti(path: Path, labels: NDArray[np.uint8], like: Volume) -> None:
    import nibabel as nib

    image = nib.Nifti1Image(labels, like.affine)
    image.set_sform(like.affine, "scanner")
    image.set_qform(like.affine, "scanner")  # both, so that every program finds the same geometry
    if path.name.lower().endswith(".gz"):
        path.write_bytes(_zipped(image.to_bytes()))
    else:
        nib.save(image, path)


def _zipped(content: bytes) -> bytes:
    """At level 1: a label map shrinks well at any."""
    try:
        from isal.igzip import compress
    except ImportError:
        return gzip.compress(content, 1)
    return bytes(compress(content, 1))


def _read_itk(path: Path) -> Volume:
    try:
        if path.is_dir():
            reader = sitk.ImageSeriesReader()
            reader.SetFileNames(find_series(path))
        else:
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
            _check_shape(path, reader.GetSize(), components=reader.GetNumberOfComponents())
        image = reader.Execute()
    except RuntimeError as error:
        raise _unreadable(path) from error
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (image.GetDimension(),) * 2)[:3, :3] * image.GetSpacing()[:3]
    affine[:3, 3] = image.GetOrigin()[:3]
    voxels = np.asarray(_Buffer(image)).reshape(image.GetSize()[2::-1]).transpose(2, 1, 0)
    return Volume(voxels, _RAS_FROM_LPS @ affine)


class _Buffer:
    """What numpy needs to use an image's voxels where they lie; arrays made of it keep the image alive."""

    def __init__(self, image: sitk.Image) -> None:
        self._image = image
        self.__array_interface__ = sitk.GetArrayViewFromImage(image).__array_interface__


def _write_itk(path: Path, labels: NDArray[np.uint8], like: Volume) -> None:
    affine = _RAS_FROM_LPS @ like.affine
    image = sitk.GetImageFromArray(labels.transpose(2, 1, 0))
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetSpacing(like.spacing_mm)
    image.SetDirection((affine[:3, :3] / like.spacing_mm).ravel().tolist())
    path.touch()  # a missing folder or permission shows here, with its reason
    try:
        sitk.WriteImage(image, str(path), useCompression=True, compressionLevel=1)
    except RuntimeError as error:
        raise OSError(errno.EIO, "the image library stopped, the disk may be full") from error


def _check_shape(path: Path, shape: Sequence[int], *, components: int) -> None:
    found = "x".join(str(n) for n in shape)
    if math.prod(shape[3:]) != 1 or components != 1:
        raise InputError(
            f"{path}: expected one 3D image, found size {found} with {components} component(s) per voxel.",
            hint="Export a single time point and a single channel.",
        )
    if len(shape) < 3 or min(shape[:3]) < 2:
        raise InputError(f"{path}: expected a volume, found one slice (size {found}).", hint="Export the whole series.")


def _largest_distance(a: Affine, b: Affine, shape: Sequence[int]) -> float:
    """Millimetres between the same voxel under two affines, at the corner where they differ most."""
    corners = np.array([(i, j, k, 1) for i in (0, shape[0] - 1) for j in (0, shape[1] - 1) for k in (0, shape[2] - 1)])
    return float(np.linalg.norm(corners @ (a - b).T, axis=1).max())


def _unreadable(path: Path) -> InputError:
    return InputError(
        f"{path}: expected an image, but it cannot be read to its end.",
        hint="The file is damaged, incomplete or of another kind: copy or export it again.",
    )
