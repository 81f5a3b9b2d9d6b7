"""Meta-models of finished studies: each goes into the Segment list by itself, once, also after a restart of Slicer."""

from collections.abc import Callable, Sequence
from pathlib import Path

import qt

from SegVizSlicerLib.Models import ModelEntry, readModel

SETTINGS_KEY = "SegViz/importedModels"


class StudyModels:
    """Remembers in the settings what was imported: a model that its user has deleted does not come back."""

    def __init__(self, addModel: Callable[[Path], ModelEntry | None]) -> None:
        self._addModel = addModel
        self._seen: set[Path] = set()

    def importNew(self, paths: Sequence[Path]) -> None:
        """Import those of `paths` that are new; one that cannot be used is tried and explained once."""
        for path in paths:
            if path in self._seen:
                continue
            self._seen.add(path)
            known = str(qt.QSettings().value(SETTINGS_KEY, "") or "").split()
            model = None if _hashOf(path) in known else self._addModel(path)
            if model is not None:
                qt.QSettings().setValue(SETTINGS_KEY, " ".join([*known, model.hash]))


def _hashOf(path: Path) -> str:
    try:
        return readModel(path).hash
    except Exception:  # addModel says what is wrong with it
        return ""
