"""The Join a federation section: from the site kit to live rounds, and a reason wherever a button is disabled."""

import shutil
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from SegVizSlicerLib import ConsentDialog as consent
from SegVizSlicerLib import SiteCases
from SegVizSlicerLib.Connection import splitAddress, testConnection
from SegVizSlicerLib.CoreProcess import Outcome
from SegVizSlicerLib.FederationLogic import FederationLogic, defaultCores
from SegVizSlicerLib.HistoryPlot import HistoryPlot
from SegVizSlicerLib.SiteKit import KitInfo, assembleKit, certificateOf, readKit
from SegVizSlicerLib.SiteRecord import SiteStatus
from SegVizSlicerLib.State import explain

FOLLOW_MS = 500
HISTORY_COLUMNS = 7
OTHER = "other"

STAGES = {
    "declare": _("Telling the coordinator about this site"),
    "train-local": _("Training on this site's organs"),
    "expert": _("Sending this site's expert"),
    "label": _("Labelling the organs of other sites"),
    "train": _("Training together"),
    "tune": _("Tuning the heads"),
    "evaluate": _("Measuring on the validation cases"),
    "cases": _("Reading the cases"),
}


class FederationPanel:
    """Reads the widgets of the section, runs the logic, follows the site."""

    def __init__(self, window: Any, logic: FederationLogic, *, askConsent: Any = consent.askConsent) -> None:
        self.window, self.logic = window, logic
        self.askConsent = askConsent
        self.kit: KitInfo | None = None
        self._kitProblem = ""
        self._checked: tuple[Any, ...] = ()
        self._badCases = 0
        self._connected: tuple[str, str] = ("", "")
        self._plot = HistoryPlot()
        self._imported: set[Path] = set()
        ui = window.ui
        ui.kitPath.currentPathChanged.connect(lambda path: self.chooseKit(Path(path)))
        for field in (ui.certificatePath, ui.keyPath):
            field.currentPathChanged.connect(lambda _path: self._choosePart())
        ui.addressEdit.textChanged.connect(lambda _text: window.updateGUI())
        ui.casesPath.currentPathChanged.connect(self._casesChosen)
        ui.labelSetSelector.currentIndexChanged.connect(lambda *_a: self._labelSetChosen())
        ui.labelTable.itemChanged.connect(lambda _item: window.updateGUI())
        ui.addCaseButton.clicked.connect(lambda *_a: self.addCase())
        ui.checkCasesButton.clicked.connect(lambda *_a: self.checkCases())
        ui.testConnectionButton.clicked.connect(lambda *_a: self.testConnection())
        ui.consentButton.clicked.connect(lambda *_a: self.showConsent())
        ui.withdrawButton.clicked.connect(lambda *_a: self.withdraw())
        ui.joinButton.clicked.connect(lambda *_a: self.joinOrLeave())
        ui.plotButton.clicked.connect(lambda *_a: self._plot.show(self.logic.status()))
        for table in (ui.labelTable, ui.casesTable, ui.historyTable):
            table.verticalHeader().hide()
            table.horizontalHeader().setStretchLastSection(True)
        for widget in (ui.casesTable, ui.roundProgressBar, ui.stepProgressBar, ui.historyTable, ui.plotButton):
            widget.setVisible(False)
        self._timer = qt.QTimer()
        self._timer.setInterval(FOLLOW_MS)
        self._timer.timeout.connect(self.follow)

    # -- what the user chose

    def organs(self) -> tuple[str, ...]:
        """Names of the organs in the label set table."""
        return tuple(row[0] for row in self._labelRows() if row[0])

    def annotations(self) -> list[SiteCases.Annotation]:
        """The label set with this site's own values and names.

        Raises:
            ValueError: a field of the table cannot be read.
        """
        return [SiteCases.parseAnnotation(organ, text) for organ, text in self._labelRows()]

    def addressText(self) -> str:
        """The coordinator's address as shown."""
        return str(self.window.ui.addressEdit.text)

    def certificateText(self) -> str:
        """The certificate in words, or empty."""
        if self.kit is None:
            return ""
        text = _("{fingerprint}, {days:.0f} more days")
        return text.format(fingerprint=consent.readableFingerprint(self.kit.fingerprint), days=self.kit.daysLeft)

    def locks(self) -> set[str]:
        """Reasons for which fields are locked by an administrator."""
        policy = self.window.policy
        return (
            {policy.reason} if policy.address or policy.certificate or policy.models or not policy.federation else set()
        )

    def joined(self) -> bool:
        """Whether this computer's site is running."""
        return self.logic.joined()

    def gpuBusy(self) -> bool:
        """Whether a site trains on the GPU this very moment; on a CPU both go on at once."""
        return (
            bool(shutil.which("nvidia-smi")) and self.joined() and self.logic.status().stage in ("train", "train-local")
        )

    # -- the steps

    def chooseKit(self, path: Path) -> None:
        """Read a kit, or its kit.json when the three parts come one by one."""
        self.kit, self._kitProblem, self._connected = None, "", ("", "")
        if path.suffix == ".json":
            self._choosePart()
            return
        if str(path) not in ("", "."):
            try:
                self._useKit(readKit(path))
            except ValueError as error:
                self._kitProblem = str(error)
        self.window.updateGUI()

    def addCase(self) -> None:
        """Export the shown pair into the cases folder."""
        ui = self.window.ui
        try:
            if not ui.casesPath.currentPath:
                raise ValueError(_("Choose a cases folder first."))
            image = SiteCases.addCase(
                Path(ui.casesPath.currentPath),
                ui.inputSelector.currentNode(),
                ui.outputSelector.currentNode(),
                self.annotations(),
            )
        except (ValueError, OSError) as error:
            self._say(str(error), failed=True)
            return
        self._checked = ()
        self._say(_("Added {name}: check the cases again.").format(name=image.name))
        self.window.updateGUI()

    def checkCases(self) -> None:
        """Have every case read, and show why one cannot be trained on."""
        try:
            values = SiteCases.labelValues(self.annotations())
            self.window.dependencies.ensureSegment()
            cases = Path(self.window.ui.casesPath.currentPath)
            self.logic.check(
                cases, values, onFinished=self._casesChecked, onProgress=self._progress, onLog=self.window.log
            )
        except Exception as error:
            self._say(str(error), failed=True)
        self.window.updateGUI()

    def testConnection(self) -> None:
        """Try the coordinator's address with the kit's certificate."""
        assert self.kit is not None
        address, certificate = self.addressText(), certificateOf(self.kit)
        self.window.ui.connectionLabel.setText(_("Connecting to {address}...").format(address=address))
        self.window.ui.testConnectionButton.setEnabled(False)

        def finish(problem: str) -> None:
            self._connected = ("", "") if problem else (address, certificate)
            text = problem or _("The coordinator answers and its certificate is right.")
            self.window.ui.connectionLabel.setText(text)
            if problem:
                self.window.log(problem)
            self.window.updateGUI()

        testConnection(address, certificate, finish)

    def showConsent(self) -> None:
        """Ask for consent; the answer is kept until something in it changes or it is withdrawn."""
        assert self.kit is not None
        if self.askConsent(self.kit, self.organs(), self.window.ui.consentButton.window()):
            consent.storeConsent(self.kit, self.organs())
        self.window.updateGUI()

    def withdraw(self) -> None:
        """Withdraw consent: a running site leaves, and its folder with all its state is deleted."""
        consent.withdrawConsent()
        site = self.logic.site

        def delete(_outcome: Any = None) -> None:
            if site is not None:
                shutil.rmtree(site, ignore_errors=True)
            self.logic.site = None
            self._say(_("Consent withdrawn; the site's state was deleted."))
            self._showStatus(SiteStatus())
            self.window.updateGUI()

        if self.joined():
            self.logic.leave(onFinished=delete, onLog=self.window.log)
        else:
            delete()
        self.window.updateGUI()

    def joinOrLeave(self) -> None:
        """The one button: join, stop joining, or leave."""
        try:
            if self.logic.busy:
                self.logic.cancel()
            elif self.joined():
                self._say(_("Leaving..."))
                self.logic.leave(onFinished=self._left, onLog=self.window.log)
            else:
                self._join()
        except Exception as error:
            self._say(str(error), failed=True)
        self.window.updateGUI()

    def whyNotJoin(self) -> str:
        """Why Join is disabled, first reason first; empty when it is not."""
        if self.logic.busy or self.joined():
            return ""
        if not self.window.policy.federation:
            return self.window.policy.problem or self.window.policy.reason
        if not self.organs():
            return _("Choose a label set.")
        if not self.window.ui.casesPath.currentPath:
            return _("Add training cases.")
        if not self._checked or self._checked != self._casesKey():
            return _("Check the cases first.")
        if self._badCases:
            text = (
                _("{count} case has a problem: see the table.")
                if self._badCases == 1
                else _("{count} cases have problems: see the table.")
            )
            return text.format(count=self._badCases)
        if not self.addressText():
            return _("Enter the coordinator address.")
        if self.kit is None:
            return _("Choose the coordinator's CA certificate.")
        if self._connected != (self.addressText(), certificateOf(self.kit)):
            return _("Test the connection first.")
        if not consent.consentDate(self.kit, self.organs()):
            return _("Give consent first.")
        return ""

    def follow(self) -> None:
        """Show what the site has written since the last look."""
        status = self.logic.status()
        self._showStatus(status)
        if not status.running and not self.logic.busy:
            self._timer.stop()
            self.window.updateGUI()

    def cleanup(self) -> None:
        """The module goes away: a check or a join in progress ends, a site that is online goes on."""
        self._timer.stop()
        self.logic.kill()

    def update(self) -> None:
        """Buttons, tooltips and labels for the present state."""
        ui, policy, kit = self.window.ui, self.window.policy, self.kit
        busy, joined = self.logic.busy, self.joined()
        ui.joinButton.setText(_("Cancel") if busy else _("Leave") if joined else _("Join"))
        explain(ui.joinButton, self.whyNotJoin(), _("Leave; the heads stay, and you can join again.") if joined else "")
        running = (
            _("Leave the federation first.")
            if joined
            else _("Please wait until the running command has ended.")
            if busy
            else ""
        )
        noOrgans = "" if self.organs() else _("Choose a label set.")
        noCases = "" if ui.casesPath.currentPath else _("Choose a cases folder first.")
        explain(
            ui.addCaseButton,
            noOrgans or noCases,
            _("Export the input CT and the output segmentation as a training case."),
        )
        explain(ui.checkCasesButton, running or noOrgans or noCases)
        noAddress = "" if self.addressText() else _("Enter the coordinator address.")
        noKit = "" if kit else _("Choose the coordinator's CA certificate.")
        explain(ui.testConnectionButton, running or noAddress or noKit)
        explain(ui.consentButton, noOrgans or noKit)
        date = consent.consentDate(kit, self.organs()) if kit else ""
        ui.consentLabel.setText(_("Given on {date}.").format(date=date) if date else _("Not given."))
        explain(ui.withdrawButton, "" if date else _("There is no consent to withdraw."))
        ui.kitLabel.setText(kit.text if kit else self._kitProblem)
        ui.estimateLabel.setText(self._estimate())
        for field in (ui.kitPath, ui.casesPath, ui.labelTable, ui.coresSpinBox):
            field.enabled = not running
        explain(ui.addressEdit, policy.reason if policy.address else running)
        for field in (ui.certificatePath, ui.keyPath):
            locked = policy.reason if policy.certificate and field is ui.certificatePath else running
            explain(field, locked)
        limited = kit is not None and bool(kit.allow)
        locked = _("The coordinator's kit allows {organs} only.").format(organs=", ".join(kit.allow)) if limited else ""
        explain(ui.labelSetSelector, locked or running)

    # -- helpers

    def _useKit(self, kit: KitInfo) -> None:
        self.kit = kit
        policy, ui = self.window.policy, self.window.ui
        ui.addressEdit.setText(policy.address or kit.address)
        self._fillLabelSets(kit.allow)
        qt.QSettings().setValue("SegViz/kit", str(kit.path))

    def _choosePart(self) -> None:
        """With kit.json, certificate and key all named, they are as good as a kit."""
        ui = self.window.ui
        paths = [Path(field.currentPath) for field in (ui.kitPath, ui.certificatePath, ui.keyPath)]
        if all(path.is_file() for path in paths) and paths[0].suffix == ".json":
            try:
                folder = self.window.folder / "kits"
                self._useKit(assembleKit(*paths, address=self.addressText(), folder=folder))
            except (OSError, ValueError) as error:
                self._kitProblem = str(error)
        self.window.updateGUI()

    def _fillLabelSets(self, allow: tuple[str, ...]) -> None:
        from segviz_core.labels import ORGANS

        selector = self.window.ui.labelSetSelector
        blocked = selector.blockSignals(True)
        selector.clear()
        if allow:
            titles = [ORGANS[organ].title if organ in ORGANS else organ for organ in allow]
            selector.addItem(", ".join(titles), ",".join(allow))
        else:
            selector.addItem(_("Choose..."), "")
            for organ in ORGANS.values():
                selector.addItem(organ.title, organ.name)
            selector.addItem(_("Several of these"), ",".join(ORGANS))
            selector.addItem(_("Another organ..."), OTHER)
        selector.blockSignals(blocked)
        self._labelSetChosen()

    def _labelSetChosen(self) -> None:
        """One row per organ; with "several" an emptied row is left out, "another" starts with a blank one."""
        from segviz_core.labels import ORGANS

        ui = self.window.ui
        chosen = str(ui.labelSetSelector.currentData or "")
        organs = [""] if chosen == OTHER else [organ for organ in chosen.split(",") if organ]
        blocked = ui.labelTable.blockSignals(True)
        ui.labelTable.setRowCount(len(organs))
        for row, organ in enumerate(organs):
            name = qt.QTableWidgetItem(organ)
            if organ:
                name.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
            default = f"{ORGANS[organ].value}, {ORGANS[organ].title}" if organ in ORGANS else ""
            ui.labelTable.setItem(row, 0, name)
            ui.labelTable.setItem(row, 1, qt.QTableWidgetItem(default))
        ui.labelTable.blockSignals(blocked)
        self._checked = ()
        self.window.updateGUI()

    def _labelRows(self) -> list[tuple[str, str]]:
        table = self.window.ui.labelTable
        rows = [(table.item(row, 0).text(), table.item(row, 1).text()) for row in range(table.rowCount)]
        return [(organ.strip(), text.strip()) for organ, text in rows if organ.strip() and text.strip()]

    def _casesKey(self) -> tuple[Any, ...]:
        return (str(self.window.ui.casesPath.currentPath), tuple(self._labelRows()))

    def _casesChosen(self, path: str) -> None:
        qt.QSettings().setValue("SegViz/cases", path)
        self._checked = ()
        self.window.updateGUI()

    def _casesChecked(self, outcome: Outcome) -> None:
        ui = self.window.ui
        if "cases" not in outcome.result:
            self._say(f"{outcome.message} {outcome.hint}".strip(), failed=not outcome.cancelled)
            self.window.updateGUI()
            return
        rows = outcome.result["cases"]
        ui.casesTable.setRowCount(len(rows))
        segments = ", ".join(self.organs())
        for row, case in enumerate(rows):
            cells = (case["name"], Path(case["image"]).name, segments, _("ok") if case["ok"] else case["why"])
            for column, text in enumerate(cells):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(text)
                ui.casesTable.setItem(row, column, item)
        ui.casesTable.setVisible(True)
        self._badCases = sum(not case["ok"] for case in rows)
        self._checked = self._casesKey()
        self._say(
            _("{good} of {all} cases are fit for training.").format(good=len(rows) - self._badCases, all=len(rows))
        )
        self.window.updateGUI()

    def _join(self) -> None:
        ui, dependencies = self.window.ui, self.window.dependencies
        assert self.kit is not None
        self._say(_("Starting..."))
        dependencies.ensureFederation()
        kit = self.kit
        splitAddress(self.addressText())
        self.logic.join(
            kit,
            Path(ui.casesPath.currentPath),
            SiteCases.labelValues(self.annotations()),
            cores=ui.coresSpinBox.value,
            flwrFolder=dependencies.flwrFolder if dependencies.flwrVersion() else None,
            onFinished=self._joinEnded,
            onProgress=self._progress,
            onLog=self.window.log,
        )
        qt.QSettings().setValue("SegViz/cores", ui.coresSpinBox.value)

    def _joinEnded(self, outcome: Outcome) -> None:
        if outcome.ok:
            self._timer.start()
        elif outcome.cancelled:
            self._say(_("Joining was cancelled."))
        else:
            self._say(f"{outcome.message} {outcome.hint}".strip(), failed=True)
        self.window.updateGUI()

    def _left(self, outcome: Outcome) -> None:
        text = _("Left. The heads stay with the coordinator; join again to go on.")
        self._say(text if outcome.ok else f"{outcome.message} {outcome.hint}".strip(), failed=not outcome.ok)
        self._showStatus(self.logic.status(), keepText=True)
        self.window.updateGUI()

    def _progress(self, stage: str, done: int, total: int) -> None:
        bar = self.window.ui.stepProgressBar
        bar.setVisible(total > 1)
        bar.setMaximum(max(1, total))
        bar.setValue(done)
        self._say(STAGES.get(stage, stage))

    def _showStatus(self, status: SiteStatus, *, keepText: bool = False) -> None:
        ui = self.window.ui
        if not keepText and status.state:
            self.window.ui.federationStatus.setText(_statusText(status))
        active = status.running and status.total > 0
        ui.stepProgressBar.setVisible(active)
        if active:
            ui.stepProgressBar.setMaximum(status.total)
            ui.stepProgressBar.setValue(status.done)
            ui.stepProgressBar.setFormat(_("step %v of %m"))
        ui.historyTable.setVisible(bool(status.rounds))
        ui.plotButton.setVisible(bool(status.rounds))
        ui.historyTable.setRowCount(len(status.rounds))
        for row, entry in enumerate(reversed(status.rounds.values())):
            dice = ", ".join(f"{organ} {value:.3f}" for organ, value in entry.dice.items())
            loss = "" if entry.loss is None else f"{entry.loss:.4f}"
            steps = ", ".join(dict.fromkeys(entry.steps))
            cells = (
                entry.number,
                steps,
                loss,
                dice,
                f"{entry.mbSent:.1f}",
                f"{entry.mbReceived:.1f}",
                f"{entry.seconds:.0f} s",
            )
            for column, value in enumerate(cells):
                ui.historyTable.setItem(row, column, qt.QTableWidgetItem(str(value)))
        self._plot.update(status)
        self._importModel()

    def _importModel(self) -> None:
        """The meta-model of a finished study goes into the Segment list by itself."""
        if self.logic.site is None:
            return
        for path in self.logic.site.glob("*.safetensors"):
            if path.name.startswith("meta_model") and path not in self._imported:
                self._imported.add(path)
                self.window.segment.addModel(path)

    def _estimate(self) -> str:
        rounds = [entry for entry in self.logic.status().rounds.values() if entry.seconds and entry.mbSent]
        if not rounds:
            return ""
        seconds = sum(entry.seconds for entry in rounds) / len(rounds)
        sent = sum(entry.mbSent for entry in rounds) / len(rounds)
        return _("About {seconds:.0f} s and {sent:.0f} MB per round.").format(seconds=seconds, sent=sent)

    def _say(self, text: str, *, failed: bool = False) -> None:
        self.window.ui.federationStatus.setText(text)
        if failed:
            self.window.showError(text)

    def restore(self) -> None:
        """Fill in what the user chose last time, and follow a site that is still running."""
        self._fillLabelSets(())
        ui, settings, policy = self.window.ui, qt.QSettings(), self.window.policy
        ui.casesPath.setCurrentPath(str(settings.value("SegViz/cases", "") or ""))
        ui.coresSpinBox.setValue(int(settings.value("SegViz/cores", defaultCores())))
        kit = str(settings.value("SegViz/kit", "") or "")
        ui.kitPath.setCurrentPath(kit)
        if kit and Path(kit).exists():
            try:
                self._useKit(readKit(Path(kit)))
            except ValueError as error:
                self._kitProblem = str(error)
        if policy.address:
            ui.addressEdit.setText(policy.address)
        if policy.certificate:
            ui.certificatePath.setCurrentPath(policy.certificate)
        if self.joined():
            self._timer.start()
            self.follow()


def _statusText(status: SiteStatus) -> str:
    if status.stage and status.total:
        text = _("Round {round}: {what}, step {done} of {total}")
        what = STAGES.get(status.stage, status.stage)
        return text.format(round=status.round, what=what, done=status.done, total=status.total)
    return f"{status.message} {status.hint}".strip()
