"""The server's loop: waits for the sites of a round, lets the round be played, and closes it.

What to ask and what follows from the replies is Study's business, exchange.py moves the messages through Flower's Grid.
flwr's own FedAvg would end the run for one bad reply, scale heads by all sites' weights and keep all replies in memory
(method.md 5.3, flower.md section 1).
"""

import logging
import time

from flwr.serverapp import Grid

from segviz_core.errors import InputError
from segviz_core.federation.exchange import POLL_S, Exchange, Publish
from segviz_core.federation.presence import Presence
from segviz_core.federation.study import WAY_OUT, Study

_logger = logging.getLogger(__name__)


def conduct(grid: Grid, study: Study, *, publish: Publish) -> None:
    """Play the rounds that are left, and more for newcomers of a finished study.

    `publish` gets what a reader of the status wants to know, at every change.

    Raises:
        InputError: sites are missing for longer than the study waits. Every finished round is safe.
        SegVizError: a round failed three times.
    """
    presence = Presence(study.folder)
    study.refresh()
    if study.finished:
        _wait_for_newcomers(grid, study, publish)
    while not study.finished or study.extend(_online(grid)):
        online = _wait_for_sites(grid, study, publish, presence)
        number, stage, started = study.number, study.stage, time.monotonic()
        round_ = Exchange(grid, study, presence, publish)
        round_.play(online)
        row = study.close_round(seconds=time.monotonic() - started, rejected=round_.rejected, late=round_.late)
        _logger.info("round %d (%s): %.1f s, %d rejected", number, stage, row["seconds"], len(row["rejected"]))


def _wait_for_sites(grid: Grid, study: Study, publish: Publish, presence: Presence) -> list[str]:
    deadline = time.monotonic() + study.settings.wait_seconds
    said: list[str] = []
    while missing := study.missing(online := _online(grid)):
        presence.saw(online)
        if time.monotonic() > deadline:
            raise InputError(
                f"Round {study.number} ({study.stage}) waits for {', '.join(missing)}: not online after "
                f"{study.settings.wait_seconds:.0f} s.",
                hint=f"Nothing is lost: ask the sites to join; {WAY_OUT}",
            )
        if missing != said:
            publish({"state": "waiting", "message": f"Waiting for {', '.join(missing)}.", "online": len(online)})
            said = missing
        time.sleep(POLL_S)
    presence.saw(online)
    return online


def _wait_for_newcomers(grid: Grid, study: Study, publish: Publish) -> None:
    """A finished study that is started again waits for the sites that were added since; without any it just ends."""
    deadline = time.monotonic() + study.settings.wait_seconds
    if names := ", ".join(study.newcomers):
        publish({"state": "waiting", "message": f"The study is finished; waiting for {names} to join it."})
        while time.monotonic() < deadline and not study.extend(_online(grid)):
            time.sleep(POLL_S)


def _online(grid: Grid) -> list[str]:
    return sorted(str(node) for node in grid.get_node_ids())
