"""The messages of one round between the server and the sites; what may have got lost on the way is sent again.

Flower tells that a site went offline, but not that a message it had fetched is gone: a cut in the middle of a download
or upload is silence. A site that gets a request twice answers from memory (session.py), so asking again is cheap.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from segviz_core.federation import records
from segviz_core.federation.guard import Rejected
from segviz_core.federation.packets import Packet
from segviz_core.federation.presence import Presence
from segviz_core.federation.study import Study

POLL_S = 0.25
RETURN_S = 90.0
"""A site whose node was killed is let in again after its lease of 60 s (flower.md section 3): worth waiting for where
its work counts, not at the end of a study."""
_WITHOUT_WAIT = ("evaluate", "deliver")
_LOOK_S, _TRIES = 1.0, 3

_logger = logging.getLogger(__name__)

Publish = Callable[[dict[str, Any]], None]

_LOST = {
    3: "it gave no reply in time",
    4: "it gave no reply in time",
    5: "it went offline during the round",
    8: "its ClientApp ended without a reply",
}
_FAILED = {1: "its ClientApp cannot be loaded", 2: "its ClientApp raised an error"}


@dataclass
class _Letter:
    """A request to one site: under which message ids it travels, when it was sent last, why it is lost."""

    ids: list[str] = field(default_factory=list)
    tries: int = 0
    sent: float = 0.0
    lost: str = ""


class Exchange:
    """One round of `study` over `grid`."""

    def __init__(self, grid: Grid, study: Study, presence: Presence, publish: Publish) -> None:
        self._grid, self._study, self._presence, self._publish = grid, study, presence, publish
        self._deadline = time.monotonic() + study.settings.round_timeout
        self._return_s = 0.0 if study.stage in _WITHOUT_WAIT else RETURN_S
        self._letters: dict[str, _Letter] = {}
        self._asked = 0
        self._looked = time.monotonic()
        self.rejected: dict[str, str] = {}
        self.late: list[str] = []

    def play(self, online: list[str]) -> None:
        """Ask all sites in `online` and wait for their replies, at most until the round's deadline."""
        for node, request in self._study.requests(online):
            self._send(node, request)
        self._presence.asked(self._letters, number=self._study.number)
        self._tell()
        while self._letters:
            for node, letter in list(self._letters.items()):
                self._hear(node, letter)
            if time.monotonic() > self._deadline:
                self._give_up()
            elif time.monotonic() - self._looked > _LOOK_S:
                self._look_after()
            if self._letters:
                time.sleep(POLL_S)

    def _send(self, node: str, request: Packet) -> None:
        """Push one message, so that memory holds one at a time.

        Its lifetime is the round's: a slow site goes straight to the current round, not through stale ones.
        """
        letter = self._letters.setdefault(node, _Letter())
        letter.tries, letter.sent, letter.lost = letter.tries + 1, time.monotonic(), ""
        ttl = max(1.0, self._deadline - letter.sent)
        message = Message(records.to_record(request), dst_node_id=int(node), message_type=MessageType.TRAIN, ttl=ttl)
        letter.ids += [message_id for message_id in self._grid.push_messages([message]) if message_id]
        if not letter.ids:
            letter.lost = "its request could not be sent"

    def _hear(self, node: str, letter: _Letter) -> None:
        for message_id in list(letter.ids):
            for reply in self._grid.pull_messages([message_id]):
                letter.ids.remove(message_id)
                if reply.has_error() and reply.error.code in _LOST:
                    letter.lost = _LOST[reply.error.code]
                else:
                    self._end(node, self._refusal(node, reply))
                    return

    def _look_after(self) -> None:
        """Ask again where a request or its reply may have got lost."""
        self._looked = time.monotonic()
        lost = [node for node, letter in self._letters.items() if letter.lost and not letter.ids]
        online: set[str] = set()
        if lost or self._presence.due:
            online = {str(node) for node in self._grid.get_node_ids()}
            self._presence.saw(online)
        for node, letter in list(self._letters.items()):
            silent, patience = self._looked - letter.sent, self._study.patience(node)
            again = (node in online) if node in lost else patience is not None and silent > patience
            if again and letter.tries < _TRIES and (request := self._study.follow_up(node)):
                _logger.info("round %d: node %s is asked again", self._study.number, node)
                self._send(node, request)
            elif node in lost and (letter.tries >= _TRIES or silent > self._return_s or self._study.is_removed(node)):
                self._end(node, letter.lost)

    def _end(self, node: str, reason: str) -> None:
        """The site has answered, or there is a `reason` why not; a newcomer is asked the next thing at once."""
        del self._letters[node]
        self._presence.answered(node, reason=reason)
        if reason:
            self.rejected[node] = reason
            _logger.warning("round %d: node %s rejected: %s", self._study.number, node, reason)
        elif more := self._study.follow_up(node):
            self._send(node, more)
            self._presence.asked([node], number=self._study.number)
        self._tell()

    def _give_up(self) -> None:
        self.late = [node for node, letter in self._letters.items() if not letter.lost]
        seconds = self._study.settings.round_timeout
        for node, letter in list(self._letters.items()):
            self._end(node, letter.lost or f"no reply within {seconds:.0f} s")

    def _tell(self) -> None:
        self._asked = max(self._asked, len(self._letters))
        names = sorted(self._study.name(node) for node in self._letters)
        counts = {"replies": self._asked - len(names), "asked": self._asked}
        self._publish({"state": "running", **counts, "waiting_for": names})

    def _refusal(self, node: str, reply: Message) -> str:
        """Give the reply to the study; the reason why it is not used, or nothing.

        `node` comes from the message that was sent: Flower's own error for a lost site names no site.
        """
        try:
            if reply.has_error():  # the reason text of a site is never repeated: it may hold anything
                return _FAILED.get(reply.error.code, f"Flower error {reply.error.code}")
            self._study.accept(node, records.from_record(reply.content))
        except Rejected as error:
            return error.message
        except Exception as error:  # whatever a site sends: it is refused and the round goes on
            _logger.warning("node %s: unexpected %s", node, type(error).__name__, exc_info=True)
            return f"its reply cannot be used ({type(error).__name__})"
        return ""
