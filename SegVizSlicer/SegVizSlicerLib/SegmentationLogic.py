"""A CT in the scene becomes one segmentation with names, colours and codes; `segviz_core segment` does the work."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
import vtk.util.numpy_support
from slicer.i18n import tr as _

from SegVizSlicerLib.CoreProcess import makeJobFolder
from SegVizSlicerLib.Models import ModelEntry
from SegVizSlicerLib.Report import CANCELLED_EXIT_CODE, Outcome
from SegVizSlicerLib.VolumeCheck import checkVolume
from SegVizSlicerLib.Worker import Worker, warmWorker


@dataclass(frozen=True)
class Options:
    """What the user chose: `organs` by name (empty = all of the model); `device` auto, cpu or cuda."""

    organs: tuple[str, ...] = ()
    splitKidneys: bool = False
    fast: bool = False
    device: str = "auto"


@dataclass(frozen=True)
class Result:
    """A finished segmentation: ml per organ title, titles of organs without a voxel, and what to mind."""

    node: Any
    volumes: dict[str, float]
    notFound: tuple[str, ...]
    warning: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


class SegmentationLogic:
    """One segmentation at a time, in the warm worker of this Slicer."""

    def __init__(self, worker: Worker | None = None) -> None:
        self._worker = worker or warmWorker()
        self._process: Any = None
        self._folder = Path()
        self._cancelled = False

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    def start(
        self,
        volume: Any,
        model: ModelEntry,
        *,
        options: Options,
        onFinished: Callable[[Result | Outcome], None],
        output: Any = None,
        onProgress: Callable[[str, int, int], None] = lambda stage, done, total: None,
        onLog: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Segment `volume` in the background; `onFinished` gets a Result, or the Outcome that says why there is none.

        Raises:
            ValueError: the volume cannot be segmented, or another one is being segmented; the sentence says why.
        """
        if self.running or self._worker.busy:
            raise ValueError(_("One CT is being segmented already: wait for it or cancel it."))
        check = checkVolume(volume)
        if check.problem:
            raise ValueError(check.problem)
        self._cancelled = False
        folder = self._folder = makeJobFolder()
        seconds: dict[str, float] = {}
        reference = _Reference(volume)

        def finish(outcome: Outcome) -> None:
            self._process = None
            if outcome.ok and self._cancelled:  # it was too late for the command, not for us
                outcome = Outcome(CANCELLED_EXIT_CODE, kind="cancelled", message=_("Cancelled."))
            ended: Result | Outcome = outcome
            try:
                if outcome.ok:
                    onProgress("import", 0, 1)
                    began = time.perf_counter()
                    node = importSegmentation(folder / "organs.nrrd", reference, model, options=options, output=output)
                    seconds["import"] = time.perf_counter() - began
                    volumes, notFound = measuredVolumes(node, model, options)
                    ended = Result(node, volumes, notFound, check.warning, seconds | outcome.result.get("stages", {}))
            except Exception as error:
                ended = Outcome(1, {}, "import", str(error))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            onFinished(ended)

        try:
            self._worker.prepare()  # it starts while the CT is being written
            began = time.perf_counter()
            exportVolume(volume, folder / "ct.nrrd")
            seconds["export"] = time.perf_counter() - began
            self._process = self._worker.run(
                segmentArguments(folder, model, options), folder, onFinished=finish, onProgress=onProgress, onLog=onLog
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def cancel(self) -> None:
        """Ask the running command to stop; `onFinished` hears of it."""
        if self.running:
            self._cancelled = True
            self._process.cancel()

    def stop(self) -> None:
        """End the running command and the worker at once, and leave no CT behind: Slicer may be closing."""
        if self.running:
            self._process.kill()
            shutil.rmtree(self._folder, ignore_errors=True)
        self._worker.stop()

    def segment(self, volume: Any, model: ModelEntry, *, options: Options | None = None, output: Any = None) -> Any:
        """Segment `volume` and wait, while Slicer goes on living; the segmentation node.

        Raises:
            ValueError: as `start`.
            RuntimeError: the command failed; the sentence says why and what to do.
        """
        ended: list[Result | Outcome] = []
        self.start(volume, model, options=options or Options(), output=output, onFinished=ended.append)
        while not ended:
            slicer.app.processEvents()
            time.sleep(0.02)
        if isinstance(ended[0], Result):
            return ended[0].node
        raise RuntimeError(f"{ended[0].message} {ended[0].hint}".strip())


class _Reference:
    """What the result needs of its CT; the CT itself may be deleted while the command runs."""

    def __init__(self, volume: Any) -> None:
        self.id, self.name = volume.GetID(), volume.GetName()
        self.matrix = vtk.vtkMatrix4x4()
        volume.GetIJKToRASMatrix(self.matrix)
        self.dimensions = volume.GetImageData().GetDimensions()

    @property
    def node(self) -> Any:
        return slicer.mrmlScene.GetNodeByID(self.id)


def segmentArguments(folder: Path, model: ModelEntry, options: Options) -> list[str]:
    """The command line of one segmentation."""
    arguments = ["segment", str(folder / "ct.nrrd"), str(folder / "organs.nrrd"), "--model", str(model.path)]
    if options.organs:
        arguments += ["--organs", ",".join(options.organs)]
    if options.fast:
        arguments.append("--fast")
    if options.splitKidneys:
        arguments.append("--split-kidneys")
    return [*arguments, "--device", options.device]


def exportVolume(volume: Any, path: Path) -> None:
    """Write the voxels uncompressed (.02 s against 1 s for .nii.gz); the node's own storage is not touched.

    Raises:
        RuntimeError: the file cannot be written.
    """
    storage = slicer.vtkMRMLNRRDStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(0)
    if not storage.WriteData(volume):
        text = _("Cannot write the CT to {path}: check the free space of the temporary folder.")
        raise RuntimeError(text.format(path=path))


def importSegmentation(path: Path, reference: Any, model: ModelEntry, *, options: Options, output: Any = None) -> Any:
    """Turn the label file into the segments of one node, beside its CT in the subject hierarchy.

    `output` is emptied and filled, or a new node is made when it is None or has been deleted meanwhile.
    """
    labels = slicer.util.loadLabelVolume(str(path), {"name": "SegViz labels", "show": False})
    try:
        if labels.GetImageData().GetDimensions() != reference.dimensions:
            raise RuntimeError(_("The result does not lie on the grid of the CT: please report this."))
        labels.SetIJKToRASMatrix(reference.matrix)
        node = output if output is not None and output.GetScene() is slicer.mrmlScene else None
        if node is None:
            name = slicer.mrmlScene.GenerateUniqueName(f"{reference.name} organs")
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        node.CreateDefaultDisplayNodes()
        node.GetSegmentation().RemoveAllSegments()
        if reference.node is not None:
            node.SetReferenceImageGeometryParameterFromVolumeNode(reference.node)
        slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labels, node)
    finally:
        slicer.mrmlScene.RemoveNode(labels)
    _describeSegments(node, model, options)
    node.SetAttribute("SegViz.model", model.path.stem)
    node.SetAttribute("SegViz.modelHash", model.hash)
    node.SetAttribute("SegViz.modelVersion", model.version)
    _placeBeside(node, reference.node)
    return node


