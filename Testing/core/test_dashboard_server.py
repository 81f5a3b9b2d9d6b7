"""The dashboard's server: reads only, for this computer only, whoever asks."""

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from served_dashboard import served
from toy_study import write_toy_study

from segviz_core.errors import InputError
from segviz_core.federation import coordinator
from segviz_core.federation.dashboard_server import serve_dashboard


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("study")
    write_toy_study(folder)
    coordinator.provision(folder, "toy")
    with served(folder) as url:
        yield int(url.rstrip("/").rpartition(":")[2])


def ask(port: int, path: str, *, method: str = "GET", host: str | None = None) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": host} if host is not None else {})
    answer = connection.getresponse()
    try:
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_page_and_data_are_served_to_this_computer(port: int) -> None:
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost:8000"):  # the last one: through an ssh tunnel
        status, headers, content = ask(port, "/data.json", host=host)
        assert (status, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
        assert json.loads(content)["study"] == "toy"
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        status, headers, _ = ask(port, path)
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")


@pytest.mark.parametrize("host", ["evil.example:{}", "127.0.0.1.evil.example:{}", "evil.example", "", "[::1]:{}"])
def test_other_names_of_this_computer_are_refused(port: int, host: str) -> None:
    """DNS rebinding: a name of somebody else that suddenly leads here."""
    status, _, content = ask(port, "/data.json", host=host.format(port))
    assert status == 421
    assert b"toy" not in content


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_nothing_but_reading_is_possible(port: int, method: str) -> None:
    status, headers, _ = ask(port, "/data.json", method=method)
    assert (status, headers["Allow"]) == (405, "GET")


@pytest.mark.parametrize("path", ["/ca.key", "/../study.json", "/page.js/../../study.json", "/%2e%2e/study.json"])
def test_no_other_file_is_served(port: int, path: str) -> None:
    assert ask(port, path)[0] == 404


def test_answers_are_not_stored_and_load_nothing_from_elsewhere(port: int) -> None:
    for path in ("/", "/data.json", "/missing"):
        _, headers, _ = ask(port, path)
        assert headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Server"].strip() == "SegViz"


def test_connection_that_says_nothing_does_not_keep_others_waiting(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)):
        assert ask(port, "/data.json")[0] == 200


def test_only_the_loopback_address_listens(port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.2", port))  # would be taken if the page listened on every address


def test_taken_port_is_named(port: int, tmp_path: Path) -> None:
    write_toy_study(tmp_path)
    coordinator.provision(tmp_path, "toy")
    with pytest.raises(InputError, match=f"Port {port} of this computer is taken"):
        serve_dashboard(tmp_path, port=port, on_ready=print)


def test_folder_without_a_study_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no study in"):
        serve_dashboard(tmp_path, port=0, on_ready=pytest.fail)
