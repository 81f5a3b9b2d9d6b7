"""What a joined site is doing: a sentence, two bars, the history as a table and a plot."""

from typing import Any

from slicer.i18n import tr as _

from SegVizSlicerLib.Hints import windowHint
from SegVizSlicerLib.HistoryPlot import HistoryPlot
from SegVizSlicerLib.SiteRecord import Round, SiteStatus
from SegVizSlicerLib.State import showIn
from SegVizSlicerLib.Tables import fillTable, prepareTable

STAGES = {
    "declare": _("telling the coordinator about this site"),
    "train-local": _("training on this site's organs"),
    "expert": _("sending this site's expert"),
    "label": _("labelling the organs of other sites"),
    "train-head": _("training the head of a new organ"),
    "train": _("training together"),
    "tune": _("tuning the heads"),
    "evaluate": _("measuring on the validation cases"),
    "deliver": _("receiving the finished model"),
    "cases": _("reading the cases"),
    "estimate": _("measuring a few training steps"),
    "check": _("reading the cases"),
}
"""Words for the stages of the protocol; what a newer core adds is shown as it is."""


class RoundsView:
    """Shows one SiteStatus after the other."""

    def __init__(self, ui: Any) -> None:
        self._ui, self._plot = ui, HistoryPlot()
        self._status = SiteStatus()
        self._stepping = False
        prepareTable(ui.historyTable)
        ui.plotButton.clicked.connect(lambda *_args: self._plot.show(self._status))

    def showStatus(self, status: SiteStatus) -> None:
        """The sentence, the bars, and every round so far, newest first."""
        self._status = status
        ui = self._ui
        if status.state:
            ui.federationStatus.setText(statusText(status))
        ui.onlineLabel.setText(onlineText(status))
        self._showStep(status.done, status.total if status.running else 0)
        fillTable(ui.historyTable, [_cells(entry) for entry in reversed(status.rounds.values())])
        self._plot.update(status)
        self.update()

    def update(self) -> None:
        """Show what there is to show; an opened section makes everything in it visible."""
        ui = self._ui
        showIn(ui.federationSection, ui.stepProgressBar, self._stepping)
        for widget in (ui.historyTable, ui.plotButton):
            showIn(ui.federationSection, widget, bool(self._status.rounds))

    def showProgress(self, stage: str, done: int, total: int) -> None:
        """Progress of a command, before the site is online; unknown stages are sentences already."""
        self._showStep(done, total if total > 1 else 0)
        self._ui.federationStatus.setText(_sentence(STAGES.get(stage, stage)))

    def _showStep(self, done: int, total: int) -> None:
        bar = self._ui.stepProgressBar
        self._stepping = total > 0
        showIn(self._ui.federationSection, bar, self._stepping)
        bar.setMaximum(max(1, total))
        bar.setValue(done)
        bar.setFormat(_("step %v of %m"))


def statusText(status: SiteStatus) -> str:
    """What happens now, in one sentence."""
    if status.running and status.stage:
        what = STAGES.get(status.stage, status.stage)
        if not status.round:
            return _sentence(f"{what}.")
        number = f"{status.round}/{status.planned}" if status.planned else str(status.round)
        text = _("Round {round}: {what}, step {done} of {total}.")
        text = text.format(round=number, what=what, done=status.done, total=status.total)
        return f"{text} {status.note}".strip()
    return f"{status.message} {windowHint(status.hint)}".strip()


def onlineText(status: SiteStatus) -> str:
    """Who takes part, as the coordinator said when the round began; empty before the first."""
    if not (status.running and status.members):
        return ""
    text = _("{online} of {members} sites online; in this round: {names}.")
    return text.format(online=status.online, members=status.members, names=", ".join(status.sites) or "-")


def estimateText(status: SiteStatus) -> str:
    """Time and traffic per round, from the rounds that this site has seen; empty before the first."""
    rounds = [entry for entry in status.rounds.values() if entry.seconds and entry.mbSent]
    if not rounds:
        return ""
    seconds = sum(entry.seconds for entry in rounds) / len(rounds)
    sent = sum(entry.mbSent for entry in rounds) / len(rounds)
    return _("About {seconds:.0f} s and {sent:.1f} MB sent per round.").format(seconds=seconds, sent=sent)


def _cells(entry: Round) -> tuple[str, ...]:
    loss = "" if entry.loss is None else f"{entry.loss:.4f}"
    dice = ", ".join(f"{organ} {value:.3f}" for organ, value in entry.dice.items())
    steps = ", ".join(dict.fromkeys(entry.steps))
    sizes = (f"{entry.mbSent:.1f}", f"{entry.mbReceived:.1f}")
    return (str(entry.number), steps, loss, dice, *sizes, f"{entry.seconds:.0f} s")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
