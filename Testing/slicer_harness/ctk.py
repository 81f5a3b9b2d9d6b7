"""The module `ctk` of Slicer: stand-ins of the few widgets that SegViz uses, with documented properties only."""

from typing import Any

from PySide6 import QtCore, QtWidgets

from slicer_harness.qt import stand_in

Signal, Property = QtCore.Signal, QtCore.Property
HEADER_HEIGHT = 24
shown_messages: list[str] = []
"""Texts of the message boxes shown since the list was last cleared: no test waits for a click."""


@stand_in
class ctkCollapsibleButton(QtWidgets.QAbstractButton):
    """A header that shows or hides the widgets under it."""

    contentsCollapsed = Signal(bool)

    def __init__(self, *args: Any) -> None:
        super().__init__(next((arg for arg in args if isinstance(arg, QtWidgets.QWidget)), None))
        self._collapsed = False
        self.setCheckable(True)
        self.setChecked(True)
        self.setText(next((arg for arg in args if isinstance(arg, str)), ""))
        self.setContentsMargins(4, HEADER_HEIGHT + 4, 4, 4)
        self.toggled.connect(lambda checked: self.setCollapsed(not checked))

    def setCollapsed(self, collapsed: bool) -> None:
        """Opening shows every child, also one that was hidden meanwhile: a module has to hide it again."""
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        self.setChecked(not collapsed)
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget):
                child.setVisible(not collapsed)
        self.updateGeometry()
        self.contentsCollapsed.emit(collapsed)

    collapsed = Property(bool, lambda self: self._collapsed, setCollapsed)
    collapsedHeight = Property(int, lambda self: HEADER_HEIGHT)

    def childEvent(self, event: Any) -> None:
        super().childEvent(event)
        if event.added() and self._collapsed and isinstance(event.child(), QtWidgets.QWidget):
            event.child().setVisible(False)

    def hitButton(self, position: Any) -> bool:
        return bool(position.y() < HEADER_HEIGHT)

    def sizeHint(self) -> Any:
        if self._collapsed or self.layout() is None:
            return QtCore.QSize(200, HEADER_HEIGHT + 2)
        return self.layout().totalSizeHint()

    def minimumSizeHint(self) -> Any:
        if self._collapsed or self.layout() is None:
            return QtCore.QSize(100, HEADER_HEIGHT + 2)
        return self.layout().totalMinimumSize()

    def paintEvent(self, event: Any) -> None:
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.width, HEADER_HEIGHT)
        painter.drawControl(QtWidgets.QStyle.CE_PushButtonBevel, option)
        text = ("▸  " if self._collapsed else "▾  ") + self.text
        painter.drawText(option.rect.adjusted(8, 0, 0, 0), QtCore.Qt.AlignVCenter | QtCore.Qt.AlignLeft, text)
        if not self._collapsed:
            painter.setPen(self.palette.mid().color())
            painter.drawRect(self.rect.adjusted(0, HEADER_HEIGHT, -1, -1))


@stand_in
class ctkPathLineEdit(QtWidgets.QWidget):
    """A path as an editable combo box with a browse button."""

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)
    Dirs, Files, Writable = 0x001, 0x002, 0x020

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._box = QtWidgets.QComboBox()
        self._box.setEditable(True)
        self._box.setSizePolicy(QtWidgets.QSizePolicy.Expanding, QtWidgets.QSizePolicy.Fixed)
        self._box.setMinimumContentsLength(8)
        self._browse = QtWidgets.QToolButton()
        self._browse.setText("...")
        self._values = {"label": "", "filters": self.Files, "settingKey": "", "nameFilters": []}
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        layout.addWidget(self._browse)
        self._box.currentTextChanged.connect(self.currentPathChanged)

    def setCurrentPath(self, path: str) -> None:
        if not isinstance(path, str):
            raise TypeError(f"setCurrentPath: expected a str, found {type(path).__name__}")
        self._box.setEditText(path)

    def comboBox(self) -> Any:
        return self._box

    currentPath = Property(str, lambda self: self._box.currentText, setCurrentPath)
    label = Property(str, lambda self: self._values["label"], lambda self, v: self._values.update(label=v))
    filters = Property(int, lambda self: self._values["filters"], lambda self, v: self._values.update(filters=int(v)))
    settingKey = Property(
        str, lambda self: self._values["settingKey"], lambda self, v: self._values.update(settingKey=v)
    )
    nameFilters = Property(
        "QStringList",
        lambda self: tuple(self._values["nameFilters"]),
        lambda self, value: self._values.update(nameFilters=value),
    )
    showHistoryButton = Property(bool, lambda self: False, lambda self, value: None)
    showBrowseButton = Property(
        bool, lambda self: not self._browse.isHidden(), lambda self, v: self._browse.setVisible(v)
    )


class ctkMessageBox(QtWidgets.QMessageBox):
    """Notes what it was asked to show and answers with its default button, or Cancel where there is none."""

    def exec_(self) -> int:
        shown_messages.append(self.text)
        button = self.defaultButton()
        return int(self.standardButton(button)) if button is not None else int(QtWidgets.QMessageBox.Cancel)


def __getattr__(name: str) -> type:
    """Any other ctk class exists for isinstance() but cannot be made."""
    if not name.startswith("ctk"):
        raise AttributeError(name)

    def refuse(self: Any, *args: Any) -> None:
        raise NotImplementedError(f"{name} has no stand-in in the harness")

    globals()[name] = type(name, (), {"__init__": refuse})
    return globals()[name]  # type: ignore[no-any-return]
