"""A toy study that plays step by step in a thread of this process, with real messages, checkpoints and history."""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import toy_trainer
from flwr.app import Message
from memory_grid import MemoryGrid
from toy_study import write_toy_study

from segviz_core.atomic import write_json
from segviz_core.federation import coordinator, records
from segviz_core.federation.packets import Packet
from segviz_core.federation.running import only_one
from segviz_core.federation.strategy import conduct
from segviz_core.federation.study import SITES_FILE, Study

SITES = {1: ("north", "liver"), 2: ("south", "spleen")}
MARKUP = "<img src=x onerror=alert(1)>"
"""The name under which south declares itself at first: the reason of its rejection repeats it."""


class WatchedStudy:
    """Rounds: declare (twice, for south's first reply is bad), `train`, evaluate, deliver."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self._contract = write_toy_study(folder, min_sites=2, **settings).contract.hash
        coordinator.provision(folder, "toy")
        for name, _ in SITES.values():
            write_json(folder / "sites" / f"{name}.json", {"site": name, "allow": []})
        write_json(folder / SITES_FILE, {str(node): {"site": name, "allow": []} for node, (name, _) in SITES.items()})
        self._grid = _SlowGrid(self._answer)
        self._bad = True
        self._thread = threading.Thread(target=self._play)

    def start(self) -> None:
        """Ask the sites; no reply arrives before `release`."""
        self._thread.start()

    def release(self, replies: int) -> None:
        """Let so many more replies arrive."""
        self._grid.allow(replies)

    def end(self) -> None:
        """Play to the end, if it was started."""
        if self._thread.ident is not None:
            self._grid.allow(1_000_000)
            self._thread.join(60)
            assert not self._thread.is_alive()

    def _play(self) -> None:
        study = Study(self.folder)

        def publish(values: dict[str, Any]) -> None:
            where = {"round": study.number, "rounds": len(study.rounds), "stage": study.stage}
            coordinator.write_status(self.folder, **(where | values))

        with only_one(self.folder, what="The coordinator"):
            conduct(self._grid, study, publish=publish)  # type: ignore[arg-type]
            coordinator.write_status(self.folder, state="finished", round=len(study.rounds), rounds=len(study.rounds))

    def _answer(self, node: int, message: Message) -> Message:
        name, organ = SITES[node]
        request = records.from_record(message.content)
        reply = toy_trainer.answer(request, site=name, organs=[organ], contract=self._contract)
        if name == "south" and self._bad:
            reply, self._bad = Packet(reply.settings | {"site": MARKUP}, reply.arrays, reply.metrics), False
        return Message(records.to_record(reply), reply_to=message)


class _SlowGrid(MemoryGrid):
    _allowed = 0
    _lock = threading.Lock()

    def allow(self, replies: int) -> None:
        with self._lock:
            self._allowed += replies

    def pull_messages(self, ids: Iterable[str]) -> list[Message]:
        with self._lock:
            found = super().pull_messages(ids) if self._allowed > 0 else []
            self._allowed -= len(found)
        return found
