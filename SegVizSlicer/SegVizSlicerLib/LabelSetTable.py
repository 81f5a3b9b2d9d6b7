"""I annotate: the organs of this site and what they are called in its files and scenes."""

from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from SegVizSlicerLib.SiteCases import Annotation, parseAnnotation
from SegVizSlicerLib.Tables import fitHeight, prepareTable

OTHER = "other"


class LabelSetTable:
    """The picker and the table under it; `onChanged` hears of every change by the user."""

    def __init__(self, selector: Any, table: Any, onChanged: Callable[[], None]) -> None:
        self._selector, self._table, self._onChanged = selector, table, onChanged
        prepareTable(table)
        selector.currentIndexChanged.connect(lambda *_args: self._chosen())
        table.itemChanged.connect(lambda _item: onChanged())

    def offer(self, allow: tuple[str, ...]) -> None:
        """Fill the picker: any organ, or exactly those that a kit allows."""
        from segviz_core.labels import ORGANS

        blocked = self._selector.blockSignals(True)
        self._selector.clear()
        if allow:
            titles = [ORGANS[organ].title if organ in ORGANS else organ for organ in allow]
            self._selector.addItem(", ".join(titles), ",".join(allow))
        else:
            self._selector.addItem(_("Choose..."), "")
            for organ in ORGANS.values():
                self._selector.addItem(organ.title, organ.name)
            self._selector.addItem(_("Several of these"), ",".join(ORGANS))
            self._selector.addItem(_("Another organ..."), OTHER)
        self._selector.blockSignals(blocked)
        self._chosen()

    def rows(self) -> tuple[tuple[str, str], ...]:
        """(organ, values or names) of the filled rows; an emptied row is left out."""
        table = self._table
        rows = [(table.item(row, 0).text(), table.item(row, 1).text()) for row in range(table.rowCount)]
        return tuple((organ.strip(), text.strip()) for organ, text in rows if organ.strip() and text.strip())

    def organs(self) -> tuple[str, ...]:
        """Names of the organs of the label set."""
        return tuple(organ for organ, _text in self.rows())

    def annotations(self) -> list[Annotation]:
        """The label set with this site's own values and names.

        Raises:
            ValueError: a field of the table cannot be read.
        """
        return [parseAnnotation(organ, text) for organ, text in self.rows()]

    def _chosen(self) -> None:
        from segviz_core.labels import ORGANS

        choice = str(self._selector.currentData or "")
        organs = [""] if choice == OTHER else [organ for organ in choice.split(",") if organ]
        blocked = self._table.blockSignals(True)
        self._table.setRowCount(len(organs))
        for row, organ in enumerate(organs):
            name = qt.QTableWidgetItem(organ)
            if organ:
                name.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable)
            known = f"{ORGANS[organ].value}, {ORGANS[organ].title}" if organ in ORGANS else ""
            self._table.setItem(row, 0, name)
            self._table.setItem(row, 1, qt.QTableWidgetItem(known))
        fitHeight(self._table)
        self._table.blockSignals(blocked)
        self._onChanged()
