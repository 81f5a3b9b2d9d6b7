"""What a command shows: bars in a terminal, plain lines in a pipe, one JSON object per line with --json.

Also the one place that notices a wish to stop: every progress report polls the cancel file and the heartbeat.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from segviz_core.errors import Cancelled, SegVizError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

HEARTBEAT_SECONDS = 30.0
"""A parent that has not touched the heartbeat file for this long has crashed (it should every 10 s)."""

_PLAIN_INTERVAL_S, _JSON_INTERVAL_S = 5.0, 0.1


class Console:
    """Where a command reports. Results go to standard output, progress and errors of a person's run to standard error.

    With `json_lines` everything is one ASCII JSON object per line on standard output: `started`, `progress`, `result`,
    `error` (slicer.md section 4).

    >>> console = Console(json_lines=True)
    >>> console.progress("network", 3, 12)
    {"event": "progress", "stage": "network", "done": 3, "total": 12}
    """

    def __init__(
        self, *, json_lines: bool = False, cancel_file: Path | None = None, heartbeat: Path | None = None
    ) -> None:
        self._json = json_lines
        self._cancel_file = cancel_file
        self._heartbeat = heartbeat
        self._terminal = sys.stderr.isatty()  # asked before the bars take its place
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_stage, self._last_time = "", 0.0

    def __enter__(self) -> "Console":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_bars()

    def started(self, pid: int) -> None:
        """Tell the parent which process to stop."""
        if self._json:
            self.emit("started", {"pid": pid})

    def progress(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` steps of `stage` are done; this is the `on_progress` of every long function.

        What stands behind a middle dot in `stage` may change: it is news of the same stage, not another one.

        Raises:
            Cancelled: the cancel file exists, or the heartbeat file is stale or gone.
        """
        self.poll()
        if self._json:
            if self._due(stage, done, total, _JSON_INTERVAL_S):
                self.emit("progress", {"stage": stage, "done": done, "total": total})
        elif self._terminal:
            self._draw(stage, done, total)
        elif self._due(stage, done, total, _PLAIN_INTERVAL_S):
            sys.stderr.write(f"{stage} {done}/{total}\n")
            sys.stderr.flush()

    def result(self, values: Mapping[str, Any], text: str = "") -> None:
        """Report the outcome: `values` as the JSON object `result`, or `text` to a person."""
        self._stop_bars()
        if self._json:
            self.emit("result", values)
        elif text:
            sys.stdout.write(text.rstrip() + "\n")
            sys.stdout.flush()

    def error(self, error: SegVizError) -> None:
        """Report what went wrong: one sentence, and on a line of its own what to do."""
        self._stop_bars()
        if self._json:
            self.emit("error", {"kind": error.kind, "message": error.message, "hint": error.hint})
        else:
            sys.stderr.write(f"{error.message}\n" + (f"  {error.hint}\n" if error.hint else ""))

    def poll(self) -> None:
        """Raise Cancelled where the cancel file exists, or the heartbeat file is stale or gone."""
        if self._cancel_file is not None and self._cancel_file.exists():
            raise Cancelled
        if self._heartbeat is not None:
            try:
                age = time.time() - self._heartbeat.stat().st_mtime
            except OSError:
                age = HEARTBEAT_SECONDS + 1
            if age > HEARTBEAT_SECONDS:
                raise Cancelled("Cancelled: the program that started this one is gone.")

    def _due(self, stage: str, done: int, total: int, interval: float) -> bool:
        now = time.monotonic()
        stage = _name(stage)
        due = stage != self._last_stage or done >= total or now - self._last_time >= interval
        if due:
            self._last_stage, self._last_time = stage, now
        return due

    def _draw(self, stage: str, done: int, total: int) -> None:
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if self._bars is None:
            columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._bars = Progress(*columns, console=Terminal(stderr=True))
            self._bars.start()
        if (name := _name(stage)) not in self._tasks:
            self._tasks[name] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[name], completed=done, total=total, description=stage)

    def _stop_bars(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars, self._tasks = None, {}

    def emit(self, event: str, values: Mapping[str, Any]) -> None:
        """Write one JSON line of any kind."""
        sys.stdout.write(json.dumps({"event": event, **values}, allow_nan=False) + "\n")
        sys.stdout.flush()


def _name(stage: str) -> str:
    return stage.partition(" \N{MIDDLE DOT} ")[0]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A plain table: the cells of `rows` (the first one is the heading) padded to columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
