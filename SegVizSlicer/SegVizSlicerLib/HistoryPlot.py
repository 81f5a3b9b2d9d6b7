"""Loss and Dice of the rounds in one of Slicer's plot views."""

from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SegVizSlicerLib.SiteRecord import SiteStatus


class HistoryPlot:
    """Makes its nodes on the first `show`; later rounds appear by themselves."""

    def __init__(self) -> None:
        self._nodes: dict[str, Any] = {}
        self._shown = 0

    def show(self, status: SiteStatus) -> Any:
        """Put the plot into the layout; the chart node."""
        self._draw(status, show=slicer.app.layoutManager() is not None)
        return self._nodes.get("chart")

    def update(self, status: SiteStatus) -> None:
        """Add new rounds to a plot that is shown and still in the scene."""
        chart = self._nodes.get("chart")
        if chart is not None and chart.GetScene() is not None and len(status.rounds) != self._shown:
            self._draw(status, show=False)

    def _draw(self, status: SiteStatus, *, show: bool) -> None:
        if any(node.GetScene() is None for node in self._nodes.values() if hasattr(node, "GetScene")):
            self._nodes = {}  # the scene was closed meanwhile
        rows = [(entry.number, entry.loss, _mean(entry.dice)) for entry in status.rounds.values()]
        values = np.array([[np.nan if value is None else value for value in row] for row in rows], float)
        if len(values):
            names = [_("Round"), _("Loss"), _("Dice")]
            slicer.util.plot(values, 0, names, _("SegViz rounds"), show=show, nodes=self._nodes)
        self._shown = len(status.rounds)


def _mean(dice: dict[str, float]) -> float | None:
    return sum(dice.values()) / len(dice) if dice else None
