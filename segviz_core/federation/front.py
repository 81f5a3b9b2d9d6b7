"""The front: the one port of a study that a network sees. It ends TLS, passes on what sites need, and nothing else.

    python -P -m segviz_core.federation.front BIND PORT SUPERLINK_PORT CERTIFICATE KEY AUTHORITY

Flower serves sites, its own control and its runtime on one port, and whoever reaches that port controls the study
(flower.md section 4). So Flower's server stays on loopback, and this, or nginx (nginx.py), stands before it. Requests
are read by h11 and written anew from the few headers that Flower needs; nothing of them is logged or kept.
"""

import asyncio
import contextlib
import ssl
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import h11

from segviz_core.federation import journal
from segviz_core.federation.child import end_with_parent
from segviz_core.federation.fleet_paths import LARGEST_BODY, PATHS

_REQUEST_HEADERS = {b"content-type", b"content-length", b"accept"}
_ANSWER_HEADERS = {b"content-type", b"content-length", b"date"}
_FLOWER_HEADERS = b"flwr-"
_LARGEST_HEAD, _PIECE = 16_384, 65_536
_Event = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]
_FRESH_S = 3.0  # Flower's server closes a connection after 5 s without a request


@dataclass(frozen=True)
class Limits:
    """How long, in seconds, a peer may take, and how many may be connected.

    `transfer` is for one body: Flower itself gives up an upload after 180 s. `idle` is between two requests.
    """

    handshake: float = 10.0
    head: float = 10.0
    transfer: float = 180.0
    idle: float = 75.0
    connections: int = 400


