import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from segviz_core.federation import certificates
from segviz_core.federation.clock import seconds_ahead
from segviz_core.federation.way_out import connection_to, proxy_to

HOST = "coordinator.test"


class Proxy:
    """A hospital's proxy: it alone knows where HOST is, and lets CONNECT through to `target`."""

    def __init__(self, target: int) -> None:
        self.asked: list[str] = []
        self._target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += client.recv(4096)
        self.asked.append(request.decode())
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            while True:
                for end in select.select([client, server], [], [])[0]:
                    if not (data := end.recv(65536)):
                        return
                    (server if end is client else client).sendall(data)


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """The study's authority; beside it the coordinator's own certificate and key."""
    ca, key = certificates.create_authority("study")
    server, server_key = certificates.create_server_certificate(ca, key, host=HOST)
    for name, content in (("ca.crt", ca), ("server.crt", server), ("server.key", server_key)):
        (tmp_path / name).write_bytes(content)
    return tmp_path / "ca.crt"


@pytest.fixture
def coordinator(authority: Path) -> Iterator[int]:
    """A TLS server that answers everything with a date, at this port of 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.parent / "server.crt", authority.parent / "server.key")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                plain, _ = listener.accept()
                with context.wrap_socket(plain, server_side=True) as secure:
                    secure.recv(4096)
                    secure.sendall(
                        b"HTTP/1.1 404 x\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 0\r\n\r\n"
                    )
            except ssl.SSLError:
                continue
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.close()


@pytest.fixture
def proxy(coordinator: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name in ("no_proxy", "NO_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    found = Proxy(coordinator)
    monkeypatch.setenv("HTTPS_PROXY", f"http://{found.address}")
    yield found
    found.listener.close()


def test_clock_is_compared_through_the_proxy_and_tls_ends_at_the_coordinator(proxy: Proxy, authority: Path) -> None:
    ahead = seconds_ahead(f"{HOST}:9443", authority)
    assert ahead is not None
    assert ahead > 1e9  # since 1970
    assert proxy.asked[0].startswith(f"CONNECT {HOST}:9443 HTTP/1.")


def test_proxy_that_breaks_up_tls_is_noticed(proxy: Proxy, tmp_path: Path) -> None:
    other, _ = certificates.create_authority("other")
    context = ssl.create_default_context(cadata=other.decode())
    with (
        closing(connection_to(HOST, 9443, context=context, timeout=5)) as connection,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        connection.connect()


def test_login_of_the_proxy_is_sent_to_the_proxy(
    proxy: Proxy, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://ann:p%40ss@{proxy.address}")
    assert seconds_ahead(f"{HOST}:9443", authority) is not None
    assert "Proxy-Authorization: Basic YW5uOnBAc3M=" in proxy.asked[0]  # ann:p@ss
    assert proxy_to(HOST) == proxy.address  # what may be shown


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "inside.hospital.test"])
def test_hosts_that_need_no_proxy_are_reached_directly(
    proxy: Proxy, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert proxy_to(HOST)
    monkeypatch.setenv("NO_PROXY", "hospital.test")
    assert proxy_to(host) == ""


def test_without_a_proxy_the_way_is_direct(coordinator: int, authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert proxy_to(HOST) == ""
    context = ssl.create_default_context(cafile=str(authority))
    with closing(connection_to("127.0.0.1", coordinator, context=context, timeout=5)) as connection:
        connection.connect()
        assert connection.sock.getpeername() == ("127.0.0.1", coordinator)
