"""The slices of the one CT series in a DICOM folder, refused with the reason when they do not form a volume."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from segviz_core.errors import InputError

_MODALITY, _DESCRIPTION = "0008|0060", "0008|103e"


@dataclass(frozen=True, eq=False)
class _Slice:
    """What the headers say: centre of the first pixel and the in-plane directions, both LPS."""

    file: str
    position_mm: NDArray[np.float64]
    rows_and_columns: NDArray[np.float64]
    modality: str
    description: str


def find_series(folder: Path) -> list[str]:
    """File names of the series in `folder`, in the order of the slices.

    Slices must be parallel, at equal distances (to 10 %: a missing slice is 100 %) and stacked along their normal (to
    0.1 mm plus 0.1 % of the length: rounded positions pass, a tilted gantry does not).

    Raises:
        InputError: no DICOM, more than one series, not CT, fewer than two slices, gaps, gantry tilt.
    """
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if not series:
        raise InputError(
            f"{folder}: expected the DICOM files of one CT series, found none.",
            hint="Choose the folder that directly holds the files.",
        )
    files = [sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), name) for name in series]
    if len(series) > 1:
        names = ", ".join(f"{_header(f[0]).description or 'unnamed'} ({len(f)} files)" for f in files)
        raise InputError(
            f"{folder}: expected one DICOM series, found {len(series)}: {names}.",
            hint="Move the CT series into a folder of its own.",
        )
    slices = [_header(file) for file in files[0]]
    _check_stack(folder, slices)
    return [piece.file for piece in slices]


def _header(file: str) -> _Slice:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    reader.ReadImageInformation()
    text = {key: reader.GetMetaData(key).strip() for key in (_MODALITY, _DESCRIPTION) if reader.HasMetaDataKey(key)}
    directions = np.reshape(reader.GetDirection(), (3, 3))[:, :2]
    return _Slice(file, np.array(reader.GetOrigin()), directions, text.get(_MODALITY, ""), text.get(_DESCRIPTION, ""))


def _check_stack(folder: Path, slices: list[_Slice]) -> None:
    first = slices[0]
    if first.modality not in ("CT", ""):
        raise InputError(
            f"{folder}: expected a CT series, found modality {first.modality}.", hint="SegViz knows HU of CT only."
        )
    if len(slices) < 2:
        raise InputError(f"{folder}: expected a series of slices, found one.", hint="Export the whole series.")
    if any(np.abs(piece.rows_and_columns - first.rows_and_columns).max() > 1e-3 for piece in slices):
        raise InputError(
            f"{folder}: expected parallel slices, found several orientations in one series.",
            hint="Remove localizers and reformatted images from the folder.",
        )
    normal = np.cross(first.rows_and_columns[:, 0], first.rows_and_columns[:, 1])
    offsets = np.array([piece.position_mm for piece in slices]) - first.position_mm
    along = offsets @ normal
    steps = np.abs(np.diff(along))
    usual = float(np.median(steps))
    odd = int(np.argmax(np.abs(steps - usual)))
    if abs(steps[odd] - usual) > 0.1 * usual or usual == 0:
        raise InputError(
            f"{folder}: expected slices at equal distances, found {usual:.2f} mm but {steps[odd]:.2f} mm"
            f" between slices {odd + 1} and {odd + 2}.",
            hint="Slices are missing or doubled: export the series again.",
        )
    drift = float(np.linalg.norm(offsets - np.outer(along, normal), axis=1).max())
    length = float(np.abs(along).max())
    if drift > 0.1 + 1e-3 * length:
        tilt = np.degrees(np.arctan2(drift, length))
        raise InputError(
            f"{folder}: expected slices stacked along their normal, found a gantry tilt of {tilt:.1f} degrees.",
            hint="Resample the series to a straight grid first (3D Slicer does it when loading DICOM).",
        )
