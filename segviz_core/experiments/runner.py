"""A federation in one process: the same Study and SiteSessions as the real one, without Flower, sockets or TLS."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from segviz_core.federation.guard import Rejected
from segviz_core.federation.packets import Packet
from segviz_core.federation.session import SiteSession
from segviz_core.federation.study import Study

Answer = Callable[[Packet], Packet]


def run_study(
    study: Study,
    sites: Mapping[str, SiteSession | Answer],
    *,
    on_round: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Run `study` to its end with `sites` (by node id), one site after the other; resumes at the next round.

    A reply that the guard rejects is recorded like in a real federation.
    """
    answers: dict[str, Answer] = {
        node: site.handle if isinstance(site, SiteSession) else site for node, site in sites.items()
    }
    while not study.finished:
        started = time.monotonic()
        rejected: dict[str, str] = {}
        for node, request in study.requests(list(answers)).items():
            try:
                study.accept(node, Packet.from_bytes(answers[node](request).to_bytes()))
            except Rejected as error:
                rejected[node] = error.message
        row = study.close_round(seconds=time.monotonic() - started, rejected=rejected)
        if on_round:
            on_round(row)
