"""The server's loop: asks the sites, takes their replies one by one behind the guard, and closes the round.

What to ask and what follows from the replies is Study's business; this file only moves messages through Flower's Grid.
flwr's own FedAvg would end the run for one bad reply, scale heads by all sites' weights and keep all replies in memory
(method.md 5.3, flower.md section 1).
"""

import logging
import time
from collections.abc import Callable
from typing import Any

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from segviz_core.errors import InputError
from segviz_core.federation import records
from segviz_core.federation.guard import Rejected
from segviz_core.federation.packets import Packet
from segviz_core.federation.presence import Presence
from segviz_core.federation.study import Study

_logger = logging.getLogger(__name__)

POLL_S = 0.25

Publish = Callable[[dict[str, Any]], None]


def conduct(grid: Grid, study: Study, *, publish: Publish) -> None:
    """Play the rounds that are left. `publish` gets what a reader of the status wants to know, at every change.

    Raises:
        InputError: sites are missing for longer than the study waits. Every finished round is safe.
        SegVizError: a round failed three times.
    """
    presence = Presence(study.folder)
    while not study.finished:
        _play_round(grid, study, _wait_for_sites(grid, study, publish, presence), publish, presence)


def _wait_for_sites(grid: Grid, study: Study, publish: Publish, presence: Presence) -> list[str]:
    deadline = time.monotonic() + study.settings.wait_seconds
    said: list[str] = []
    while missing := study.missing(online := _online(grid)):
        presence.saw(online)
        if time.monotonic() > deadline:
            raise InputError(
                f"Round {study.number} ({study.stage}) waits for {', '.join(missing)}: not online after "
                f"{study.settings.wait_seconds:.0f} s.",
                hint="Nothing is lost: ask the sites to join, then start the study again.",
            )
        if missing != said:
            publish({"state": "waiting", "message": f"Waiting for {', '.join(missing)}.", "online": len(online)})
            said = missing
        time.sleep(POLL_S)
    presence.saw(online)
    return online


def _online(grid: Grid) -> list[str]:
    return sorted(str(node) for node in grid.get_node_ids())


def _play_round(grid: Grid, study: Study, online: list[str], publish: Publish, presence: Presence) -> None:
    started = time.monotonic()
    number, stage, timeout = study.number, study.stage, study.settings.round_timeout
    waiting = _send(grid, study.requests(online), ttl=timeout)
    asked, rejected = len(waiting), {}
    presence.asked(waiting.values(), number=number)
    publish({"state": "running", "replies": 0, "asked": asked})
    while waiting:
        for message_id, node in list(waiting.items()):
            for reply in grid.pull_messages([message_id]):
                del waiting[message_id]
                reason = _refusal(study, node, reply)
                presence.answered(node, reason=reason)
                if reason:
                    rejected[node] = reason
                    _logger.warning("round %d: node %s rejected: %s", number, node, reason)
                publish({"state": "running", "replies": asked - len(waiting), "asked": asked})
        if time.monotonic() - started > timeout:
            rejected |= dict.fromkeys(waiting.values(), f"no reply within {timeout:.0f} s")
            break
        if presence.due:
            presence.saw(_online(grid))
        if waiting:
            time.sleep(POLL_S)
    row = study.close_round(seconds=time.monotonic() - started, rejected=rejected)
    _logger.info("round %d (%s): %.1f s, %d rejected", number, stage, row["seconds"], len(row["rejected"]))


def _send(grid: Grid, requests: dict[str, Packet], *, ttl: float) -> dict[str, str]:
    """Push one message after the other, so that memory holds one; gives message id -> node id.

    The lifetime is the round's: a slow site goes straight to the current round instead of working through stale ones.
    """
    waiting = {}
    for node, packet in requests.items():
        content = records.to_record(packet)
        message = Message(content, dst_node_id=int(node), message_type=MessageType.TRAIN, ttl=ttl)
        for message_id in grid.push_messages([message]):
            if message_id:
                waiting[message_id] = node
    return waiting


def _refusal(study: Study, node: str, reply: Message) -> str:
    """Give the reply to the study; the reason why it is not used, or nothing.

    `node` comes from the message that was sent: Flower's own error for a lost site names no site.
    """
    try:
        if reply.has_error():
            return _flower_error(reply.error.code)
        study.accept(node, records.from_record(reply.content))
    except Rejected as error:
        return error.message
    except Exception as error:  # whatever a site sends: it is refused and the round goes on
        _logger.warning("node %s: unexpected %s", node, type(error).__name__, exc_info=True)
        return f"its reply cannot be used ({type(error).__name__})"
    return ""


def _flower_error(code: int) -> str:
    """Flower's codes in words; the reason text of a site is never repeated (it may hold anything)."""
    return {
        1: "its ClientApp cannot be loaded",
        2: "its ClientApp raised an error",
        3: "it gave no reply in time",
        4: "it gave no reply in time",
        5: "it went offline during the round",
        8: "its ClientApp ended without a reply",
    }.get(code, f"Flower error {code}")
