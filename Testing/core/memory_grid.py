"""Flower's Grid without processes, for tests of the server's loop."""

import itertools
from collections.abc import Callable, Iterable

import pytest
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

Answer = Callable[[int, Message], Message | None]


class MemoryGrid:
    """Flower's Grid without processes: `answer` gives the reply of a node, or None for silence."""

    def __init__(self, answer: Answer, online: Callable[[], list[int]] = lambda: [1, 2]) -> None:
        self._answer, self.get_node_ids = answer, online
        self._replies: dict[str, Message] = {}
        self._ids = (str(number) for number in itertools.count())
        self.pushed: list[Message] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            self.pushed.append(message)
            ids.append(next(self._ids))
            message.metadata.__dict__["_message_id"] = ids[-1]
            if reply := self._answer(message.metadata.dst_node_id, message):
                self._replies[ids[-1]] = reply
        return ids

    def pull_messages(self, ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(name) for name in ids if name in self._replies]


def as_in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process what Flower's own have from their task: messages need it."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