class Front:
    """A TLS server that passes PATHS on to `port` of this computer, whose certificate `authority` has signed."""

    def __init__(
        self, port: int, *, certificate: Path, key: Path, authority: Path, limits: Limits | None = None
    ) -> None:
        self._port, self._limits, self._connected = port, limits or Limits(), 0
        self._server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server_tls.minimum_version = ssl.TLSVersion.TLSv1_2
        self._server_tls.load_cert_chain(certificate, key)
        self._client_tls = ssl.create_default_context(cafile=str(authority))

    async def start(self, bind: str, port: int) -> asyncio.Server:
        """Listen at `bind`:`port`; every connection is served by a task of its own."""
        return await asyncio.start_server(
            self._serve,
            bind,
            port,
            ssl=self._server_tls,
            ssl_handshake_timeout=self._limits.handshake,
            ssl_shutdown_timeout=2,
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        site = _Peer(h11.Connection(h11.SERVER, max_incomplete_event_size=_LARGEST_HEAD), reader, writer)
        onward = _Onward(self._port, self._client_tls)
        patience = self._limits.head
        self._connected += 1
        try:
            while self._connected <= self._limits.connections and await self._exchange(site, onward, patience):
                site.http.start_next_cycle()
                patience = self._limits.idle
        except (OSError, h11.ProtocolError, asyncio.CancelledError):
            pass  # gone, too slow, no HTTP, or the end of this process: there is nobody to tell
        finally:
            self._connected -= 1
            onward.close()
            site.close()

    async def _exchange(self, site: "_Peer", onward: "_Onward", patience: float) -> bool:
        """One request and its answer; whether the connection can be used again."""
        request = await site.request(idle=patience, head=self._limits.head)
        if request is None:
            return False
        status = _refusal(request)
        if not status:
            try:
                await self._pass_on(request, site, onward)
                return site.http.our_state is h11.DONE and site.http.their_state is h11.DONE
            except (OSError, h11.ProtocolError):
                status = 502  # a node tries again after this one, and after no other
        headers = [("content-length", "0"), ("connection", "close"), ("date", formatdate(usegmt=True))]
        await site.send(h11.Response(status_code=status, headers=headers), h11.EndOfMessage())
        return False

    async def _pass_on(self, request: h11.Request, site: "_Peer", onward: "_Onward") -> None:
        async with asyncio.timeout(self._limits.transfer):
            server = await onward.peer()
            headers = [(b"host", b"localhost"), *_kept(request.headers, _REQUEST_HEADERS)]
            await server.send(h11.Request(method=b"POST", target=request.target, headers=headers))
            await _body(site, server)
        async with asyncio.timeout(self._limits.transfer):
            answer = await server.event()
            if not isinstance(answer, h11.Response):
                raise ConnectionError("no answer")
            headers = _kept(answer.headers, _ANSWER_HEADERS)
            await site.send(h11.Response(status_code=answer.status_code, headers=headers))
            await _body(server, site)
        onward.answered()


class _Peer:
    """One connection: HTTP over a pair of streams."""

    def __init__(self, http: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.http, self.reader, self._writer = http, reader, writer

    async def request(self, *, idle: float, head: float) -> h11.Request | None:
        """The next request, None where the peer has closed: its first byte within `idle` seconds, all within `head`."""
        event = self.http.next_event()
        if event is h11.NEED_DATA:
            async with asyncio.timeout(idle):
                await self._fill()
            async with asyncio.timeout(head):
                event = await self.event()
        return event if isinstance(event, h11.Request) else None

    async def event(self) -> _Event:
        """The next event of HTTP, once there is one."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            await self._fill()
        return event

    async def send(self, *events: h11.Event) -> None:
        """Write events, at the speed of the peer."""
        for event in events:
            if data := self.http.send(event):
                self._writer.write(data)
        await self._writer.drain()

    def close(self) -> None:
        """Hang up. What is already written still goes out."""
        self._writer.close()

    async def _fill(self) -> None:
        self.http.receive_data(await self.reader.read(_PIECE))


class _Onward:
    """The way from one site's connection to Flower's server, renewed before the server would close it."""

    def __init__(self, port: int, tls: ssl.SSLContext) -> None:
        self._port, self._tls, self._used = port, tls, 0.0
        self._peer: _Peer | None = None

    async def peer(self) -> _Peer:
        """An open connection to Flower's server."""
        fresh = time.monotonic() - self._used < _FRESH_S
        if not self._peer or not fresh or self._peer.reader.at_eof():
            self.close()
            streams = await asyncio.open_connection("127.0.0.1", self._port, ssl=self._tls)
            self._peer = _Peer(h11.Connection(h11.CLIENT), *streams)
        self._used = 0.0  # not to be used again unless `answered`
        return self._peer

    def answered(self) -> None:
        """The answer has been read to its end."""
        assert self._peer is not None
        if self._peer.http.our_state is h11.DONE and self._peer.http.their_state is h11.DONE:
            self._peer.http.start_next_cycle()
            self._used = time.monotonic()

    def close(self) -> None:
        """Hang up."""
        if self._peer:
            self._peer.close()
        self._peer = None


def _refusal(request: h11.Request) -> int:
    """The status with which a request is refused, 0 where it may pass."""
    headers = {bytes(name): bytes(value) for name, value in request.headers}
    if request.method != b"POST" or bytes(request.target).decode("latin-1") not in PATHS:
        return 404
    if b"transfer-encoding" in headers:
        return 411
    return 413 if int(headers.get(b"content-length", b"0")) > LARGEST_BODY else 0


def _kept(headers: Iterable[tuple[bytes, bytes]], names: set[bytes]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name in names or name.startswith(_FLOWER_HEADERS)]


async def _body(source: _Peer, target: _Peer) -> None:
    while isinstance(event := await source.event(), h11.Data):
        await target.send(h11.Data(data=event.data))
    if not isinstance(event, h11.EndOfMessage):
        raise ConnectionError("cut short")
    await target.send(h11.EndOfMessage())


async def _run(bind: str, port: int, front: Front) -> None:
    end, loop = asyncio.Event(), asyncio.get_running_loop()

    def stop() -> None:
        loop.call_soon_threadsafe(end.set)

    end_with_parent(stop)
    server = await front.start(bind, port)
    journal.say("listening", bind=bind, port=port)
    await end.wait()
    server.close()


def main(arguments: Sequence[str]) -> None:
    """Serve until standard input closes."""
    bind, port, superlink_port, certificate, key, authority = arguments
    front = Front(int(superlink_port), certificate=Path(certificate), key=Path(key), authority=Path(authority))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(bind, int(port), front))


if __name__ == "__main__":
    main(sys.argv[1:])
