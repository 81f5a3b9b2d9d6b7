"""Stand-ins of the qMRML widgets that SegViz uses, on the real scene, with documented properties only."""

import weakref
from collections.abc import Callable
from typing import Any

import shiboken6
import slicer
from PySide6 import QtCore, QtGui, QtWidgets

from slicer_harness.qt import stand_in

Signal, Property = QtCore.Signal, QtCore.Property


@stand_in
class qMRMLWidget(QtWidgets.QWidget):
    """The root of a module panel: hands the scene to its children."""

    mrmlSceneChanged = Signal(object)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def setMRMLScene(self, scene: Any) -> None:
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        return self._scene


def _stored(name: str, kind: Any) -> Any:
    def write(self: Any, value: Any) -> None:
        self._values[name] = list(value) if kind == "QStringList" else value
        self._refresh()

    def read(self: Any) -> Any:
        return tuple(self._values[name]) if kind == "QStringList" else self._values[name]

    return Property(kind, read, write)


_callbacks: list[Any] = []  # Python's collector would take a callback while a node still holds it, and crash


def _observe(widget: Any, subject: Any, event: Any) -> int:
    """Refresh `widget` on an event for as long as its C++ part lives: as qvtkConnect does."""
    reference = weakref.ref(widget)

    def refresh(*_args: Any) -> None:
        found = reference()
        if found is not None and shiboken6.isValid(found):
            found._refresh()

    _callbacks.append(refresh)
    return int(subject.AddObserver(event, refresh))


def _setter(name: str) -> Callable[[Any, Any], None]:
    return lambda self, value: setattr(self, name, value)


@stand_in
class qMRMLNodeComboBox(QtWidgets.QWidget):
    """Lists the nodes of the scene that match; without `noneEnabled` the first one is selected by itself."""

    currentNodeChanged = Signal(object)
    currentNodeChangedValid = Signal(bool)
    currentNodeIDChanged = Signal(str)
    nodeAddedByUserAction = Signal(object)
    nodeActivated = Signal(object)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene: Any = None
        self._observers: list[int] = []
        self._current: str | None = None
        self._attributes: list[tuple[str, str, str | None]] = []
        self._values = {"nodeTypes": [], "noneDisplay": "None", "baseName": "", "showChildNodeTypes": True}
        self._values |= dict.fromkeys(("showHidden", "noneEnabled", "editEnabled", "renameEnabled"), False)
        self._values |= dict.fromkeys(("addEnabled", "removeEnabled", "selectNodeUponCreation"), True)
        self._box = QtWidgets.QComboBox()
        self._box.setMinimumContentsLength(8)
        layout = QtWidgets.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._box)
        self._box.activated.connect(lambda index: self._set(self._box.itemData(index)))

    nodeTypes = _stored("nodeTypes", "QStringList")
    noneDisplay = _stored("noneDisplay", str)
    baseName = _stored("baseName", str)
    noneEnabled = _stored("noneEnabled", bool)
    addEnabled = _stored("addEnabled", bool)
    removeEnabled = _stored("removeEnabled", bool)
    editEnabled = _stored("editEnabled", bool)
    renameEnabled = _stored("renameEnabled", bool)
    showHidden = _stored("showHidden", bool)
    showChildNodeTypes = _stored("showChildNodeTypes", bool)
    selectNodeUponCreation = _stored("selectNodeUponCreation", bool)

    setNodeTypes = _setter("nodeTypes")
    setNoneEnabled = _setter("noneEnabled")
    setAddEnabled = _setter("addEnabled")

    def setMRMLScene(self, scene: Any) -> None:
        for tag in self._observers:
            self._scene.RemoveObserver(tag)
        self._scene, self._observers = scene, []
        if scene is not None:
            events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent, scene.EndCloseEvent)
            self._observers = [_observe(self, scene, event) for event in events]
        self._refresh()

    def mrmlScene(self) -> Any:
        return self._scene

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self._current) if self._scene is not None and self._current else None

    def setCurrentNode(self, node: Any) -> None:
        self._set(None if node is None else node if isinstance(node, str) else node.GetID())

    def setCurrentNodeID(self, node_id: str | None) -> None:
        self._set(node_id or None)

    currentNodeID = Property(str, lambda self: self._current or "", setCurrentNodeID)

    def setCurrentNodeIndex(self, index: int) -> None:
        self._set(self._nodes()[index].GetID())

    def nodeCount(self) -> int:
        return len(self._nodes())

    def nodeFromIndex(self, index: int) -> Any:
        return self._nodes()[index]

    def addAttribute(self, node_type: str, name: str, value: str | None = None) -> None:
        self._attributes.append((node_type, name, value))
        self._refresh()

    def _matches(self, node: Any) -> bool:
        if node.GetHideFromEditors() and not self._values["showHidden"]:
            return False
        derived = self._values["showChildNodeTypes"]
        if not any(node.IsA(t) if derived else node.GetClassName() == t for t in self._values["nodeTypes"]):
            return False
        for node_type, name, value in self._attributes:
            found = node.GetAttribute(name)
            if node.GetClassName() == node_type and (found is None if value is None else found != value):
                return False
        return True

    def _nodes(self) -> list[Any]:
        if self._scene is None:
            return []
        nodes = [self._scene.GetNthNode(index) for index in range(self._scene.GetNumberOfNodes())]
        return [node for node in nodes if self._matches(node)]

    def _refresh(self) -> None:
        nodes = self._nodes()
        self._box.clear()
        if self._values["noneEnabled"]:
            self._box.addItem(self._values["noneDisplay"], None)
        elif not nodes:
            self._box.addItem("Select a Volume", None)
        for node in nodes:
            self._box.addItem(node.GetName(), node.GetID())
        ids = [node.GetID() for node in nodes]
        if self._current in ids:
            self._box.setCurrentIndex(self._box.findData(self._current))
        else:
            self._set(ids[0] if ids and not self._values["noneEnabled"] else None)

    def _set(self, node_id: str | None) -> None:
        changed = node_id != self._current
        self._current = node_id
        self._box.setCurrentIndex(max(0, self._box.findData(node_id)))
        if changed:
            self.currentNodeChanged.emit(self.currentNode())
            self.currentNodeChangedValid.emit(self.currentNode() is not None)
            self.currentNodeIDChanged.emit(node_id or "")