def organsByValue(model: ModelEntry, options: Options) -> dict[int, dict[str, Any]]:
    """Label value -> name, title, color, terminology; left and right take the place of kidneys when split."""
    from segviz_core.labels import SPLIT_KIDNEYS

    organs = {organ["value"]: organ for organ in model.organs if not options.organs or organ["name"] in options.organs}
    if options.splitKidneys and any(organ["name"] == "kidneys" for organ in organs.values()):
        organs = {value: organ for value, organ in organs.items() if organ["name"] != "kidneys"}
        for side in SPLIT_KIDNEYS:
            entry = {"name": side.name, "title": side.title, "color": side.color, "terminology": side.terminology}
            organs[side.value] = entry | {"value": side.value}
    return organs


def measuredVolumes(node: Any, model: ModelEntry, options: Options) -> tuple[dict[str, float], tuple[str, ...]]:
    """ml of each segment by title, and the titles of the organs that were asked for and have no voxel."""
    segmentation = node.GetSegmentation()
    volumes = {}
    for segmentId in segmentation.GetSegmentIDs():
        image = segmentation.GetSegment(segmentId).GetRepresentation("Binary labelmap")
        value = segmentation.GetSegment(segmentId).GetLabelValue()
        voxels = vtk.util.numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
        ml = float(np.count_nonzero(voxels == value) * np.prod(image.GetSpacing()) / 1000)
        volumes[segmentation.GetSegment(segmentId).GetName()] = ml
    titles = [organ["title"] for organ in organsByValue(model, options).values()]
    return volumes, tuple(title for title in titles if title not in volumes)


def segmentationProblem(node: Any) -> str:
    """Why this segmentation cannot be exported as DICOM SEG, or an empty string."""
    volume = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    if volume is None:
        return _("The CT of this segmentation is not in the scene.")
    if not volume.GetAttribute("DICOM.instanceUIDs"):
        return _("{name} was not loaded from DICOM: DICOM SEG needs its series.").format(name=volume.GetName())
    return ""


def _describeSegments(node: Any, model: ModelEntry, options: Options) -> None:
    organs = organsByValue(model, options)
    segmentation = node.GetSegmentation()
    tag = slicer.vtkSegment.GetTerminologyEntryTagName()
    for index in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(index)
        organ = organs[segment.GetLabelValue()]  # not by index: an absent label gives no segment
        segment.SetName(organ["title"])
        segment.SetNameAutoGenerated(False)
        segment.SetColor(*(channel / 255 for channel in organ["color"]))
        segment.SetColorAutoGenerated(False)
        segment.SetTag(tag, organ["terminology"])
        segment.SetTag("DICOM.SegmentAlgorithmType", "AUTOMATIC")
        segment.SetTag("DICOM.SegmentAlgorithmName", f"SegViz {model.version} {model.hash[:6]}")


def _placeBeside(node: Any, volume: Any) -> None:
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    if hierarchy is None or volume is None:
        return
    item, beside = hierarchy.GetItemByDataNode(node), hierarchy.GetItemByDataNode(volume)
    if item and beside:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(beside))
