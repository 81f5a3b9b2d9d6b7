"""`slicer.app` and the start of the harness: a QApplication with the managers that scripts ask for."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from PySide6 import QtCore, QtWidgets

Signal = QtCore.Signal
_started: Any = None


class ProcessEnvironment(dict[str, str]):
    """`slicer.app.startupEnvironment()`: the environment from which Slicer was started."""

    def value(self, name: str) -> str:
        return self[name]


class SlicerApplication(QtWidgets.QApplication):
    """What a module may use of qSlicerApplication; no main window, no layout manager."""

    startupCompleted = Signal()

    def __init__(self) -> None:
        super().__init__(["Slicer"])
        self.setApplicationName("Slicer")
        self.setOrganizationName("SegViz harness")
        self._folder = tempfile.TemporaryDirectory(prefix="slicer_harness")
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
        QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, self._folder.name)
        self._modules, self._io = ModuleManager(), CoreIOManager()
        self._testing = False
        self._layout_manager: Any = None
        self._logic: Any = None

    def moduleManager(self) -> "ModuleManager":
        return self._modules

    def coreIOManager(self) -> "CoreIOManager":
        return self._io

    def layoutManager(self) -> Any:
        return self._layout_manager

    def applicationLogic(self) -> Any:
        return self._logic

    def settings(self) -> Any:
        return QtCore.QSettings()

    userSettings = settings

    def testingEnabled(self) -> bool:
        return self._testing

    def startupEnvironment(self) -> ProcessEnvironment:
        return ProcessEnvironment(os.environ)

    def extensionsManagerModel(self) -> Any:
        return None

    temporaryPath = property(lambda self: self._folder.name)
    slicerHome = property(lambda self: self._folder.name)
    slicerUserSettingsFilePath = property(lambda self: str(Path(self._folder.name) / "Slicer.ini"))
    majorVersion = property(lambda self: 5)
    minorVersion = property(lambda self: 12)
    applicationVersion = property(lambda self: "5.12.4")


class ModuleManager(QtCore.QObject):
    """Knows the scripted modules that the harness has loaded."""

    moduleAboutToBeUnloaded = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._modules: dict[str, Any] = {}

    def module(self, name: str) -> Any:
        return self._modules.get(name)


class CoreIOManager(QtCore.QObject):
    """File suffix to storage node: what Slicer's readers and writers do for the types that SegViz touches."""

    def fileType(self, path: str) -> str:
        path = path.lower()
        if path.endswith((".seg.nrrd", ".seg.nhdr")):
            return "SegmentationFile"
        if path.endswith(".mrb"):
            return "SceneFile"
        return "VolumeFile" if path.endswith((".nrrd", ".nii", ".nii.gz", ".mha")) else "NoFile"

    def fileWriterFileType(self, node: Any) -> str:
        return "SegmentationFile" if node.IsA("vtkMRMLSegmentationNode") else "VolumeFile"

    def loadNodes(self, kind: str, properties: dict[str, Any], found: Any = None, messages: Any = None) -> bool:
        import slicer

        path = properties["fileName"]
        name = properties.get("name") or Path(path).name.split(".")[0]
        if kind == "SceneFile":
            return bool(slicer.mrmlScene.ReadFromMRB(path, bool(properties.get("clear"))))
        node = None
        if kind == "VolumeFile":
            label = 1 if properties.get("labelmap") else 0
            node = slicer.modules.volumes.logic().AddArchetypeVolume(path, name, label | 4 | 8)
        elif kind == "SegmentationFile":
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
            node.AddDefaultStorageNode(path)
            if not node.GetStorageNode().ReadData(node):
                slicer.mrmlScene.RemoveNode(node)
                return False
            node.CreateDefaultDisplayNodes()
        if node is not None and found is not None:
            found.AddItem(node)
        return node is not None

    def saveNodes(self, kind: str, properties: dict[str, Any], messages: Any = None) -> bool:
        import slicer
        import vtk

        if kind == "SceneFile":
            return bool(slicer.mrmlScene.WriteToMRB(properties["fileName"], vtk.vtkImageData()))
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        if not node.GetStorageNode():
            node.AddDefaultStorageNode(properties["fileName"])
        storage = node.GetStorageNode()
        storage.SetFileName(properties["fileName"])
        storage.SetUseCompression(int(properties.get("useCompression", 1)))
        return bool(storage.WriteData(node))


def start() -> SlicerApplication:
    """Make `qt`, `ctk` and a complete `slicer` importable; the same application on every call."""
    global _started
    if _started is not None:
        return _started  # type: ignore[no-any-return]
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
    from slicer_harness import boot, ctk, faults, pythonqt, qt

    application = SlicerApplication()
    pythonqt.install()
    faults.collect_swallowed()
    sys.modules["qt"], sys.modules["ctk"] = qt, ctk
    import slicer

    slicer.__path__.append(str(Path(__file__).parent / "slicer_stand_ins"))
    application._logic = boot.boot()
    slicer.app = application
    from slicer_harness import qmrml

    for cls in qmrml.CLASSES:
        setattr(slicer, cls.__name__, cls)
    _started = application
    return application
