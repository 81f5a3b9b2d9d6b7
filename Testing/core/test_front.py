"""What a network reaches of a study: the same tests for the built-in front and nginx, before one real SuperLink."""

import asyncio
import http.client
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import flwr.supernode.node_auth_http_interceptor as interceptor
import httpx
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from federation_processes import Coordinator, wait_until
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, RegisterNodeFleetRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from toy_study import free_port, write_toy_study

from segviz_core.federation import certificates, clock, coordinator
from segviz_core.federation.fleet_paths import PATHS
from segviz_core.federation.front import Front, Limits
from segviz_core.federation.kit import FLWR_VERSION, read_kit

WHAT_TO_DO = (
    f"The paths were listed for Flower {FLWR_VERSION}; this one has others. Decide for each new one whether a site "
    "needs it, and adapt segviz_core/federation/fleet_paths.py."
)
FRONTS = ["built-in", "nginx"]


@dataclass
class Served:
    """A study whose SuperLink runs, the ports of what stands before it, and the private key of its one site."""

    study: Path
    ports: dict[str, int]
    superlink: int
    key: bytes

    def ask(self, port: int, method: str, path: str, body: bytes = b"", **headers: str) -> int:
        """The status of one request over TLS."""
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=self.tls(), timeout=30)
        try:
            connection.request(method, path, body, {"Content-Type": "application/protobuf", **headers})
            return connection.getresponse().status
        finally:
            connection.close()

    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.study / "ca.crt"))

    @contextmanager
    def node(self, port: int, key: bytes) -> Iterator[FleetHttpClient]:
        """Flower's own client of a site, which signs with `key`."""
        private = load_ssh_private_key(key, None)
        authority = (self.study / "ca.crt").read_bytes()
        signing = interceptor.NodeAuthHttpInterceptor(private, private.public_key())
        with FleetHttpClient.from_server_address(f"127.0.0.1:{port}", False, authority, [signing]) as client:
            yield client


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("front")
    study, superlink, ports = folder / "study", free_port(), {name: free_port() for name in FRONTS}
    write_toy_study(study, rounds=1, min_sites=2, wait_seconds=600.0)
    coordinator.provision(study, "toy", port=ports["nginx"])
    configuration = coordinator.choose_front(study, "nginx", superlink_port=superlink)
    kit = read_kit(coordinator.add_site(study, "north"))
    with (
        Coordinator(study) as process,
        built_in(study, superlink, ports["built-in"]),
        nginx(folder, configuration),
    ):
        wait_until(lambda: coordinator.status(study)["state"] == "waiting", 120, process.output)
        yield Served(study, ports, superlink, kit.key)


@contextmanager
def built_in(study: Path, superlink: int, port: int, limits: Limits | None = None) -> Iterator[None]:
    """The built-in front of `study` in a thread."""
    files = {"certificate": study / "server.crt", "key": study / "server.key", "authority": study / "ca.crt"}
    front, loop, started = Front(superlink, limits=limits, **files), asyncio.new_event_loop(), threading.Event()

    async def run() -> None:
        await front.start("127.0.0.1", port)
        started.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(main := loop.create_task(run()),))
    thread.start()
    assert started.wait(10)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(main.cancel)
        thread.join()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


