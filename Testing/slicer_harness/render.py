"""Offscreen slice and 3D views from the real displayable managers, as arrays of pixels.

The order of the calls was learnt from trame-slicer (KitwareMedical/trame-slicer, Apache-2.0); no code of it is copied.
"""

from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

_SLICE_MANAGERS = ("vtkMRMLModelSliceDisplayableManager", "vtkMRMLSegmentationsDisplayableManager2D")
_VIEW_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager3D",
)


class SliceView:
    """One slice view of a size in pixels; `orientation` is Axial, Coronal or Sagittal."""

    def __init__(self, application_logic: Any, name: str, orientation: str, size: tuple[int, int] = (400, 400)) -> None:
        self._renderer, self._window, self._interactor = _window(size)
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self.logic = slicer.vtkMRMLSliceLogic()
        self.logic.SetMRMLApplicationLogic(application_logic)
        application_logic.GetSliceLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.node = self.logic.AddSliceNode(name)
        self.node.SetOrientation(orientation)
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        actor = vtk.vtkActor2D()
        actor.SetMapper(self._mapper)
        actor.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(actor)  # before the managers: 2D actors are drawn in the order of insertion
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        self._group = _managers(factory, _SLICE_MANAGERS, self._renderer, self.node)
        self.logic.ResizeSliceNode(*size)

    def pixels(self, volume: Any, center_ras: tuple[float, float, float]) -> np.ndarray:
        """(rows, columns, 3) uint8: `volume` and what lies over it, cut through `center_ras` (mm)."""
        self.logic.GetSliceCompositeNode().SetBackgroundVolumeID(volume.GetID())
        self.logic.FitSliceToBackground()
        self.node.JumpSliceByOffsetting(*center_ras)
        self._mapper.SetInputConnection(self.logic.GetImageDataConnection())
        return _grab(self._window)


class ThreeDView:
    """One 3D view of a size in pixels."""

    def __init__(self, application_logic: Any, size: tuple[int, int] = (400, 400)) -> None:
        self._renderer, self._window, self._interactor = _window(size)
        self.logic = slicer.vtkMRMLViewLogic()
        self.logic.SetMRMLApplicationLogic(application_logic)
        application_logic.GetViewLogics().AddItem(self.logic)
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.node = self.logic.AddViewNode("1")
        self.node.SetBoxVisible(0)
        self.node.SetAxisLabelsVisible(0)
        factory = slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance()
        self._group = _managers(factory, _VIEW_MANAGERS, self._renderer, self.node)

    def pixels(self) -> np.ndarray:
        """(rows, columns, 3) uint8: the scene from the front, a little from the side."""
        self._window.Render()
        self._renderer.ResetCamera()
        camera = self._renderer.GetActiveCamera()
        camera.Azimuth(25)
        camera.Elevation(12)
        camera.Zoom(1.15)
        self._renderer.ResetCameraClippingRange()
        return _grab(self._window)


def _window(size: tuple[int, int]) -> tuple[Any, Any, Any]:
    renderer, window, interactor = vtk.vtkRenderer(), vtk.vtkRenderWindow(), vtk.vtkRenderWindowInteractor()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(0)
    window.SetSize(*size)
    window.AddRenderer(renderer)
    interactor.SetRenderWindow(window)
    interactor.Initialize()
    return renderer, window, interactor


def _managers(factory: Any, names: tuple[str, ...], renderer: Any, node: Any) -> Any:
    for name in names:
        if not factory.IsDisplayableManagerRegistered(name):
            factory.RegisterDisplayableManager(name)
    group = slicer.vtkMRMLDisplayableManagerGroup()
    group.SetRenderer(renderer)
    group.Initialize(factory, renderer)
    group.SetMRMLDisplayableNode(node)
    return group


def _grab(window: Any) -> np.ndarray:
    window.Render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.ReadFrontBufferOff()
    grabber.SetInputBufferTypeToRGB()
    grabber.Update()
    image = grabber.GetOutput()
    columns, rows, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, -1)[::-1].copy()
