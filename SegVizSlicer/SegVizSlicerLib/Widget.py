"""The window: binds the .ui to the parameter node, holds the log, and tells both panels when something changed."""

import logging
import time
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SegVizSlicerLib.AdvancedPanel import AdvancedPanel
from SegVizSlicerLib.Dependencies import Dependencies
from SegVizSlicerLib.FederationLogic import FederationLogic
from SegVizSlicerLib.FederationPanel import FederationPanel
from SegVizSlicerLib.Models import userFolder
from SegVizSlicerLib.Parameters import Parameters, chooseFirstCT
from SegVizSlicerLib.Policy import Policy, readPolicy
from SegVizSlicerLib.SegmentationLogic import SegmentationLogic
from SegVizSlicerLib.SegmentPanel import SegmentPanel
from SegVizSlicerLib.State import State


class Widget:
    """Everything under the module's root widget.

    `ui` holds the child widgets by name, `resources` is the module's Resources folder; tests hand in their own logics.
    """

    def __init__(
        self,
        ui: Any,
        resources: Path,
        *,
        segmentation: SegmentationLogic | None = None,
        federation: FederationLogic | None = None,
        dependencies: Dependencies | None = None,
        policy: Policy | None = None,
        folder: Path | None = None,
    ) -> None:
        self.ui, self.resources = ui, resources
        self.folder = folder or userFolder()
        self.policy = readPolicy(resources.parent) if policy is None else policy
        self.dependencies = dependencies or Dependencies(resources, self.folder)
        self.state = State.Idle
        self._ready = False
        self.parameters: Any = None
        self._guiTag: Any = None
        self.segment = SegmentPanel(self, segmentation or SegmentationLogic())
        self.federation = FederationPanel(self, federation or FederationLogic(self.folder / "sites"))
        self.advanced = AdvancedPanel(self)
        ui.copyLogButton.clicked.connect(lambda: slicer.app.clipboard().setText(ui.logText.toPlainText()))
        ui.saveLogButton.clicked.connect(self._saveLog)
        for section in (ui.segmentSection, ui.federationSection, ui.advancedSection):
            section.contentsCollapsed.connect(lambda _collapsed: self.updateGUI())
        self._ready = True
        self.segment.refreshModels()
        self.federation.restore()
        self.updateGUI()

    def bind(self, node: Any) -> None:
        """Connect the widgets to the scene's parameter node, choosing the first CT where none is chosen yet.

        None disconnects them: the module is not shown, or its scene closes.
        """
        if self.parameters is not None:
            self.parameters.disconnectGui(self._guiTag)
            self.parameters = None
        if node is not None:
            parameters = Parameters(node)
            chooseFirstCT(parameters)
            self._guiTag = parameters.connectGui(self.ui)
            self.parameters = parameters
        self.updateGUI()

    def device(self) -> str:
        """What segments and trains, as chosen under Advanced: auto, cpu or cuda."""
        return self.parameters.device.value if self.parameters else "auto"

    def setState(self, state: State) -> None:
        """Change what the window is doing and everything that depends on it."""
        self.state = state
        self.updateGUI()

    def updateGUI(self) -> None:
        """The one place that enables, disables and explains."""
        if not self._ready:
            return
        self.segment.update()
        self.federation.update()
        self.advanced.update()

    def log(self, line: str) -> None:
        """Add a line to the log section and to Slicer's log."""
        self.ui.logText.appendPlainText(line)
        logging.info(f"SegViz: {line}")

    def showError(self, message: str, hint: str = "") -> None:
        """A failure in words: in the status line, and in the log, which opens."""
        self.log(f"{message} {hint}".strip())
        self.ui.logSection.collapsed = False

    def leaveScene(self) -> None:
        """The scene closes: forget its nodes; a running job goes on."""
        self.bind(None)
        self.segment.forgetNodes()

    def cleanup(self, *, closing: bool = True) -> None:
        """The module goes away: jobs of a click end; `closing` asks whether a joined site goes on."""
        self.bind(None)
        self.segment.logic.stop()
        self.federation.cleanup(closing=closing)

    def _saveLog(self) -> None:
        name = f"SegViz {time.strftime('%Y-%m-%d %H-%M')}.txt"
        path = qt.QFileDialog.getSaveFileName(self.ui.logText, _("Save log"), name)
        if path:
            Path(path).write_text(self.ui.logText.toPlainText(), encoding="utf-8")