@contextmanager
def nginx(folder: Path, configuration: Path) -> Iterator[None]:
    """nginx with the written configuration, where it is installed."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if not program:
        yield
        return
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "main.conf").write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; events {{}}\n"
        f"http {{ client_body_temp_path {folder}/body; {temporary} include {configuration}; }}\n"
    )
    process = subprocess.Popen([program, "-c", folder / "main.conf", "-e", folder / "nginx.log"])
    try:
        yield
    finally:
        process.terminate()
        assert process.wait(10) == 0, (folder / "nginx.log").read_text(encoding="utf-8")


@pytest.fixture(params=FRONTS)
def port(request: pytest.FixtureRequest, served: Served) -> int:
    if request.param == "nginx" and not (served.study.parent / "nginx.pid").exists():
        pytest.skip("nginx is not installed: apt-get install nginx")
    return served.ports[request.param]


def test_list_of_paths_is_flowers_fleet_api_without_registration(served: Served) -> None:
    fleet = {path for path, _ in operations(served) if path.startswith("/v1/fleet/")}
    assert set(PATHS) == fleet - {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}, WHAT_TO_DO


def test_every_other_path_of_flowers_server_is_unknown_to_the_network(served: Served, port: int) -> None:
    others = [(path, method) for path, method in operations(served) if path not in PATHS]
    assert len(others) > 60
    assert {path.split("/")[2] for path, _ in others if path.startswith("/v1/")} >= {"control", "runtime", "fleet"}
    for path, method in [*others, ("/docs", "GET"), ("/openapi.json", "GET"), ("/", "GET"), ("/v1/fleet/", "POST")]:
        assert served.ask(port, method, path) == 404, path


def test_what_a_site_may_ask_needs_the_key_of_a_site(served: Served, port: int) -> None:
    for path in PATHS:
        assert served.ask(port, "POST", path) == 401, path
        assert served.ask(port, "GET", path) == 404, path


@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/get-run/../../control/list-runs",
        "/v1/control/list-runs?/v1/fleet/get-run",
        "/v1/control/list-runs%3F/v1/fleet/get-run",
        "/v1/control/list-runs#/v1/fleet/get-run",
        "//v1/control/list-runs",
        "/v1/fleet/register%2Dnode",
        "/v1/fleet/register-node/../get-run%00",
        "/V1/CONTROL/LIST-RUNS",
        "https://127.0.0.1/v1/control/list-runs",
    ],
)
def test_no_spelling_of_a_path_leads_to_the_control(served: Served, port: int, path: str) -> None:
    assert served.ask(port, "POST", path) in (400, 404)


def test_registered_site_gets_through_with_a_piece_of_weights(served: Served, port: int) -> None:
    with served.node(port, served.key) as node:
        answer = node.ActivateNode(ActivateNodeRequest(public_key=public(served.key), heartbeat_interval=30))
        piece = bytes(5 * 2**20)
        request = PushObjectRequest(node=Node(node_id=answer.node_id), object_id="0" * 64, object_content=piece)
        with pytest.raises(httpx.HTTPStatusError) as caught:
            node.PushObject(request)
        assert caught.value.response.status_code not in (401, 404, 413, 502)  # there is no such run
        node.DeactivateNode(DeactivateNodeRequest(node_id=answer.node_id))


def test_unknown_key_is_told_that_it_is_not_registered(served: Served, port: int) -> None:
    stranger, _ = certificates.create_node_key()
    with served.node(port, stranger) as node:
        with pytest.raises(httpx.HTTPStatusError) as caught:
            node.ActivateNode(ActivateNodeRequest(public_key=public(stranger), heartbeat_interval=30))
        assert json.loads(caught.value.response.text)["code"] == 2004
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            node.RegisterNode(RegisterNodeFleetRequest(public_key=public(stranger)))


@pytest.mark.parametrize("minutes", [2, 0, -2])
def test_signature_of_a_clock_that_is_two_minutes_off_is_accepted(
    served: Served, minutes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    back = timedelta(seconds=clock.TOLERATED_S)  # as the node's process does
    monkeypatch.setattr(interceptor, "now", lambda: now() + timedelta(minutes=minutes) - back)
    with served.node(served.ports["built-in"], served.key) as node:
        answer = node.ActivateNode(ActivateNodeRequest(public_key=public(served.key), heartbeat_interval=30))
        node.DeactivateNode(DeactivateNodeRequest(node_id=answer.node_id))


@pytest.mark.parametrize("seconds", [-600.0, 0.0, 600.0])
def test_clocks_are_compared_by_the_date_of_any_answer(
    served: Served, port: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "time", SimpleNamespace(time=lambda: time.time() + seconds))
    assert clock.seconds_ahead(f"127.0.0.1:{port}", served.study / "ca.crt") == pytest.approx(seconds, abs=3)


def test_clock_of_nobody_is_unknown(served: Served) -> None:
    assert clock.seconds_ahead(f"127.0.0.1:{free_port()}", served.study / "ca.crt") is None


@pytest.mark.parametrize("minutes", [10, -10])
def test_signature_of_a_wrong_clock_is_refused(
    served: Served, port: int, minutes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptor, "now", lambda: now() + timedelta(minutes=minutes))
    with served.node(port, served.key) as node, pytest.raises(httpx.HTTPStatusError, match="401"):
        node.ActivateNode(ActivateNodeRequest(public_key=public(served.key), heartbeat_interval=30))


def test_body_larger_than_any_piece_is_refused(served: Served, port: int) -> None:
    with suppress(ConnectionError, ssl.SSLError):  # the front may hang up before all of it is sent
        assert served.ask(port, "POST", "/v1/fleet/push-object", bytes(16 * 2**20 + 1)) == 413


def test_old_tls_and_plain_http_are_refused(served: Served, port: int) -> None:
    old = served.tls()
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)), socket.create_connection(("127.0.0.1", port)) as plain:
        old.wrap_socket(plain, server_hostname="127.0.0.1")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        plain.sendall(b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"200" not in plain.recv(4096)


def test_two_lengths_in_one_request_do_not_smuggle_a_second(served: Served, port: int) -> None:
    inner = b"POST /v1/control/list-runs HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    outer = b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"
    with talk(served, port) as connection:
        connection.sendall(outer + b"0\r\n\r\n" + inner)
        assert b" 200 " not in everything(connection)


def test_front_says_that_the_server_is_away(served: Served, tmp_path: Path) -> None:
    """A node tries again after this answer, and after no other."""
    port = free_port()
    with built_in(served.study, free_port(), port):
        assert served.ask(port, "POST", PATHS[0]) == 502


def hold(connection: ssl.SSLSocket) -> None:
    """Say nothing."""


def half_a_head(connection: ssl.SSLSocket) -> None:
    connection.sendall(b"POST /v1/fleet/get-run HTTP/1.1\r\nHost:")


def half_a_body(connection: ssl.SSLSocket) -> None:
    connection.sendall(b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")


@pytest.mark.parametrize("start", [hold, half_a_head, half_a_body])
def test_peer_that_takes_too_long_is_hung_up_on(served: Served, start: Callable[[ssl.SSLSocket], None]) -> None:
    port = free_port()
    with (
        built_in(served.study, served.superlink, port, Limits(head=0.3, transfer=0.3)),
        talk(served, port) as connection,
    ):
        start(connection)
        begun = time.monotonic()
        assert everything(connection) == b"" or start is half_a_body
        assert time.monotonic() - begun < 8


def test_server_that_never_answers_costs_a_site_one_try(served: Served) -> None:
    port = free_port()
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        built_in(served.study, silent.getsockname()[1], port, Limits(transfer=0.3)),
    ):
        assert served.ask(port, "POST", PATHS[0]) == 502


def test_more_connections_than_the_limit_are_hung_up_on(served: Served) -> None:
    port = free_port()
    with built_in(served.study, served.superlink, port, Limits(connections=1)), talk(served, port) as first:
        with talk(served, port) as second:
            assert everything(second) == b""
        first.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b" 404 " in everything(first)


def operations(served: Served) -> list[tuple[str, str]]:
    """Path and method of everything that Flower's server offers, from its own description on loopback."""
    connection = http.client.HTTPSConnection("127.0.0.1", served.superlink, context=served.tls(), timeout=30)
    connection.request("GET", "/openapi.json")
    paths = json.loads(connection.getresponse().read())["paths"]
    connection.close()
    return [(path, method.upper()) for path, methods in paths.items() for method in methods]


def public(key: bytes) -> bytes:
    return public_key_to_bytes(load_ssh_private_key(key, None).public_key())


@contextmanager
def talk(served: Served, port: int) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        served.tls().wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        yield connection


def everything(connection: ssl.SSLSocket) -> bytes:
    """All that comes until the peer hangs up."""
    received = b""
    with suppress(ConnectionError, ssl.SSLError):
        while piece := connection.recv(65536):
            received += piece
    return received
