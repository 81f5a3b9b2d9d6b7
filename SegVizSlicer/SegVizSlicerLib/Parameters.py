"""What a scene remembers of the window: nodes, organs, options. Addresses, paths and consent are in QSettings."""

from enum import Enum

import slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import parameterNodeWrapper


class Device(Enum):
    """Stored by name in scenes: never rename."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"

    def label(self) -> str:
        return {"auto": _("Automatic"), "cpu": _("Processor (CPU)"), "cuda": _("NVIDIA GPU")}[self.name]


@parameterNodeWrapper
class Parameters:
    """One field per bound widget of the .ui file."""

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    outputSegmentation: slicer.vtkMRMLSegmentationNode
    liver: bool = True
    spleen: bool = True
    kidneys: bool = True
    pancreas: bool = True
    otherOrgans: bool = True
    splitKidneys: bool = False
    fast: bool = False
    device: Device = Device.auto


def chooseFirstCT(parameters: Parameters) -> None:
    """Preselect the first volume of the scene where none is chosen yet."""
    first = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
    if parameters.inputVolume is None and first is not None:
        parameters.inputVolume = first
