"""The Advanced section: device, models folder, package sets, Check setup."""

from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from SegVizSlicerLib.Dependencies import SIZES
from SegVizSlicerLib.SetupCheck import checkSetup, deviceName
from SegVizSlicerLib.State import State, explain, showIn
from SegVizSlicerLib.Tables import fillTable, prepareTable


class AdvancedPanel:
    """Settings of the user, not of the scene."""

    def __init__(self, window: Any) -> None:
        self.window = window
        ui = window.ui
        ui.deviceLabel.setText(deviceName())
        ui.modelsFolder.setCurrentPath(str(window.segment.userModels()))
        ui.offlineFolder.setCurrentPath(str(qt.QSettings().value("SegViz/offlineFolder", "") or ""))
        ui.modelsFolder.currentPathChanged.connect(self._modelsFolderChosen)
        ui.offlineFolder.currentPathChanged.connect(lambda path: qt.QSettings().setValue("SegViz/offlineFolder", path))
        ui.openModelsButton.clicked.connect(self._openModels)
        ui.deleteModelButton.clicked.connect(self.deleteModel)
        ui.setupButton.clicked.connect(self.showSetup)
        ui.installSegmentButton.clicked.connect(lambda *_a: self._install(window.dependencies.ensureSegment))
        ui.installFederationButton.clicked.connect(lambda *_a: self._install(window.dependencies.ensureFederation))
        ui.removeFederationButton.clicked.connect(self._removeFederation)
        prepareTable(ui.setupTable)
        self._showPackages()

    def update(self) -> None:
        """Buttons and their reasons."""
        ui, window = self.window.ui, self.window
        showIn(ui.advancedSection, ui.setupTable, ui.setupTable.rowCount > 0)
        busy = _("Please wait until the running job has ended.") if window.state.busy else ""
        model = window.segment.model()
        own = model is not None and model.path.parent == window.segment.userModels()
        explain(ui.deleteModelButton, busy or ("" if own else _("Only models of the models folder can be deleted.")))
        for button in (ui.installSegmentButton, ui.installFederationButton):
            explain(button, busy)
        installed = bool(window.dependencies.flwrVersion())
        joined = _("Leave the federation first.") if window.federation.joined() else ""
        explain(ui.removeFederationButton, busy or joined or ("" if installed else _("Nothing is installed.")))
        locked = window.policy.reason if window.policy.models else ""
        explain(ui.modelsFolder, locked)

    def showSetup(self) -> None:
        """Fill the table of Check setup."""
        rows = checkSetup(self.window)
        fillTable(self.window.ui.setupTable, rows, mostRows=len(rows))
        for what, state in rows:
            self.window.log(f"{what}: {state}")
        self.update()

    def deleteModel(self) -> None:
        """Delete the chosen model of the models folder."""
        model = self.window.segment.model()
        if model is not None:
            model.path.unlink(missing_ok=True)
            self.window.log(_("Deleted {path}.").format(path=model.path))
            self.window.segment.refreshModels()

    def _modelsFolderChosen(self, path: str) -> None:
        if path and Path(path).is_dir():
            qt.QSettings().setValue("SegViz/modelsFolder", path)
            self.window.segment.refreshModels()

    def _openModels(self) -> None:
        folder = self.window.segment.userModels()
        folder.mkdir(parents=True, exist_ok=True)
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(folder)))

    def _install(self, ensure: Any) -> None:
        self.window.setState(State.Installing)
        self.window.segment.logic.stop()  # Windows replaces no library that a process has loaded
        try:
            ensure()
        except Exception as error:
            self.window.setState(State.Failed)
            self.window.showError(str(error))
            return
        finally:
            self._showPackages()
        self.window.setState(State.Idle)

    def _removeFederation(self) -> None:
        self.window.dependencies.removeFederation()
        self._showPackages()
        self.window.updateGUI()

    def _showPackages(self) -> None:
        ui, dependencies = self.window.ui, self.window.dependencies
        for label, missing, size in (
            (ui.segmentPackagesLabel, dependencies.missingSegment(), SIZES["segment"]),
            (ui.federationPackagesLabel, dependencies.missingFederation(), SIZES["federation"]),
        ):
            label.setText(_("not complete ({size})").format(size=size) if missing else _("installed"))
            label.toolTip = _("Missing: {names}").format(names=", ".join(missing)) if missing else ""
