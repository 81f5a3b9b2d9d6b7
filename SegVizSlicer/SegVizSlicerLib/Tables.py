"""Tables of the window: texts in, as high as their rows need."""

from collections.abc import Sequence
from typing import Any

import qt

HEADER_HEIGHT, ROW_HEIGHT = 22, 24
MOST_ROWS = 6
"""More rows than this are scrolled to: the panel is narrow and long enough as it is."""


def prepareTable(table: Any) -> None:
    """Looks that all tables share; the last column takes the space that is left."""
    table.verticalHeader().hide()
    table.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
    table.horizontalHeader().setFixedHeight(HEADER_HEIGHT)
    table.horizontalHeader().setStretchLastSection(True)


def fillTable(table: Any, rows: Sequence[Sequence[str]], *, mostRows: int = MOST_ROWS) -> None:
    """Show `rows`; a long text is also its cell's tooltip."""
    table.setRowCount(len(rows))
    for row, cells in enumerate(rows):
        for column, text in enumerate(cells):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(text)
            table.setItem(row, column, item)
    table.resizeColumnsToContents()
    fitHeight(table, mostRows=mostRows)


def fitHeight(table: Any, *, mostRows: int = MOST_ROWS) -> None:
    """Make `table` as high as its rows, one at least and `mostRows` at most."""
    shown = min(max(1, table.rowCount), mostRows)
    table.setFixedHeight(HEADER_HEIGHT + shown * ROW_HEIGHT + 2 * table.frameWidth)