@stand_in
class qMRMLSegmentsTableView(qMRMLWidget):
    """Visibility, colour and name of each segment of one segmentation."""

    selectionChanged = Signal(object, object)
    segmentAboutToBeModified = Signal(str)
    _COLUMNS = ("visibilityColumnVisible", "colorColumnVisible", "opacityColumnVisible", "statusColumnVisible")

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self._observer: int | None = None
        self._values = dict.fromkeys((*self._COLUMNS, "headerVisible", "filterBarVisible"), True)
        self._values |= {"readOnly": False, "layerColumnVisible": False}
        self._table = QtWidgets.QTableWidget(0, 3)
        self._table.setHorizontalHeaderLabels(["", "", "Name"])
        self._table.verticalHeader().hide()
        self._table.verticalHeader().setDefaultSectionSize(24)
        self._table.horizontalHeader().setStretchLastSection(True)
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._table)

    readOnly = _stored("readOnly", bool)
    headerVisible = _stored("headerVisible", bool)
    visibilityColumnVisible = _stored("visibilityColumnVisible", bool)
    colorColumnVisible = _stored("colorColumnVisible", bool)
    opacityColumnVisible = _stored("opacityColumnVisible", bool)
    statusColumnVisible = _stored("statusColumnVisible", bool)
    layerColumnVisible = _stored("layerColumnVisible", bool)
    filterBarVisible = _stored("filterBarVisible", bool)
    segmentCount = Property(int, lambda self: len(self._segments()))

    def setSegmentationNode(self, node: Any) -> None:
        if self._node is not None and self._observer is not None:
            self._node.RemoveObserver(self._observer)
        self._node = node
        self._observer = None if node is None else _observe(self, node, "ModifiedEvent")
        self._refresh()

    def segmentationNode(self) -> Any:
        return self._node

    def tableWidget(self) -> Any:
        return self._table

    def _segments(self) -> list[Any]:
        if self._node is None:
            return []
        segmentation = self._node.GetSegmentation()
        return [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]

    def _refresh(self) -> None:
        segments = self._segments()
        self._table.setRowCount(len(segments))
        for row, segment in enumerate(segments):
            color = QtWidgets.QTableWidgetItem()
            color.setBackground(QtGui.QColor.fromRgbF(*segment.GetColor()))
            self._table.setItem(row, 0, QtWidgets.QTableWidgetItem("◉"))
            self._table.setItem(row, 1, color)
            self._table.setItem(row, 2, QtWidgets.QTableWidgetItem(segment.GetName()))
        for column in (0, 1):
            self._table.setColumnWidth(column, 28)


@stand_in
class qMRMLSegmentationShow3DButton(QtWidgets.QPushButton):
    """Makes and removes the closed surfaces of one segmentation."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__("Show 3D", parent)
        self._node: Any = None
        self._locked = False
        self.setCheckable(True)
        self.setEnabled(False)
        self.toggled.connect(self._show)

    def setSegmentationNode(self, node: Any) -> None:
        self._node = node
        self.setEnabled(node is not None and not self._locked)

    def segmentationNode(self) -> Any:
        return self._node

    def setLocked(self, locked: bool) -> None:
        self._locked = locked

    locked = Property(bool, lambda self: self._locked, setLocked)

    def _show(self, on: bool) -> None:
        if self._node is None:
            return
        if on:
            self._node.CreateClosedSurfaceRepresentation()
        else:
            self._node.RemoveClosedSurfaceRepresentation()


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """Exists for isinstance(): slicer.util.getModuleWidget asks."""


class qSlicerScriptedLoadableModule:
    """Exists for isinstance()."""


CLASSES = (
    qMRMLWidget,
    qMRMLNodeComboBox,
    qMRMLSegmentsTableView,
    qMRMLSegmentationShow3DButton,
    qSlicerScriptedLoadableModuleWidget,
    qSlicerScriptedLoadableModule,
)
assert slicer.mrmlScene is not None, "boot.boot() comes first"
