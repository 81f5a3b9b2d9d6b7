"""SegViz in 3D Slicer: registration of the module; everything else is in SegVizSlicerLib."""

import sys
from pathlib import Path
from typing import Any

import slicer
from SegVizSlicerLib.SampleCT import registerSampleData
from SegVizSlicerLib.SetupCheck import checkFloor
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class SegVizSlicer(ScriptedLoadableModule):
    """What Slicer's module list shows."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("SegViz")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = ["Segmentations", "Volumes"]
        parent.contributors = ["The SegViz contributors"]
        parent.helpText = _(
            "Segments liver, spleen, kidneys and pancreas in a CT, with a model that sites made together although each"
            " annotates its own organs only; and joins such a federation with your own cases, which stay with you."
        )
        parent.acknowledgementText = _("After UM2ii/SegViz (arXiv 2301.07074).")
        slicer.app.connect("startupCompleted()", registerSampleData)


class SegVizSlicerWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel of the module: hands the widgets of the .ui file, and the scene's parameter node, to the window."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.window: Any = None
        self._reloading = False

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        checkFloor()
        addCorePath()
        from SegVizSlicerLib.Widget import Widget

        root = slicer.util.loadUI(self.resourcePath("UI/SegVizSlicer.ui"))
        self.layout.addWidget(root)
        self.ui = slicer.util.childWidgetVariables(root)
        root.setMRMLScene(slicer.mrmlScene)
        self.window = Widget(self.ui, Path(self.resourcePath("UI")).parent)
        self.logic = SegVizSlicerLogic()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.enter()

    def cleanup(self) -> None:
        """The module goes away: jobs of a click end, a joined site goes on."""
        self.removeObservers()
        if self.window is not None:
            self.window.cleanup(closing=not self._reloading)

    def enter(self) -> None:
        """The module is shown: bind the scene's parameter node."""
        self.window.bind(self.logic.getParameterNode())

    def exit(self) -> None:
        """Another module is shown; jobs go on."""
        self.window.bind(None)

    def onReload(self) -> None:
        """Developer's reload: the library modules too, or old code would go on."""
        self._reloading = True
        for name in [name for name in sys.modules if name.split(".")[0] == "SegVizSlicerLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller: Any, event: Any) -> None:
        self.window.leaveScene()

    def onSceneEndClose(self, caller: Any, event: Any) -> None:
        if self.parent.isEntered:
            self.enter()


class SegVizSlicerLogic(ScriptedLoadableModuleLogic):
    """What a script may want, without a window."""

    def segment(self, volumeNode: Any, model: str | Path | None = None, **options: Any) -> Any:
        """Segment a CT and wait; the new segmentation node. Options: organs, splitKidneys, fast, device.

        `model` is a file; without it the newest one of the models folder is taken.

        Raises:
            ValueError: the volume or the model cannot be used; the sentence says why.
            RuntimeError: the segmentation failed; the sentence says why and what to do.
        """
        addCorePath()
        from SegVizSlicerLib import Models
        from SegVizSlicerLib.SegmentationLogic import Options, SegmentationLogic

        entry = Models.readModel(Path(model)) if model else Models.newestModel(Models.userFolder() / "models")
        return SegmentationLogic().segment(volumeNode, entry, options=Options(**options))


class SegVizSlicerTest(ScriptedLoadableModuleTest):
    """Slicer's self test: needs no network, no torch, no model."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        from SegVizSlicerLib.SampleCT import makePhantom
        from SegVizSlicerLib.VolumeCheck import checkVolume

        self.setUp()
        assert checkVolume(makePhantom()).problem == ""
        self.delayDisplay(_("Test passed"))


def addCorePath() -> None:
    """Installed, `segviz_core` lies beside this file; in a source tree one level up."""
    try:
        import segviz_core  # noqa: F401
    except ModuleNotFoundError:
        sys.path.append(str(Path(__file__).resolve().parent.parent))
