"""The training cases in the Join section: their folder, what is added to it, and the table that says why not."""

from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from SegVizSlicerLib import SiteCases
from SegVizSlicerLib.Report import Outcome
from SegVizSlicerLib.State import explain, showIn
from SegVizSlicerLib.Tables import fillTable, prepareTable


class CasesPanel:
    """Works with the widgets, the logic and the label set of `federation`, the panel around it."""

    def __init__(self, federation: Any) -> None:
        self._federation, self._window = federation, federation.window
        self._checked: tuple[Any, ...] = ()
        self._bad = 0
        ui = self._window.ui
        ui.casesPath.currentPathChanged.connect(self._chosen)
        ui.addCaseButton.clicked.connect(lambda *_a: self.add())
        ui.checkCasesButton.clicked.connect(lambda *_a: self.check())
        prepareTable(ui.casesTable)

    @property
    def folder(self) -> str:
        """The cases folder as shown, or empty."""
        return str(self._window.ui.casesPath.currentPath)

    def whyNot(self) -> str:
        """Why these cases cannot be trained on yet, or empty."""
        if not self.folder:
            return _("Add training cases.")
        if self._checked != self._key():
            return _("Check the cases first.")
        if self._bad:
            one, many = _("1 case has a problem: see the table."), _("{count} cases have problems: see the table.")
            return one if self._bad == 1 else many.format(count=self._bad)
        return ""

    def add(self) -> None:
        """Export the shown pair into the cases folder."""
        ui = self._window.ui
        pair = (ui.inputSelector.currentNode(), ui.outputSelector.currentNode())
        try:
            image = SiteCases.addCase(Path(self.folder), *pair, self._federation.labelSet.annotations())
        except (ValueError, OSError) as error:
            self._federation.say(str(error), failed=True)
            return
        self._checked = ()
        self._federation.say(_("Added {name}: check the cases again.").format(name=image.name))
        self._window.updateGUI()

    def check(self) -> None:
        """Have every case read, and show why one cannot be trained on."""
        federation, window = self._federation, self._window
        callbacks = {"onFinished": self._ended, "onProgress": federation.rounds.showProgress, "onLog": window.log}
        try:
            values = SiteCases.labelValues(federation.labelSet.annotations())
            window.dependencies.ensureSegment()
            federation.logic.check(Path(self.folder), values, **callbacks)
        except Exception as error:
            federation.say(str(error), failed=True)
        window.updateGUI()

    def update(self, running: str, noOrgans: str) -> None:
        """Buttons and the table for the present state; `running` and `noOrgans` are reasons, or empty."""
        ui = self._window.ui
        noCases = "" if self.folder else _("Choose a cases folder first.")
        addCase = _("Export the input CT and the output segmentation as a training case.")
        explain(ui.addCaseButton, noOrgans or noCases, addCase)
        explain(ui.checkCasesButton, running or noOrgans or noCases)
        showIn(ui.federationSection, ui.casesTable, ui.casesTable.rowCount > 0)

    def _key(self) -> tuple[Any, ...]:
        return (self.folder, self._federation.labelSet.rows())

    def _chosen(self, path: str) -> None:
        qt.QSettings().setValue("SegViz/cases", path)
        self._window.updateGUI()

    def _ended(self, outcome: Outcome) -> None:
        if "cases" in outcome.result:
            self._show(outcome.result["cases"])
        else:
            self._federation.say(f"{outcome.message} {outcome.hint}".strip(), failed=not outcome.cancelled)
        self._window.updateGUI()

    def _show(self, cases: list[dict[str, Any]]) -> None:
        segments = ", ".join(self._federation.labelSet.organs())
        rows = [(case["name"], Path(case["image"]).name, segments, case["why"] or _("ok")) for case in cases]
        fillTable(self._window.ui.casesTable, rows)
        self._bad = sum(not case["ok"] for case in cases)
        self._checked = self._key()
        text = _("{good} of {count} cases are fit for training.")
        self._federation.say(text.format(good=len(cases) - self._bad, count=len(cases)))
