"""What a site tells the people at it: one row per event in status.jsonl, and a sentence on what happens now.

state      state, message, hint?, kind?; state is checking, connecting, online, reconnecting, leaving, left, finished,
           failed or removed
ready      training_cases, validation_cases, device (cpu or cuda)
round      round, stage, device?, rounds?, online?, members?, sites? (names): a request has come
device     device, message: the round's work goes on there, and why
progress   stage, done, total, round?
answered   round, stage, seconds, metrics: its answer is on its way
stopped    round, stage: it ended without an answer

Every row has `event` and `time` (seconds since 1970).
"""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from segviz_core.federation import journal
from segviz_core.federation.schema import DOING

OnRow = Callable[[Mapping[str, Any]], None]

ENDED = ("left", "finished", "failed", "removed")


class Bulletin:
    """The status file of `site`; `on_row` gets each row too, when `pass_on` is called."""

    def __init__(self, file: Path, site: str, *, on_row: OnRow | None = None) -> None:
        self._file, self._site, self._on_row = file, site, on_row or (lambda _: None)
        self._rows: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._news: dict[str, Any] = {}
        self.state = self.message = ""
        self.working = False
        """Whether a request is being answered: until its answer is with the coordinator."""
        self._sent = -math.inf
        self._lock = threading.RLock()  # the lines of each process are read in a thread of its own

    def say(self, state: str, message: str, **values: str) -> None:
        """The site's state in one sentence; nothing where it said so last, or where the site has ended."""
        with self._lock:
            if self.state in ENDED or (state, message) == (self.state, self.message):
                return
            self.tell("state", state=state, message=message, **values)
            self.state, self.message = state, message

    def tell(self, event: str, **values: Any) -> None:
        """One row; a round that begins or is answered changes the state too."""
        journal.try_append(self._file, event, **values)
        self._rows.put({"event": event, **values})
        if event == "round":
            self.working, self._news = True, values
            self.say("online", f"{_round(values)}: {DOING.get(values['stage'], values['stage'])}.")
        if event == "device":
            self.say("online", values["message"])
        if event == "answered":
            others = [site for site in self._news.get("sites", []) if site != self._site]
            self.say(
                "online", f"{_round(self._news | values)} is answered; waiting for {_named(others)}{self._online()}."
            )

    def sent(self) -> None:
        """The answer has arrived, or will not any more."""
        self._sent = time.monotonic() if self.working else self._sent
        self.working = False

    def idle_for(self, seconds: float) -> bool:
        """Whether no request has been answered for so long. Flower drops the answer of a node that goes too early."""
        return not self.working and time.monotonic() - self._sent > seconds

    def pass_on(self) -> None:
        """Give the rows since the last call to `on_row`, in this thread."""
        while not self._rows.empty():
            self._on_row(self._rows.get())

    def _online(self) -> str:
        online, members = self._news.get("online", 0), self._news.get("members", 0)
        return f"; {online} of {members} sites are online" if online < members else ""


def _round(values: Mapping[str, Any]) -> str:
    return f"Round {values['round']}" + (f" of {values['rounds']}" if "rounds" in values else "")


def _named(others: Sequence[str]) -> str:
    if not others:
        return "the coordinator"
    return f"{len(others)} other site{'s' if len(others) > 1 else ''} ({', '.join(others)})"
