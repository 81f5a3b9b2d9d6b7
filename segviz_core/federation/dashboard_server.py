"""The dashboard as a web page on this computer alone: three files and data.json, read-only, nothing from elsewhere."""

import json
import sys
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from segviz_core.errors import InputError, SegVizError
from segviz_core.federation.dashboard import dashboard

HOST, PORT = "127.0.0.1", 9444

_PAGE = Path(__file__).with_name("dashboard_page")
_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_NAMES = {"127.0.0.1", "localhost"}
"""A page of somebody else whose name suddenly leads to this computer (DNS rebinding) asks with another Host."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_POLL_S = 0.25


def serve_dashboard(
    folder: Path, *, port: int = PORT, on_ready: Callable[[str], None], poll: Callable[[], None] = lambda: None
) -> None:
    """Serve the dashboard of the study in `folder` until `poll` raises; `on_ready` gets its address.

    Port 0 is any free one.

    Raises:
        InputError: there is no study in `folder`, or the port is taken.
    """
    dashboard(folder)
    try:
        server = _Server((HOST, port), partial(_Handler, folder))
    except OSError as error:
        raise InputError(
            f"Port {port} of this computer is taken by another program.", hint="Choose another one with --port."
        ) from error
    with server:
        server.timeout = _POLL_S
        on_ready(f"http://{HOST}:{server.server_address[1]}/")
        while True:
            poll()
            server.handle_request()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = sys.platform != "win32"  # there it would share the port with whoever has it


class _Handler(BaseHTTPRequestHandler):
    timeout = 10  # seconds that a silent connection may last
    server_version, sys_version = "SegViz", ""

    def __init__(self, folder: Path, *arguments: Any) -> None:
        self._folder = folder
        super().__init__(*arguments)

    def do_GET(self) -> None:
        """Answer with the page, its data, or why not."""
        if self.headers.get("Host", "").rpartition(":")[0] not in _NAMES:
            self._say(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", b"This page is for this computer alone.\n")
        elif self.path in _FILES:
            name, kind = _FILES[self.path]
            self._say(HTTPStatus.OK, kind, (_PAGE / name).read_bytes())
        elif self.path == "/data.json":
            self._say_data()
        else:
            self._say(HTTPStatus.NOT_FOUND, "text/plain", b"There is no such page.\n")

    def _refuse(self) -> None:
        self._say(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"This page can only be read.\n", Allow="GET")

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815

    def _say_data(self) -> None:
        try:
            status, values = HTTPStatus.OK, dashboard(self._folder)
        except SegVizError as error:
            status, values = HTTPStatus.INTERNAL_SERVER_ERROR, {"message": error.message, "hint": error.hint}
        self._say(status, "application/json", json.dumps(values, allow_nan=False).encode())

    def _say(self, status: HTTPStatus, kind: str, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in (_HEADERS | headers).items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing: a line every two seconds helps nobody."""
