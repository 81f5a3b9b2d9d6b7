"""The Segment section: from the chosen CT to a table of organs, and a reason wherever a button is disabled."""

from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SegVizSlicerLib import SampleCT
from SegVizSlicerLib.Models import ModelEntry, importModel, listModels
from SegVizSlicerLib.Report import Outcome
from SegVizSlicerLib.SegmentationLogic import Options, Result, SegmentationLogic
from SegVizSlicerLib.State import State, explain, showIn
from SegVizSlicerLib.Tables import fillTable, prepareTable

STAGES = {
    "load": _("Loading the model"),
    "read": _("Reading the CT"),
    "locate": _("Looking where the organs are"),
    "prepare": _("Preparing the CT"),
    "network": _("Finding the organs"),
    "restore": _("Back to the grid of the CT"),
    "write": _("Writing the result"),
    "import": _("Showing the organs"),
}
"""Words for the stages that `segment` reports; an unknown one is shown as it is."""

SHARES = {"load": 10, "read": 8, "locate": 10, "prepare": 7, "network": 45, "restore": 12, "write": 3, "import": 5}
"""Percent of the bar per stage, from measured times on a CPU: the bar never goes back."""

PARTS = " \N{MIDDLE DOT} "
"""Before news about a stage, which is still the same stage (segviz_core.console)."""

STUDY_ORGANS = ("liver", "spleen", "kidneys", "pancreas")
"""Organs with a check box of their own; a model may have more."""


