"""Small things that the tests of the window need: a CT, a model file with a header only, a window on fakes."""

import json
import struct
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import qt
import slicer
import vtk
from SegVizSlicerLib.FederationLogic import FederationLogic
from SegVizSlicerLib.Policy import Policy
from SegVizSlicerLib.Report import CANCELLED_EXIT_CODE, Outcome
from SegVizSlicerLib.SegmentationLogic import SegmentationLogic
from SegVizSlicerLib.Widget import Widget

from segviz_core.contract import DataContract
from segviz_core.labels import ORGANS
from segviz_core.model_header import FORMAT, METADATA_KEY

ROOT = Path(__file__).resolve().parents[2]
RESOURCES = ROOT / "SegVizSlicer" / "Resources"


def _oblique() -> np.ndarray:
    """Voxels of 0.8 x 1.1 x 3.0 mm on axes turned about all three (i to the left, j to the back, k to the head)."""
    turns = vtk.vtkTransform()
    for degrees, axis in ((20, (0, 0, 1)), (-7, (0, 1, 0)), (12, (1, 0, 0))):
        turns.RotateWXYZ(degrees, *axis)
    matrix = slicer.util.arrayFromVTKMatrix(turns.GetMatrix()) @ np.diag([-0.8, -1.1, 3.0, 1.0])
    matrix[:3, 3] = [61.0, 47.5, -33.25]
    return matrix


OBLIQUE = _oblique()

_open: list[tuple[Any, Any]] = []  # the window, and its root widget, which has to stay


def add_ct(shape: tuple[int, int, int] = (20, 48, 64), name: str = "CT", matrix: np.ndarray | None = None) -> Any:
    """An int16 volume with air, soft tissue and a bright block; `shape` is (slices, rows, columns)."""
    hu = np.full(shape, -1000, np.int16)
    hu[:, shape[1] // 6 : -shape[1] // 6, shape[2] // 6 : -shape[2] // 6] = 40
    hu[shape[0] // 3 : -shape[0] // 3, shape[1] // 3 : shape[1] // 2, shape[2] // 3 : shape[2] // 2] = 120
    affine = np.diag([-0.8, -1.1, 3.0, 1.0]) if matrix is None else matrix
    node = slicer.util.addVolumeFromArray(hu, affine, name, "vtkMRMLScalarVolumeNode")
    node.CreateDefaultDisplayNodes()
    return node


def write_model(
    path: Path, organs: tuple[str, ...] = tuple(ORGANS), *, study: str = "demo", spacing: float = 1.5, **provenance: Any
) -> Path:
    """A meta-model file without weights: everything that the window reads of one."""
    contract = DataContract(spacing_mm=(spacing, spacing, spacing))
    known = [ORGANS[name] for name in organs if name in ORGANS]
    entries = [
        {"name": o.name, "value": o.value, "title": o.title, "color": o.color, "terminology": o.terminology}
        for o in known
    ]
    for index, name in enumerate(name for name in organs if name not in ORGANS):
        extra = {"name": name, "value": 7 + index, "title": name.capitalize(), "color": (128, 174, 128)}
        entries.append(extra | {"terminology": ORGANS["liver"].terminology})
    shared = {"study": study, "rounds": 6, "rounds_planned": 6, "versions": {"segviz": "1.0"}}
    shared["validation_dice"] = {o.name: 0.71 for o in known}
    header = {
        "format": FORMAT,
        "contract": contract.to_dict(),
        "contract_hash": contract.hash,
        "network": {},
        "patch_size": [96, 96, 96],
        "organs": entries,
        "tensors": {},
        "provenance": shared | provenance,
    }
    text = json.dumps({"__metadata__": {METADATA_KEY: json.dumps(header)}}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


class FakeProcess:
    """Stands for CoreProcess: same signature, events on demand, and a label map of the test's own."""

    started: ClassVar[list["FakeProcess"]] = []

    def __init__(
        self, arguments: list[str], folder: Path, *, onFinished: Any, onProgress: Any = None, onLog: Any = None
    ):
        self.arguments, self.folder = arguments, folder
        self.onFinished, self.onProgress, self.onLog = onFinished, onProgress, onLog
        self.running = True
        FakeProcess.started.append(self)

    def finish(self, labels: np.ndarray | None = None, **result: Any) -> None:
        """End well, with `labels` on the grid of the exported CT."""
        if labels is not None:
            ct = slicer.util.loadVolume(str(self.folder / "ct.nrrd"), {})
            matrix = vtk.vtkMatrix4x4()
            ct.GetIJKToRASMatrix(matrix)
            slicer.mrmlScene.RemoveNode(ct)
            node = slicer.util.addVolumeFromArray(
                labels, slicer.util.arrayFromVTKMatrix(matrix), "out", "vtkMRMLLabelMapVolumeNode"
            )
            assert slicer.util.saveNode(node, str(self.folder / "organs.nrrd"), {})
            slicer.mrmlScene.RemoveNode(node)
        self.running = False
        self.onFinished(Outcome(0, result))

    def fail(self, message: str, hint: str = "", kind: str = "input") -> None:
        self.running = False
        self.onFinished(Outcome(3, {}, kind, message, hint))

    def cancel(self) -> None:
        self.running = False
        self.onFinished(Outcome(CANCELLED_EXIT_CODE, kind="cancelled", message="Cancelled."))

    def kill(self) -> None:
        self.running = False


class FakeWorker:
    """Stands for Worker: every job is a process of `startProcess`."""

    busy = False

    def __init__(self, startProcess: Any = FakeProcess) -> None:
        self.run = startProcess

    def prepare(self) -> None:
        pass

    def stop(self) -> None:
        pass


class NothingMissing:
    """Stands for Dependencies: everything is installed."""

    def __init__(self, folder: Path) -> None:
        self.flwrFolder = folder / "flwr"
        self.asked: list[str] = []

    def ensureSegment(self, device: str = "auto") -> None:
        self.asked.append("segment")

    def ensureFederation(self) -> None:
        self.asked.append("federation")

    def removeFederation(self) -> None:
        self.asked.append("remove")

    def flwrVersion(self) -> str:
        return ""

    def missingSegment(self) -> list[str]:
        return []

    def missingFederation(self) -> list[str]:
        return []


def make_window(
    folder: Path, *, process: Any = FakeProcess, worker: Any = None, policy: Policy | None = None, **options: Any
) -> Widget:
    """The window on the real .ui and scene, with a parameter node; no module around it.

    `process` runs the commands, and those of Apply too where there is no `worker`.
    """
    from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

    FakeProcess.started.clear()
    root = slicer.util.loadUI(str(RESOURCES / "UI" / "SegVizSlicer.ui"))
    ui = slicer.util.childWidgetVariables(root)
    root.setMRMLScene(slicer.mrmlScene)
    window = Widget(
        ui,
        RESOURCES,
        segmentation=SegmentationLogic(worker or FakeWorker(process)),
        federation=FederationLogic(folder / "sites", process),
        dependencies=options.pop("dependencies", NothingMissing(folder)),
        policy=policy or Policy(),
        folder=folder,
        **options,
    )
    logic = ScriptedLoadableModuleLogic()
    logic.moduleName = "SegVizSlicer"
    window.bind(logic.getParameterNode())
    _open.append((window, root))
    return window


def close_windows() -> None:
    """Let go of the windows that a test has made."""
    while _open:
        _open.pop()[0].cleanup()


def process_events(until: Any, seconds: float = 60.0) -> None:
    """Let Qt work until `until()` is true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, "waited in vain"
        slicer.app.processEvents()
        qt.QThread.msleep(5)
