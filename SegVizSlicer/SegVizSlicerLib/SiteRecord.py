"""What a site's supervisor has written, as the window shows it: state, progress, one line per round."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

STATUS_FILE, AUDIT_FILE = "status.jsonl", "audit.jsonl"


@dataclass
class Round:
    """What one round meant for this site; `dice` per organ, sizes in MB of 10^6 bytes."""

    number: int
    steps: list[str] = field(default_factory=list)
    loss: float | None = None
    dice: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    mbSent: float = 0.0
    mbReceived: float = 0.0


@dataclass
class SiteStatus:
    """The present state of a site; `stage`, `done`, `total` say what happens now.

    It is `working` on a request, on `device` (cpu or cuda); `note` says what is unusual about it. `planned` rounds are
    those of the whole study; `sites` take part in the round under way, `online` of `members`.
    """

    running: bool = False
    state: str = ""
    message: str = ""
    hint: str = ""
    device: str = ""
    working: bool = False
    note: str = ""
    stage: str = ""
    done: int = 0
    total: int = 0
    round: int = 0
    planned: int = 0
    online: int = 0
    members: int = 0
    sites: tuple[str, ...] = ()
    rounds: dict[int, Round] = field(default_factory=dict)


class SiteRecord:
    """Follows the files of one site; each `read` looks only at what was added, however long the study runs."""

    def __init__(self, site: Path) -> None:
        self.site = site
        self._status = SiteStatus()
        self._offsets = {STATUS_FILE: 0, AUDIT_FILE: 0}

    def read(self) -> SiteStatus:
        """The state now; the same object is returned and updated every time."""
        status = self._status
        for row in self._newRows(STATUS_FILE):
            _apply(status, row)
        for row in self._newRows(AUDIT_FILE):
            _applyAudit(status, row)
        status.running = isRunning(self.site)
        if not status.running and status.state not in ("", "left", "finished", "failed", "removed"):
            status.state, status.message = "left", _("The site ended by itself; join again to go on.")
        return status

    def _newRows(self, name: str) -> Iterator[dict[str, Any]]:
        path = self.site / name
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self._offsets[name])
            for line in file:
                if not line.endswith(b"\n"):  # still being written
                    return
                self._offsets[name] += len(line)
                try:
                    yield json.loads(line)
                except ValueError:  # a line cut short by a kill
                    continue


def isRunning(site: Path) -> bool:
    """Whether a process owns this site's folder: the lock ends with its process, however that ended."""
    from segviz_core.federation.running import is_running

    return is_running(site)


def _apply(status: SiteStatus, row: dict[str, Any]) -> None:
    event = row["event"]
    if event == "state":
        status.state, status.message, status.hint = row["state"], row["message"], row.get("hint", "")
        status.stage, status.done, status.total = "", 0, 0
        status.working &= row["state"] in ("online", "leaving", "reconnecting")
    elif event in ("ready", "stopped"):
        status.device, status.working, status.note = row.get("device", status.device), False, ""
        status.stage, status.done, status.total = "", 0, 0
    elif event == "device":
        status.device, status.note = row["device"], row["message"]
    elif event == "progress":
        status.stage, status.done, status.total = row["stage"], row["done"], row["total"]
    elif event == "round":
        status.device, status.working, status.note = row.get("device", status.device), True, ""
        status.round, status.planned = row["round"], row.get("rounds", 0)
        status.online, status.members = row.get("online", 0), row.get("members", 0)
        status.sites = tuple(row.get("sites", ()))
        status.rounds.setdefault(status.round, Round(status.round)).steps.append(row["stage"])
    elif event == "answered":
        entry = status.rounds.setdefault(row["round"], Round(row["round"]))
        entry.seconds += row["seconds"]
        entry.loss = row["metrics"].get("loss", entry.loss)
        dice = {name: value for name, value in row["metrics"].items() if name.startswith("dice/") and value is not None}
        entry.dice |= {name.removeprefix("dice/"): value for name, value in dice.items()}
        status.stage, status.done, status.total = "", 0, 0
        status.working, status.note = False, ""


def _applyAudit(status: SiteStatus, row: dict[str, Any]) -> None:
    if row["event"] not in ("sent", "received"):
        return
    number = int(row["settings"]["round"])
    entry = status.rounds.setdefault(number, Round(number))
    size = sum(group["bytes"] for group in row["arrays"].values()) / 1e6
    if row["event"] == "sent":
        entry.mbSent += size
    else:
        entry.mbReceived += size