class SegmentPanel:
    """Reads the widgets of the section, runs the logic, shows the result."""

    def __init__(self, window: Any, logic: SegmentationLogic) -> None:
        self.window, self.logic = window, logic
        self.models: list[ModelEntry] = []
        self._result: Result | None = None
        ui = window.ui
        ui.applyButton.clicked.connect(self.applyOrCancel)
        ui.importModelButton.clicked.connect(self._chooseModelFile)
        ui.modelSelector.currentIndexChanged.connect(lambda *_args: self._modelChosen())
        ui.inputSelector.currentNodeChanged.connect(lambda *_args: window.updateGUI())
        for organ in (*STUDY_ORGANS, "otherOrgans"):
            getattr(ui, f"{organ}CheckBox").toggled.connect(lambda *_args: window.updateGUI())
        menu = qt.QMenu(ui.sampleButton)
        menu.addAction(_("Artificial CT (made here)")).triggered.connect(
            lambda *_args: self._sample(SampleCT.makePhantom)
        )
        menu.addAction(_("CTLiver (downloads 23 MB)")).triggered.connect(lambda *_args: self._sample(SampleCT.download))
        ui.sampleButton.setMenu(menu)
        prepareTable(ui.volumesTable)

    # -- models

    def refreshModels(self, select: str = "") -> None:
        """Read the models folders again; `select` is the hash of the model to show."""
        self.models, problems = listModels(self.modelFolders())
        self.models.sort(key=lambda entry: -entry.path.stat().st_mtime)
        for problem in problems:
            self.window.log(problem)
        select = select or str(qt.QSettings().value("SegViz/model", ""))
        selector = self.window.ui.modelSelector
        blocked = selector.blockSignals(True)
        selector.clear()
        selector.addItems([entry.title for entry in self.models])
        hashes = [entry.hash for entry in self.models]
        if select in hashes:
            selector.setCurrentIndex(hashes.index(select))
        selector.blockSignals(blocked)
        self._modelChosen()

    def modelFolders(self) -> list[Path]:
        """Where models are looked for: the administrator's folder alone, or the module's and the user's."""
        if self.window.policy.models:
            return [Path(self.window.policy.models)]
        return [self.window.resources / "Models", self.userModels()]

    def userModels(self) -> Path:
        """The folder for imported models and results of federations."""
        return Path(qt.QSettings().value("SegViz/modelsFolder", "") or self.window.folder / "models")

    def model(self) -> ModelEntry | None:
        """The chosen model."""
        index = self.window.ui.modelSelector.currentIndex
        return self.models[index] if 0 <= index < len(self.models) else None

    def addModel(self, path: Path) -> ModelEntry | None:
        """Import a file and choose it; a file that cannot be used is explained."""
        try:
            entry = importModel(path, self.userModels())
        except Exception as error:
            self._fail(str(error))
            return None
        self.refreshModels(select=entry.hash)
        return entry

    def _modelChosen(self) -> None:
        model, ui = self.model(), self.window.ui
        ui.modelSummary.setText(model.summary if model else _("No model yet: import one, or join a federation."))
        names = {organ["name"] for organ in model.organs} if model else set()
        for organ in STUDY_ORGANS:
            box = getattr(ui, f"{organ}CheckBox")
            box.enabled = model is None or organ in names
            box.toolTip = "" if box.enabled else _("The chosen model has no head for this organ.")
        if model:
            qt.QSettings().setValue("SegViz/model", model.hash)
        self.window.updateGUI()

    def _chooseModelFile(self) -> None:
        path = qt.QFileDialog.getOpenFileName(
            self.window.ui.applyButton, _("Import model file"), "", _("Meta-models") + " (*.safetensors)"
        )
        if path:
            self.addModel(Path(path))

    # -- the journey

    def applyOrCancel(self) -> None:
        """The one button: start, or stop what runs."""
        if self.logic.running:
            self.window.setState(State.Cancelling)
            self.logic.cancel()
            return
        ui = self.window.ui
        try:
            self.window.setState(State.Installing)
            self.window.dependencies.ensureSegment(self.options().device)
            self.window.setState(State.Starting)
            ui.progressBar.setValue(0)
            self.logic.start(
                ui.inputSelector.currentNode(),
                self.model(),
                options=self.options(),
                output=ui.outputSelector.currentNode(),
                onProgress=self._progress,
                onLog=self.window.log,
                onFinished=self._finished,
            )
        except Exception as error:
            self._fail(str(error))
            return
        self.window.setState(State.Starting)

    def options(self) -> Options:
        """What the check boxes say."""
        ui, model = self.window.ui, self.model()
        names = [organ["name"] for organ in model.organs] if model else []
        boxes = {name: getattr(ui, f"{name}CheckBox") for name in STUDY_ORGANS}
        chosen = [name for name in names if (boxes[name].checked if name in boxes else ui.otherOrgansCheckBox.checked)]
        return Options(
            organs=tuple(chosen),
            splitKidneys=ui.splitKidneysCheckBox.checked and "kidneys" in chosen,
            fast=ui.fastCheckBox.checked,
            device=self.window.device(),
        )

    def whyNotApply(self) -> str:
        """Why Apply is disabled, first reason first; empty when it is not."""
        if self.window.state.busy:
            return "" if self.logic.running else _("Please wait: packages are being installed.")
        if self.window.ui.inputSelector.currentNode() is None:
            return _("Select an input CT volume.")
        if self.model() is None:
            return _("Select or import a model.")
        if not self.options().organs:
            return _("Select at least one organ.")
        if self.options().device != "cpu" and self.window.federation.gpuBusy():
            busy = _("The GPU is busy; it will be free within a minute.")
            return busy + " " + _("Or choose the device Processor (CPU) under Advanced.")
        return ""

    def update(self) -> None:
        """Buttons, tooltips and bar for the present state."""
        ui, state = self.window.ui, self.window.state
        running = self.logic.running
        ui.applyButton.setText(_("Cancel") if running else _("Apply"))
        explain(ui.applyButton, self.whyNotApply(), _("Stop segmenting.") if running else _("Segment the CT."))
        if state is State.Cancelling:
            explain(ui.applyButton, _("Stopping; this takes at most five seconds."))
        showIn(ui.segmentSection, ui.progressBar, state.busy)
        model = self.model()
        others = model is not None and any(organ["name"] not in STUDY_ORGANS for organ in model.organs)
        showIn(ui.segmentSection, ui.otherOrgansCheckBox, others)
        for widget in (ui.segmentsView, ui.volumesTable):
            showIn(ui.segmentSection, widget, self._result is not None)
        for widget in (ui.inputSelector, ui.modelSelector, ui.importModelButton, ui.outputSelector, ui.sampleButton):
            widget.enabled = not state.busy
        texts = {
            State.Installing: _("Installing packages..."),
            State.Starting: _("Starting..."),
            State.Cancelling: _("Cancelling..."),
        }
        if state in texts:
            ui.statusLabel.setText(texts[state])
        if self.window.policy.models:
            explain(ui.importModelButton, self.window.policy.reason)

    def forgetNodes(self) -> None:
        """The scene closed: its segmentation is gone."""
        self._result = None
        self._showResult(None)

    def _progress(self, stage: str, done: int, total: int) -> None:
        ui = self.window.ui
        if self.window.state is State.Cancelling:
            return
        wanted = State.Importing if stage == "import" else State.Running
        if self.window.state is not wanted:
            self.window.setState(wanted)
        name, _separator, news = stage.partition(PARTS)
        before = 0
        for known, share in SHARES.items():
            if known == name:
                ui.progressBar.setValue(int(max(ui.progressBar.value, before + share * done / max(1, total))))
                break
            before += share
        text = STAGES.get(name, name) + (": " + _("part {done} of {total}") if total > 1 else "")
        if news:
            text += " " + _("(once more, in the whole body)")
        ui.statusLabel.setText(text.format(done=min(done + 1, total), total=total))

    def _finished(self, ended: Result | Outcome) -> None:
        if isinstance(ended, Outcome):
            if ended.cancelled:
                self.window.setState(State.Idle)
                self.window.ui.statusLabel.setText(_("Cancelled; nothing was changed."))
            else:
                self._fail(ended.message, ended.hint)
            return
        self._result = ended
        if self.window.parameters is not None:
            self.window.parameters.outputSegmentation = ended.node
        self._showResult(ended)
        self.window.setState(State.Idle)
        self.window.ui.statusLabel.setText(self._summary(ended))

    def _summary(self, result: Result) -> str:
        text = _("{count} organs found.").format(count=len(result.volumes))
        if result.notFound:
            text += " " + _("Not found: {organs}.").format(organs=", ".join(result.notFound))
        return f"{text} {result.warning}".strip()

    def _showResult(self, result: Result | None) -> None:
        ui = self.window.ui
        ui.segmentsView.setSegmentationNode(result.node if result else None)
        ui.show3DButton.setSegmentationNode(result.node if result else None)
        rows = [(title, f"{ml:.1f}") for title, ml in result.volumes.items()] if result else []
        rows += [(title, _("not found")) for title in result.notFound] if result else []
        fillTable(ui.volumesTable, rows)
        self.update()

    def _fail(self, message: str, hint: str = "") -> None:
        self.window.setState(State.Failed)
        self.window.ui.statusLabel.setText(f"{message} {hint}".strip())
        self.window.showError(message, hint)

    def _sample(self, make: Any) -> None:
        try:
            node = make()
        except Exception as error:
            self._fail(str(error))
            return
        self.window.ui.inputSelector.setCurrentNode(node)
        slicer.util.setSliceViewerLayers(background=node, fit=True)
