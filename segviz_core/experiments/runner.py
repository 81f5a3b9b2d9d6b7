"""A federation in one process: the same Study and SiteSessions as the real one, without Flower, sockets or TLS."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from segviz_core.federation.guard import Rejected
from segviz_core.federation.packets import Packet
from segviz_core.federation.study import Study

Answer = Callable[[Packet], Packet]


def run_study(
    study: Study,
    sites: Mapping[str, Answer],
    *,
    on_round: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Run `study` to its end with `sites` (node id -> SiteSession.handle), one after the other; resumes.

    A reply that the guard rejects is recorded like in a real federation.
    """
    while not study.finished or study.extend(list(sites)):
        started = time.monotonic()
        rejected: dict[str, str] = {}
        asked = deque(study.requests(list(sites)))
        while asked:
            node, request = asked.popleft()
            try:
                study.accept(node, Packet.from_bytes(sites[node](request).to_bytes()))
            except Rejected as error:
                rejected[node] = error.message
            else:
                asked += [(node, more)] if (more := study.follow_up(node)) else []
        row = study.close_round(seconds=time.monotonic() - started, rejected=rejected)
        if on_round:
            on_round(row)
