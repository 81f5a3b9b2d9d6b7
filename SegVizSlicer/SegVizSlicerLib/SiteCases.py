"""Training cases of this site: what its organs are called, and how a pair of the open scene becomes a case."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from SegVizSlicerLib.VolumeCheck import checkVolume


@dataclass(frozen=True)
class Annotation:
    """An organ that this site annotates: label values in its files, names of its segments in scenes."""

    organ: str
    values: tuple[int, ...] = ()
    segments: tuple[str, ...] = ()


def parseAnnotation(organ: str, text: str) -> Annotation:
    """Read "6" or "2, 3" as label values and anything else as segment names.

    Raises:
        ValueError: a label value below 1, or no ASCII organ name.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", organ):
        text = _("An organ name has small letters, digits and _ only, found {organ!r}.")
        raise ValueError(text.format(organ=organ))
    parts = [part.strip() for part in text.split(",") if part.strip()]
    numbers = [part for part in parts if re.fullmatch(r"-?\d+", part)]
    if any(int(number) < 1 for number in numbers):
        raise ValueError(_("{organ}: a label value is 1 or more, found {text}.").format(organ=organ, text=text))
    names = tuple(part for part in parts if part not in numbers)
    return Annotation(organ, tuple(int(number) for number in numbers), names)


def addCase(folder: Path, volume: Any, segmentation: Any, annotations: list[Annotation]) -> Path:
    """Write the shown CT and its segments as one training case; the path of the image.

    The label file gets the site's own values, or SegViz's where none are given.

    Raises:
        ValueError: the pair cannot be used; the sentence says why.
    """
    if volume is None or segmentation is None:
        raise ValueError(_("Show a CT and a segmentation first."))
    check = checkVolume(volume)
    if check.problem:
        raise ValueError(check.problem)
    if segmentation.GetParentTransformNode() is not None:
        text = _("{name} is under a transform: harden it first (Data module, right click, Harden transform).")
        raise ValueError(text.format(name=segmentation.GetName()))
    labels = _labels(volume, segmentation, annotations)
    name = _freeName(folder, volume.GetName())
    image, label = folder / "images" / f"{name}.nrrd", folder / "labels" / f"{name}.nrrd"
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    _write(volume, image)
    node = slicer.util.addVolumeFromArray(
        labels, slicer.util.arrayFromVTKMatrix(matrix), name, "vtkMRMLLabelMapVolumeNode"
    )
    try:
        _write(node, label)
    finally:
        slicer.mrmlScene.RemoveNode(node)
    return image


def labelValues(annotations: list[Annotation]) -> dict[str, tuple[int, ...]]:
    """The voxel values that stand for each organ in the label files of this site."""
    from segviz_core.labels import FIRST_FREE_VALUE, ORGANS

    new = [entry.organ for entry in annotations if entry.organ not in ORGANS and not entry.values]
    own = {organ: (FIRST_FREE_VALUE + index,) for index, organ in enumerate(new)}
    return {entry.organ: entry.values or own.get(entry.organ) or (ORGANS[entry.organ].value,) for entry in annotations}


def _labels(volume: Any, segmentation: Any, annotations: list[Annotation]) -> np.ndarray:
    geometry = segmentation.GetNodeReference(segmentation.GetReferenceImageGeometryReferenceRole())
    if geometry is not None and geometry is not volume and not _sameGrid(geometry, volume):
        text = _("{segmentation} was drawn on {other}, which lies on another grid than {volume}.")
        raise ValueError(
            text.format(segmentation=segmentation.GetName(), other=geometry.GetName(), volume=volume.GetName())
        )
    labels = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    for organ, values in labelValues(annotations).items():
        names = next(entry.segments for entry in annotations if entry.organ == organ) or (organ,)
        for segmentId in _segmentIds(segmentation, names):
            mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segmentId, volume)
            labels[mask > 0] = values[0]
    if not labels.any():
        wanted = ", ".join(name for entry in annotations for name in (entry.segments or (entry.organ,)))
        found = ", ".join(_segmentNames(segmentation)) or _("none")
        text = _("{name} has no segment of this label set: expected {wanted}, found {found}.")
        raise ValueError(text.format(name=segmentation.GetName(), wanted=wanted, found=found))
    return labels


def _segmentNames(segmentation: Any) -> list[str]:
    segments = segmentation.GetSegmentation()
    return [segments.GetSegment(segmentId).GetName() for segmentId in segments.GetSegmentIDs()]


def _segmentIds(segmentation: Any, names: tuple[str, ...]) -> list[str]:
    wanted = {name.lower() for name in names}
    segments = segmentation.GetSegmentation()
    return [i for i in segments.GetSegmentIDs() if segments.GetSegment(i).GetName().lower() in wanted]


def _sameGrid(one: Any, other: Any) -> bool:
    matrices = [vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()]
    for node, matrix in zip((one, other), matrices, strict=True):
        node.GetIJKToRASMatrix(matrix)
    first, second = (slicer.util.arrayFromVTKMatrix(matrix) for matrix in matrices)
    same = one.GetImageData().GetDimensions() == other.GetImageData().GetDimensions()
    return same and bool(np.allclose(first, second, atol=1e-3))


def _freeName(folder: Path, name: str) -> str:
    """An ASCII file name that no case has yet: volume names may be patient names, and break packages when accented."""
    base = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:40] or "case"
    for number in range(1, 10_000):
        candidate = f"{base}_{number:03d}"
        if not (folder / "images" / f"{candidate}.nrrd").exists():
            return candidate
    raise ValueError(_("There are too many cases named {name}.").format(name=base))


def _write(node: Any, path: Path) -> None:
    storage = slicer.vtkMRMLNRRDStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(1)
    if not storage.WriteData(node):
        raise ValueError(_("Cannot write {path}: check the folder's permissions and free space.").format(path=path))
