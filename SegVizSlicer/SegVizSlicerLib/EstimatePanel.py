"""What joining would cost this computer, before it joins: a few real training steps, then a sentence."""

from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from SegVizSlicerLib import SiteCases
from SegVizSlicerLib.Report import Outcome
from SegVizSlicerLib.RoundsView import estimateText
from SegVizSlicerLib.State import explain


class EstimatePanel:
    """Works with the widgets, the logic and the kit of `federation`, the panel around it."""

    def __init__(self, federation: Any) -> None:
        self._federation, self._window = federation, federation.window
        self._sentence, self._of = "", ()
        self._window.ui.estimateButton.clicked.connect(lambda *_a: self.start())

    def start(self) -> None:
        """Train a few steps on the first cases; nothing leaves this computer."""
        federation, window = self._federation, self._window
        key = self._key()

        def ended(outcome: Outcome) -> None:
            if outcome.ok:
                self._sentence, self._of = outcome.result["sentence"], key
                federation.say(_("Estimated from a few training steps on this computer."))
            else:
                federation.say(f"{outcome.message} {outcome.hint}".strip(), failed=not outcome.cancelled)
            window.updateGUI()

        try:
            window.dependencies.ensureFederation()
            federation.logic.estimate(
                federation.kit,
                Path(federation.cases.folder),
                SiteCases.labelValues(federation.labelSet.annotations()),
                cores=window.ui.coresSpinBox.value,
                device=window.device(),
                onFinished=ended,
                onProgress=federation.rounds.showProgress,
                onLog=window.log,
            )
        except Exception as error:
            federation.say(str(error), failed=True)
        window.updateGUI()

    def update(self, whyNot: str) -> None:
        """The button, and the sentence: of the rounds so far where there are any, else the estimate."""
        ui = self._window.ui
        what = _("Train a few steps on your cases and say how long a round will take. Nothing leaves this computer.")
        explain(ui.estimateButton, whyNot, what)
        measured = estimateText(self._federation.logic.status())
        ui.estimateLabel.setText(measured or (self._sentence if self._of == self._key() else ""))

    def _key(self) -> tuple[Any, ...]:
        federation = self._federation
        study = federation.kit.study if federation.kit else ""
        computer = (self._window.ui.coresSpinBox.value, self._window.device())
        return (study, federation.cases.folder, federation.labelSet.rows(), *computer)
