"""A question with named answers, from a person."""

from collections.abc import Sequence

import qt
import slicer


def askChoice(question: str, answers: Sequence[str]) -> int:
    """Index of the button that was pressed, -1 when the dialog was closed without one."""
    box = qt.QMessageBox(slicer.util.mainWindow())
    box.setWindowTitle("SegViz")
    box.setText(question)
    for answer in answers:
        box.addButton(answer, qt.QMessageBox.ActionRole)
    box.exec_()
    pressed = box.clickedButton()
    return list(answers).index(pressed.text) if pressed is not None and pressed.text in answers else -1
