"""The dashboard of a study folder, served by a thread of this process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segviz_core.errors import Cancelled
from segviz_core.federation.dashboard_server import serve_dashboard

_WAIT_S = 20.0


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Its address while the block runs."""
    urls: list[str] = []
    ready, done = threading.Event(), threading.Event()

    def tell(url: str) -> None:
        urls.append(url)
        ready.set()

    def poll() -> None:
        if done.is_set():
            raise Cancelled

    def work() -> None:
        with suppress(Cancelled):
            serve_dashboard(folder, port=0, on_ready=tell, poll=poll)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert ready.wait(_WAIT_S), "the dashboard did not start"
        yield urls[0]
    finally:
        done.set()
        thread.join(_WAIT_S)
