"""A TCP proxy between a site and its coordinator that can be cut, held and slowed down."""

import asyncio
import threading
import time
from contextlib import suppress

_PIECE = 16_384


class Proxy:
    """Passes connections to 127.0.0.1:`port` on to `target`, in a thread of its own."""

    def __init__(self, port: int, target: int) -> None:
        self.port, self._target = port, target
        self._bytes_per_second = 0.0
        self._held = self._resets = False
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.up()

    def cut(self) -> None:
        """Break all connections and refuse new ones."""
        self._call(self._cut())

    def up(self) -> None:
        """Listen (again)."""
        self._call(self._listen())

    def hold(self, held: bool) -> None:
        """Keep connections open but pass nothing on, as a network that drops packets does."""
        self._held = held

    def reset(self, resets: bool) -> None:
        """Break all connections, and every new one as soon as it is there."""
        self._resets = resets
        if resets:
            self._call(self._break())

    def limit(self, bytes_per_second: float) -> None:
        """Pass on at most so much per connection and direction; 0: no limit."""
        self._bytes_per_second = bytes_per_second

    def close(self) -> None:
        """End for good."""
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _call(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)  # type: ignore[arg-type]

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _cut(self) -> None:
        if self._server:
            self._server.close()
        self._server = None
        await self._break()

    async def _break(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._resets:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            onward_reader, onward = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        self._open.add(onward)
        await asyncio.gather(self._pass(reader, onward), self._pass(onward_reader, writer))
        self._open -= {writer, onward}

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(_PIECE if not self._bytes_per_second else 512):
                started = time.monotonic()
                while self._held:
                    await asyncio.sleep(0.05)
                target.write(data)
                await target.drain()
                if self._bytes_per_second:
                    left = len(data) / self._bytes_per_second - (time.monotonic() - started)
                    await asyncio.sleep(max(0.0, left))
        with suppress(OSError):
            target.close()
