"""Stands before the coordinator's front and ends TLS with its certificate: sees all that sites send, in the clear.

Passes every byte on to the real front over TLS.
"""

import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path

from segviz_core.federation.coordinator import CA_FILE, CERTIFICATE_FILE, SERVER_KEY_FILE


class TlsTap:
    """Listens at `port` of 127.0.0.1 until closed; `sent` holds one buffer per connection of a site."""

    def __init__(self, study: Path, *, front: int) -> None:
        self.sent: list[bytearray] = []
        self._front = front
        self._inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._inside.load_cert_chain(study / CERTIFICATE_FILE, study / SERVER_KEY_FILE)
        self._outside = ssl.create_default_context(cafile=str(study / CA_FILE))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Let nobody else in."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        buffer = bytearray()
        self.sent.append(buffer)
        with suppress(OSError), self._inside.wrap_socket(connection, server_side=True) as site:
            line = socket.create_connection(("127.0.0.1", self._front))
            with self._outside.wrap_socket(line, server_hostname="127.0.0.1") as front:
                back = threading.Thread(target=_pump, args=(front, site, None), daemon=True)
                back.start()
                _pump(site, front, buffer)
                back.join()


def _pump(source: ssl.SSLSocket, sink: ssl.SSLSocket, record: bytearray | None) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            if record is not None:
                record += data
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
