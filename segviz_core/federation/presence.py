"""Who is online and what each site does in the round under way: presence.json, for people who watch a study."""

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from segviz_core.atomic import write_json
from segviz_core.errors import SegVizError
from segviz_core.federation.study import SITES_FILE

PRESENCE_FILE = "presence.json"

_REFRESH_S = 5.0


class Presence:
    """Kept by the server of the study in `folder`, by node id; written at every change, and every five seconds.

    {"north": {"online": true, "seen": 1766.5, "doing": "asked", "round": 3, "reason": ""}}
    `doing` may also be replied, rejected or empty. `seen` is the last time (seconds since 1970) at which Flower held
    the site for online: up to a minute after a kill.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows = {name: row | {"online": False, "doing": ""} for name, row in read_presence(folder).items()}
        self._written = 0.0

    @property
    def due(self) -> bool:
        """Whether it is time to look again who is online."""
        return time.monotonic() - self._written > _REFRESH_S

    def saw(self, online: Iterable[str]) -> None:
        """Take down who is online."""
        nodes, changed = self._names(online), False
        for name in {*self._rows, *nodes}:
            row = self._rows.setdefault(name, {"online": False, "seen": 0.0, "doing": "", "round": 0, "reason": ""})
            changed |= row["online"] != (name in nodes)
            row["online"] = name in nodes
            if name in nodes:
                row["seen"] = round(time.time(), 3)
        if changed or self.due:
            self._write()

    def asked(self, nodes: Iterable[str], *, number: int) -> None:
        """The sites got a request of round `number`."""
        for name in sorted(self._names(nodes)):
            self._set(name, doing="asked", round=number, reason="")
        self._write()

    def answered(self, node: str, *, reason: str) -> None:
        """A reply came; it was taken unless there is a `reason`."""
        (name,) = self._names([node])
        self._set(name, doing="rejected" if reason else "replied", reason=reason)
        self._write()

    def _set(self, name: str, **values: Any) -> None:
        row = {"online": True, "seen": round(time.time(), 3), "doing": "", "round": 0, "reason": ""}
        self._rows[name] = row | self._rows.get(name, {}) | values

    def _names(self, nodes: Iterable[str]) -> set[str]:
        known = _read(self._folder / SITES_FILE)
        return {str(known[node]["site"]) if node in known else f"node {node}" for node in nodes}

    def _write(self) -> None:
        with suppress(SegVizError):  # a full disk must not end a study for the sake of its watchers
            write_json(self._folder / PRESENCE_FILE, self._rows)
            self._written = time.monotonic()


def read_presence(folder: Path) -> dict[str, dict[str, Any]]:
    """What was last written for the study in `folder`, by site; nothing where there is no such file yet."""
    return _read(folder / PRESENCE_FILE)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
