"""What a command of `segviz_core` says: one JSON object per line; other lines go to the log."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from slicer.i18n import tr as _

from SegVizSlicerLib.Hints import windowHint

CANCELLED_EXIT_CODE = 4

KILLED_EXIT_CODES = (-9, 137)
"""By the system, for want of memory, when it was not us; 137 is what a launcher makes of it."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its `result` object and, when it failed, one sentence and a hint (`check` gives both)."""

    exitCode: int
    result: dict[str, Any] = field(default_factory=dict)
    kind: str = ""
    message: str = ""
    hint: str = ""

    @property
    def ok(self) -> bool:
        return self.exitCode == 0

    @property
    def cancelled(self) -> bool:
        return self.exitCode == CANCELLED_EXIT_CODE


class Report:
    """Listens to one command: passes its progress on and keeps its result or error until it has ended."""

    def __init__(self, onProgress: Callable[[str, int, int], None]) -> None:
        self._onProgress = onProgress
        self._result: dict[str, Any] = {}
        self._error: dict[str, str] = {}

    def hear(self, event: dict[str, Any]) -> None:
        """Take in one event: `progress {stage, done, total}`, `result`, `error {kind, message, hint}`."""
        if event["event"] == "progress":
            self._onProgress(event["stage"], event["done"], event["total"])
        elif event["event"] == "result":
            self._result = {key: value for key, value in event.items() if key != "event"}
        elif event["event"] == "error":
            self._error = event

    def outcome(self, exitCode: int, *, cancelled: bool, lastLine: str = "") -> Outcome:
        """What became of the command; `cancelled` when the user stopped it, however it ended then."""
        if exitCode == 0:
            return Outcome(0, self._result)
        if cancelled:
            return Outcome(CANCELLED_EXIT_CODE, kind="cancelled", message=_("Cancelled."))
        if self._error:
            hint = windowHint(self._error.get("hint", ""))
            return Outcome(exitCode, self._result, self._error["kind"], self._error["message"], hint)
        message = _("The command ended with exit code {code}.").format(code=exitCode)
        if lastLine:
            message = _("The command ended with exit code {code}: {line}").format(code=exitCode, line=lastLine)
        hint = _("The log below says more.")
        if exitCode in KILLED_EXIT_CODES:
            hint = _("Perhaps the memory was full: close other programs, or choose Fast under Advanced.")
        return Outcome(exitCode, {}, "crash", message, hint)


def readEvent(line: str) -> dict[str, Any] | None:
    """The event in a line of output; None for any other text."""
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None
