"""The Join a federation section: from the site kit to live rounds, and a reason wherever a button is disabled."""

from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from SegVizSlicerLib import ConsentDialog as consent
from SegVizSlicerLib import SiteCases
from SegVizSlicerLib.CasesPanel import CasesPanel
from SegVizSlicerLib.Connection import testConnection
from SegVizSlicerLib.EstimatePanel import EstimatePanel
from SegVizSlicerLib.FederationLogic import FederationLogic, defaultCores
from SegVizSlicerLib.KitPanel import KitPanel
from SegVizSlicerLib.LabelSetTable import LabelSetTable
from SegVizSlicerLib.Question import askChoice
from SegVizSlicerLib.Report import Outcome
from SegVizSlicerLib.RoundsView import RoundsView
from SegVizSlicerLib.SiteKit import KitInfo, certificateOf
from SegVizSlicerLib.State import explain
from SegVizSlicerLib.StudyModels import StudyModels

FOLLOW_MS = 500

_AFTER_ROUND, _NOW = _("Leave after this round"), _("Leave now")


class FederationPanel:
    """Reads the widgets of the section, runs the logic, follows the site.

    `askConsent(kit, organs, parent)` and `ask(question, answers)` get a person's answer; tests hand in their own.
    """

    def __init__(
        self, window: Any, logic: FederationLogic, *, askConsent: Any = consent.askConsent, ask: Any = askChoice
    ) -> None:
        self.window, self.logic = window, logic
        self.askConsent, self.ask = askConsent, ask
        self._connected: tuple[str, ...] = ()
        self._gpuWasBusy = False
        self.models = StudyModels(window.segment.addModel)
        ui = window.ui
        self.labelSet = LabelSetTable(ui.labelSetSelector, ui.labelTable, window.updateGUI)
        self.rounds = RoundsView(ui)
        self.coordinator, self.cases, self.estimate = KitPanel(self), CasesPanel(self), EstimatePanel(self)
        ui.testConnectionButton.clicked.connect(lambda *_a: self.testConnection())
        ui.consentButton.clicked.connect(lambda *_a: self.showConsent())
        ui.withdrawButton.clicked.connect(lambda *_a: self.withdraw())
        ui.joinButton.clicked.connect(lambda *_a: self.joinOrLeave())
        self._timer = qt.QTimer()
        self._timer.setInterval(FOLLOW_MS)
        self._timer.timeout.connect(self.follow)

    def restore(self) -> None:
        """Fill in what the user chose last time, show the last site, and follow it while it is running."""
        ui, settings = self.window.ui, qt.QSettings()
        self.labelSet.offer(())
        ui.casesPath.setCurrentPath(str(settings.value("SegViz/cases", "") or ""))
        ui.coresSpinBox.setValue(int(settings.value("SegViz/cores", defaultCores())))
        self.coordinator.restore()
        if self.joined():
            self._timer.start()
        if self.logic.site is not None:
            self.follow()

    # -- what others ask

    @property
    def kit(self) -> KitInfo | None:
        """The site kit, once a good one is chosen."""
        return self.coordinator.kit

    def joined(self) -> bool:
        """Whether this computer's site is running."""
        return self.logic.joined()

    def gpuBusy(self) -> bool:
        """Whether a site works on the GPU this very moment; on a CPU both go on at once."""
        status = self.logic.status()
        return status.running and status.working and status.device == "cuda"

    def whyNotJoin(self) -> str:
        """Why Join is disabled, first reason first; empty when it is not."""
        policy = self.window.policy
        if self.logic.busy or self.joined():
            return ""
        if not policy.federation:
            return policy.problem or policy.reason
        if not self.labelSet.organs():
            return _("Choose a label set.")
        if why := self.cases.whyNot():
            return why
        if why := self.coordinator.whyNot():
            return why
        assert self.kit is not None
        if self._connected != (self.coordinator.address, certificateOf(self.kit)):
            return _("Test the connection first.")
        if not consent.consentDate(self.kit, self.labelSet.organs()):
            return _("Give consent first.")
        return ""

    # -- the steps

    def testConnection(self) -> None:
        """Try the coordinator's address with the kit's certificate."""
        assert self.kit is not None
        label, button = self.window.ui.connectionLabel, self.window.ui.testConnectionButton
        address, certificate = self.coordinator.address, certificateOf(self.kit)
        label.setText(_("Connecting to {address}...").format(address=address))
        button.setEnabled(False)

        def finish(problem: str) -> None:
            self._connected = () if problem else (address, certificate)
            label.setText(problem or _("The coordinator answers and its certificate is right."))
            if problem:
                self.window.showError(problem)
            self.window.updateGUI()

        testConnection(address, certificate, finish)

    def showConsent(self) -> None:
        """Ask for consent; the answer is kept until something in it changes or it is withdrawn."""
        assert self.kit is not None
        organs = self.labelSet.organs()
        if self.askConsent(self.kit, organs, self.window.ui.consentButton.window()):
            consent.storeConsent(self.kit, organs)
        self.window.updateGUI()

    def withdraw(self) -> None:
        """Withdraw consent: a running site leaves, and its folder with all its state is deleted."""
        assert self.kit is not None
        kit = self.kit
        consent.withdrawConsent()
        if self.joined():
            self.logic.leave(lambda _outcome: self._forgetSite(kit))
        else:
            self._forgetSite(kit)
        self.window.updateGUI()

    def joinOrLeave(self) -> None:
        """The one button: join, stop joining, or leave."""
        try:
            if self.logic.busy:
                self.logic.cancel()
            elif self.joined():
                self._leave()
            else:
                self._join()
        except Exception as error:
            self.say(str(error), failed=True)
        self.window.updateGUI()

    def follow(self) -> None:
        """Show what the site has written since the last look."""
        status = self.logic.status()
        if not self.logic.busy:
            self.rounds.showStatus(status)
        self.models.importNew(self.logic.metaModels())
        ended = not status.running and not self.logic.busy
        if ended:
            self._timer.stop()
        if ended or self._gpuWasBusy != self.gpuBusy():
            self._gpuWasBusy = self.gpuBusy()
            self.window.updateGUI()

    def cleanup(self, *, closing: bool = True) -> None:
        """A check or a join in progress ends; a site that is online goes on, unless its user wants it to leave."""
        self._timer.stop()
        self.logic.kill()
        if closing and self.joined():
            question = _("This site takes part in a federation. What shall it do after Slicer has closed?")
            answer = self.ask(question, (_("Go on"), _AFTER_ROUND, _NOW))
            if answer == 1:
                self.logic.leaveAfterRound()
            elif answer == 2:
                self.logic.leave(lambda _outcome: None)

    # -- what is shown

    def update(self) -> None:
        """Buttons, tooltips and labels for the present state."""
        ui, kit, organs = self.window.ui, self.kit, self.labelSet.organs()
        busy, joined = self.logic.busy, self.joined()
        running = _("Leave the federation first.") if joined else ""
        running = _("Please wait until the running command has ended.") if busy else running
        noOrgans = "" if organs else _("Choose a label set.")
        noKit = "" if kit else _("Choose the coordinator's CA certificate.")
        noAddress = "" if self.coordinator.address else _("Enter the coordinator address.")
        ui.joinButton.setText(_("Cancel") if busy else _("Leave") if joined else _("Join"))
        leave = _("Leave; the heads stay with the coordinator, and you can join again.") if joined else ""
        explain(ui.joinButton, self.whyNotJoin(), leave)
        self.cases.update(running, noOrgans)
        noKitFile = "" if kit else _("Choose the site kit first.")
        self.estimate.update(running or noOrgans or self.cases.whyNot() or noKitFile)
        explain(ui.testConnectionButton, running or noAddress or noKit)
        explain(ui.consentButton, noOrgans or noKit)
        date = consent.consentDate(kit, organs) if kit else ""
        ui.consentLabel.setText(_("Given on {date}.").format(date=date) if date else _("Not given."))
        explain(ui.withdrawButton, "" if date else _("There is no consent to withdraw."))
        self.rounds.update()
        self._lockFields(running)

    def _lockFields(self, running: str) -> None:
        ui, kit, policy = self.window.ui, self.kit, self.window.policy
        barred = "" if policy.federation else policy.reason
        self.coordinator.update(running, barred)
        for field in (ui.casesPath, ui.labelTable, ui.coresSpinBox):
            field.enabled = not (running or barred)
        limit = ", ".join(kit.allow) if kit else ""
        allowed = _("The coordinator's kit allows {organs} only.").format(organs=limit) if limit else ""
        explain(ui.labelSetSelector, barred or allowed or running)

    # -- helpers

    def _join(self) -> None:
        ui, dependencies = self.window.ui, self.window.dependencies
        self.say(_("Starting..."))
        dependencies.ensureFederation()
        self.logic.join(
            self.coordinator.toJoin(),
            Path(self.cases.folder),
            SiteCases.labelValues(self.labelSet.annotations()),
            cores=ui.coresSpinBox.value,
            device=self.window.device(),
            flwrFolder=dependencies.flwrFolder if dependencies.flwrVersion() else None,
            onFinished=self._joinEnded,
            onProgress=self._progress,
            onLog=self.window.log,
        )
        qt.QSettings().setValue("SegViz/cores", ui.coresSpinBox.value)
        self._timer.start()

    def _leave(self) -> None:
        """At once between two rounds; within one, as the user chooses. The second click does not ask again."""
        status = self.logic.status()
        if status.stage and status.state != "leaving":
            question = _("This site is in the middle of a round. Leaving now gives up its work of this round.")
            answer = self.ask(question, (_AFTER_ROUND, _NOW))
            if answer == 0:
                self.logic.leaveAfterRound()
            if answer != 1:
                return
        self.say(_("Leaving..."))
        self.logic.leave(self._left)

    def _joinEnded(self, outcome: Outcome) -> None:
        if outcome.cancelled:
            self.say(_("Joining was cancelled."))
        elif not outcome.ok:
            self.say(f"{outcome.message} {outcome.hint}".strip(), failed=True)
        self.window.updateGUI()

    def _left(self, outcome: Outcome) -> None:
        self.rounds.showStatus(self.logic.status())
        text = _("Left. The heads stay with the coordinator; join again to go on.")
        self.say(text if outcome.ok else f"{outcome.message} {outcome.hint}".strip(), failed=not outcome.ok)
        self._timer.stop()
        self.window.updateGUI()

    def _forgetSite(self, kit: KitInfo) -> None:
        try:
            self.logic.forgetSite(kit)
        except OSError as error:
            text = _("Consent withdrawn, but {path} could not be deleted ({why}): delete it by hand.")
            self.say(text.format(path=self.logic.siteFolder(kit), why=error.strerror or error), failed=True)
        else:
            self.say(_("Consent withdrawn; the site's state was deleted."))
        self.rounds.showStatus(self.logic.status())
        self.window.updateGUI()

    def _progress(self, stage: str, done: int, total: int) -> None:
        self.rounds.showProgress(stage, done, total)

    def say(self, text: str, *, failed: bool = False) -> None:
        """One sentence under the buttons; a failure goes into the log too."""
        self.window.ui.federationStatus.setText(text)
        if failed:
            self.window.showError(text)
