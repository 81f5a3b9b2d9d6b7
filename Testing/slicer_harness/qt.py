"""The module `qt` of Slicer: PySide6 with PythonQt's manners, and a .ui loader that accepts no surprise."""

import inspect
import xml.etree.ElementTree as ElementTree
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

from slicer_harness import pythonqt

STAND_INS: dict[str, type] = {}
"""Custom widgets of .ui files by class name; filled by ctk.py and qmrml.py."""

globals().update(pythonqt.names())
Qt = QtCore.Qt


def stand_in(cls: type) -> type:
    """Class decorator: make `cls` known to the .ui loader."""
    STAND_INS[cls.__name__] = cls
    return cls


class QUiLoader(QtUiTools.QUiLoader):  # type: ignore[misc]
    """Loads a .ui file as written: an unknown custom class and a failed connection raise."""

    def createWidget(self, kind: str, parent: Any = None, name: str = "") -> Any:
        if kind in STAND_INS:
            widget = STAND_INS[kind](parent)
            widget.setObjectName(name)
            return widget
        if kind.startswith(("qMRML", "qSlicer", "ctk")):
            raise RuntimeError(f"the .ui file uses {kind}, which has no stand-in in the harness")
        return super().createWidget(kind, parent, name)

    def load(self, file: Any, parent: Any = None) -> Any:
        """Connections are made here by name: Qt's own loader reports a wrong one only on the console."""
        tree = ElementTree.fromstring(bytes(file.readAll().data()))
        _check_classes(tree)
        connections = tree.find("connections")
        if connections is not None:
            tree.remove(connections)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(tree))
        buffer.open(QtCore.QIODevice.ReadOnly)
        root = super().load(buffer, parent)
        if root is None:
            raise RuntimeError(self.errorString())
        for connection in connections if connections is not None else ():
            sender, signal, receiver, slot = (
                connection.findtext(part) for part in ("sender", "signal", "receiver", "slot")
            )
            _find(root, sender).connect(signal, _find(root, receiver), slot)
        return root


def _check_classes(tree: ElementTree.Element) -> None:
    for widget in tree.iter("widget"):
        kind = widget.get("class", "")
        if kind not in STAND_INS and not hasattr(QtWidgets, kind):
            raise RuntimeError(f"the .ui file uses {kind}, which has no stand-in in the harness")
        if kind in STAND_INS:
            _check_properties(STAND_INS[kind], widget)
            _resolve_flags(STAND_INS[kind], widget)


def _check_properties(kind: type, widget: ElementTree.Element) -> None:
    for entry in widget.findall("property"):
        name = entry.get("name", "")
        if entry.get("stdset") != "0" and inspect.getattr_static(kind, name, None) is None:
            raise RuntimeError(f"{kind.__name__} documents no property '{name}'")


def _resolve_flags(kind: type, widget: ElementTree.Element) -> None:
    """Replace flag names of the stand-in's own class by numbers: Qt's loader knows the enums of C++ classes only."""
    for entry in widget.findall("property"):
        flags = entry.find("set")
        if flags is not None and (flags.text or "").startswith(f"{kind.__name__}::"):
            value = sum(getattr(kind, flag.split("::")[1]) for flag in (flags.text or "").split("|"))
            entry.remove(flags)
            ElementTree.SubElement(entry, "number").text = str(value)


def _find(root: Any, name: str | None) -> Any:
    found = root if root.objectName == name else root.findChild(QtCore.QObject, name)
    if found is None:
        raise RuntimeError(f"the .ui file connects '{name}', which it does not contain")
    return found
