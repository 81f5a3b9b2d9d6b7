"""What Slicer does to the scene at start, without Qt: logics, colours, data IO, module logics.

The order of the calls was learnt from trame-slicer (KitwareMedical/trame-slicer, Apache-2.0); no code of it is copied.
"""

import sys
import tempfile
import types
from typing import Any

import slicer
import vtk
from slicer import util as util  # the real slicer.util of the wheel

_MODULE_LOGICS = (  # colours before volumes: the volume logic asks for a default colour node
    ("colors", "vtkSlicerColorLogic", "Colors"),
    ("volumes", "vtkSlicerVolumesLogic", "Volumes"),
    ("terminologies", "vtkSlicerTerminologiesModuleLogic", "Terminologies"),
    ("segmentations", "vtkSlicerSegmentationsModuleLogic", "Segmentations"),
    ("subjecthierarchy", "vtkSlicerSubjectHierarchyModuleLogic", "SubjectHierarchy"),
    ("models", "vtkSlicerModelsLogic", "Models"),
    ("plots", "vtkSlicerPlotsLogic", "Plots"),
    ("tables", "vtkSlicerTablesLogic", "Tables"),
)
_kept: list[Any] = []  # logics and folders that the scene refers to without owning them


class LoadedModule:
    """A C++ module as far as scripts use it: `slicer.modules.volumes.logic()`."""

    def __init__(self, logic: Any) -> None:
        self._logic = logic

    def logic(self) -> Any:
        return self._logic


def boot() -> Any:
    """Make `slicer.mrmlScene`, `slicer.modules` and the application logic, and return the latter."""
    vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)  # the wheel lacks colour and terminology files
    scene = slicer.vtkMRMLScene()
    slicer.mrmlScene = scene
    logic = slicer.vtkSlicerApplicationLogic()
    crosshair = slicer.vtkMRMLCrosshairNode()
    crosshair.SetCrosshairName("default")
    scene.AddNode(crosshair)
    logic.SetMRMLScene(scene)
    logic.GetColorLogic().SetMRMLScene(scene)
    logic.GetColorLogic().AddDefaultColorNodes()
    logic.SetSliceLogics(vtk.vtkCollection())
    logic.SetViewLogics(vtk.vtkCollection())
    slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance().SetMRMLApplicationLogic(logic)
    slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance().SetMRMLApplicationLogic(logic)
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    _add_data_io(scene, logic)
    _add_modules(scene, logic)
    return logic


def _add_data_io(scene: Any, logic: Any) -> None:
    """Without it .mrb files can be written but not read; the two logics must stay referenced."""
    cache = tempfile.TemporaryDirectory(prefix="slicer_harness")
    remote = slicer.vtkMRMLRemoteIOLogic()
    remote.SetMRMLScene(scene)
    remote.SetMRMLApplicationLogic(logic)
    remote.GetCacheManager().SetRemoteCacheDirectory(cache.name)
    data = slicer.vtkDataIOManagerLogic()
    data.SetMRMLScene(scene)
    data.SetMRMLApplicationLogic(logic)
    data.SetAndObserveDataIOManager(remote.GetDataIOManager())
    remote.AddDataIOToScene()
    _kept.extend((cache, remote, data))


def _add_modules(scene: Any, logic: Any) -> None:
    modules = types.ModuleType("slicer.modules")
    sys.modules["slicer.modules"] = slicer.modules = modules
    for name, class_name, key in _MODULE_LOGICS:
        if not hasattr(slicer, class_name):
            continue
        module_logic = getattr(slicer, class_name)()
        module_logic.SetMRMLApplicationLogic(logic)
        module_logic.SetMRMLScene(scene)
        logic.SetModuleLogic(key, module_logic)
        setattr(modules, name, LoadedModule(module_logic))
