"""Points at which a process waits while the runner breaks something; imported by the study's and the sites' own apps.

A point is armed by a file and tells that it was reached by a line in its process's log.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONGEST_S = 120.0


def pause(folder: Path, point: str) -> None:
    """Wait here while `folder`/pause-`point` exists."""
    file = folder / f"pause-{point}"
    if not file.exists():
        return
    sys.stderr.write(f"FAULT POINT {point}\n")
    sys.stderr.flush()
    deadline = time.monotonic() + LONGEST_S
    while file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def in_the_server_app() -> None:
    """Points of a ServerApp: all-answered, averaging, before-checkpoint, after-checkpoint."""
    from segviz_core.federation import study
    from segviz_core.federation.state import StudyState

    close_round, aggregate, save = study.Study.close_round, study.aggregate, StudyState.save

    def closing(self: study.Study, **values: Any) -> Any:
        pause(self.folder, "all-answered")
        return close_round(self, **values)

    def averaging(*arguments: Any, **values: Any) -> None:
        aggregate(*arguments, **values)
        pause(_folder[0], "averaging")

    def saving(self: StudyState, path: Path) -> None:
        pause(path.parent, "before-checkpoint")
        save(self, path)
        pause(path.parent, "after-checkpoint")

    _folder: list[Path] = []
    opened: Callable[..., None] = study.Study.__init__

    def opening(self: study.Study, folder: Path) -> None:
        _folder[:] = [folder]
        opened(self, folder)

    study.Study.__init__ = opening  # type: ignore[method-assign]
    study.Study.close_round = closing  # type: ignore[method-assign,assignment]
    study.aggregate = averaging  # type: ignore[assignment]
    StudyState.save = saving  # type: ignore[method-assign]
