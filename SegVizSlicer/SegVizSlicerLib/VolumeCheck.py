"""Can this volume be segmented? The answer as one sentence, before any process starts (slicer.md section 6)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

PLAUSIBLE_HU = (-2000.0, 4000.0)
AIR_HU = -200.0
SAMPLES = 1_000_000
"""Percentiles are taken from about so many voxels: exact enough, and no pause in the window."""


@dataclass(frozen=True)
class VolumeCheck:
    """`problem` refuses the volume, `warning` lets it pass; both are sentences or empty."""

    problem: str = ""
    warning: str = ""


def checkVolume(node: Any) -> VolumeCheck:
    """Geometry first, then intensities; reads the voxels once."""
    problem = _geometryProblem(node)
    if problem:
        return VolumeCheck(problem.format(name=node.GetName()))
    voxels = slicer.util.arrayFromVolume(node).ravel()
    sample = np.asarray(voxels[:: max(1, voxels.size // SAMPLES)], np.float32)
    if not np.isfinite(sample).all():
        return VolumeCheck(_("{name} has voxels that are not numbers.").format(name=node.GetName()))
    low, high = (float(value) for value in np.percentile(sample, [1, 99]))
    if sample.min() == sample.max():
        return VolumeCheck(_("{name} has the same value in every voxel.").format(name=node.GetName()))
    if low < PLAUSIBLE_HU[0] or high > PLAUSIBLE_HU[1]:
        text = _(
            "{name} is not a CT in Hounsfield units: expected values from -2000 to 4000, found {low:.0f} to {high:.0f}."
        )
        return VolumeCheck(text.format(name=node.GetName(), low=low, high=high))
    if sample.min() > AIR_HU:
        text = _("{name} has no value below -200 HU: a clipped CT, or not a CT. Check the result with care.")
        return VolumeCheck(warning=text.format(name=node.GetName()))
    return VolumeCheck()


def _geometryProblem(node: Any) -> str:
    image = node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        return _("{name} has no voxels.")
    if node.GetParentTransformNode() is not None:
        return _("{name} is under a transform: harden it first (Data module, right click, Harden transform).")
    if image.GetNumberOfScalarComponents() != 1:
        text = _("{{name}} has {count} values per voxel: a CT has one. Choose one time point or channel.")
        return text.format(count=image.GetNumberOfScalarComponents())
    if min(image.GetDimensions()) < 2:
        return _("{name} has one slice only: load the whole series.")
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASDirectionMatrix(matrix)
    directions = slicer.util.arrayFromVTKMatrix(matrix)[:3, :3]
    if not np.allclose(directions.T @ directions, np.eye(3), atol=1e-3):
        return _("{name} has a tilted gantry: resample it first (Resample Scalar Volume module).")
    return ""
