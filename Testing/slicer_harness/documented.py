"""What the headers of Slicer 5.12 and CTK document for the widgets that have a stand-in: nothing else may be offered.

Source: the Q_PROPERTYs, signals, public slots and Q_INVOKABLEs of Libs/MRML/Widgets, Modules/Loadable/Segmentations/
Widgets (Slicer) and Libs/Widgets (CTK); only names and signatures, the behaviour in this harness is its own.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Widget:
    """Names that a class adds to its base class; signals with their C++ signature."""

    properties: str = ""
    signals: str = ""
    methods: str = ""

    @property
    def names(self) -> set[str]:
        """All names that the class may show, setters of its properties included."""
        own = set(self.properties.split())
        setters = {f"set{name[0].upper()}{name[1:]}" for name in own}
        return own | setters | set(self.methods.split()) | {entry.split("(")[0] for entry in self.signals.split()}


WIDGETS = {
    "qMRMLWidget": Widget(signals="mrmlSceneChanged(vtkMRMLScene*)", methods="setMRMLScene mrmlScene"),
    "qMRMLNodeComboBox": Widget(
        properties="currentNodeID nodeTypes showHidden showChildNodeTypes hideChildNodeTypes baseName noneEnabled "
        "addEnabled removeEnabled editEnabled renameEnabled selectNodeUponCreation noneDisplay",
        signals="currentNodeChanged(vtkMRMLNode*) currentNodeChanged(bool) currentNodeIDChanged(QString) "
        "nodeAddedByUserAction(vtkMRMLNode*) nodeActivated(vtkMRMLNode*)",
        methods="setMRMLScene mrmlScene currentNode setCurrentNode setCurrentNodeIndex nodeCount nodeFromIndex "
        "addAttribute removeAttribute addNode removeCurrentNode setNodeTypeLabel nodeTypeLabel",
    ),
    "qMRMLSegmentsTableView": Widget(
        properties="selectionMode headerVisible visibilityColumnVisible colorColumnVisible opacityColumnVisible "
        "statusColumnVisible layerColumnVisible readOnly filterBarVisible textFilter jumpToSelectedSegmentEnabled "
        "segmentCount",
        signals="selectionChanged(QItemSelection,QItemSelection) segmentAboutToBeModified(QString)",
        methods="segmentationNode setSegmentationNode setMRMLScene mrmlScene tableWidget selectedSegmentIDs "
        "setSelectedSegmentIDs clearSelection displayedSegmentIDs",
    ),
    "qMRMLSegmentationShow3DButton": Widget(properties="locked", methods="segmentationNode setSegmentationNode"),
    "ctkCollapsibleButton": Widget(
        properties="collapsed collapsedHeight contentsFrameShape contentsFrameShadow contentsLineWidth",
        signals="contentsCollapsed(bool)",
    ),
    "ctkPathLineEdit": Widget(
        properties="label filters currentPath settingKey showBrowseButton showHistoryButton minimumContentsLength "
        "nameFilters",
        signals="currentPathChanged(QString) validInputChanged(bool)",
        methods="browse retrieveHistory addCurrentPathToHistory setCurrentFileExtension comboBox",
    ),
    "ctkMessageBox": Widget(properties="dontShowAgainVisible dontShowAgain dontShowAgainSettingsKey"),
}

OVERRIDES = {"sizeHint", "minimumSizeHint", "paintEvent", "childEvent", "hitButton", "exec", "exec_", "event"}
"""Virtual functions of Qt that a stand-in implements as the real widget does."""


def is_stand_in(cls: type) -> bool:
    """Whether `cls` is one of the classes above or derives from one without adding attributes of its own."""
    return cls.__name__ in WIDGETS


def signatures(cls: type, name: str) -> set[str]:
    """Argument lists of the documented signals `name` of `cls`, comma separated."""
    entries = [entry for base in cls.__mro__ for entry in WIDGETS.get(base.__name__, Widget()).signals.split()]
    return {entry.split("(")[1].rstrip(")") for entry in entries if entry.split("(")[0] == name}
