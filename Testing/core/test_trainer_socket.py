import json
import stat
import threading
from collections.abc import Callable
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path

import numpy as np
import pytest

from segviz_core.errors import Cancelled, InputError
from segviz_core.federation import trainer_socket
from segviz_core.federation.packets import Packet
from segviz_core.federation.trainer_socket import ADDRESS_FILE, TrainerError, ask

REQUEST = Packet({"stage": "train", "round": 3}, {"representation": {"w": np.arange(4, dtype=np.float32)}})

Serve = Callable[[trainer_socket.Handle], list[BaseException]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Start a trainer that answers by a function; gives the list of the errors that it notes."""

    def start(handle: trainer_socket.Handle) -> list[BaseException]:
        errors: list[BaseException] = []
        listener = trainer_socket.listen(tmp_path)
        threading.Thread(
            target=trainer_socket.serve, args=(listener, handle), kwargs={"on_error": errors.append}, daemon=True
        ).start()
        return errors

    return start


def test_answer_comes_back_through_the_socket(tmp_path: Path, serve: Serve) -> None:
    def double(request: Packet, _: object) -> Packet:
        arrays = {"representation": {"w": request.arrays["representation"]["w"] * 2}}
        return Packet(request.settings, arrays, {"loss": 0.5})

    errors = serve(double)
    for _ in range(2):  # one connection after the other
        reply = ask(tmp_path, REQUEST)
        np.testing.assert_array_equal(reply.arrays["representation"]["w"], [0, 2, 4, 6])
        assert reply.metrics == {"loss": 0.5}
    assert errors == []


@pytest.mark.parametrize(
    "error, code",
    [
        (InputError("step 3 of /data/DOE_JOHN.nii.gz"), "refused"),
        (RuntimeError("crash while reading /data/DOE_JOHN.nii.gz"), "failed"),
        (Cancelled(), "stopped"),
    ],
)
def test_error_crosses_the_socket_as_a_code_without_its_text(
    tmp_path: Path, serve: Serve, error: Exception, code: str
) -> None:
    def fail(*_: object) -> Packet:
        raise error

    serve(fail)
    with pytest.raises(TrainerError) as caught:
        ask(tmp_path, REQUEST)
    assert caught.value.code == code
    assert "DOE_JOHN" not in repr(caught.value)


def test_trainer_stops_at_its_batch_when_the_asker_goes(tmp_path: Path, serve: Serve) -> None:
    started, stopped = threading.Event(), threading.Event()

    def train_for_ever(_: Packet, stop_when_closed: trainer_socket.Progress) -> Packet:
        try:
            while True:
                started.set()
                stop_when_closed("train", 0, 1)
        finally:
            stopped.set()

    serve(train_for_ever)
    place = json.loads((tmp_path / ADDRESS_FILE).read_text(encoding="utf-8"))
    with Client(place["address"], authkey=bytes.fromhex(place["key"])) as connection:
        connection.send_bytes(REQUEST.to_bytes())
        assert started.wait(10)
        assert not stopped.is_set()
    assert stopped.wait(10)


def test_stranger_without_the_key_is_turned_away(tmp_path: Path, serve: Serve) -> None:
    errors = serve(lambda request, _: request)
    place = json.loads((tmp_path / ADDRESS_FILE).read_text(encoding="utf-8"))
    with pytest.raises(AuthenticationError):
        Client(place["address"], authkey=b"guess")
    assert ask(tmp_path, REQUEST).settings == REQUEST.settings
    assert [type(error) for error in errors] == [AuthenticationError]


def test_bytes_that_are_no_packet_are_refused(tmp_path: Path, serve: Serve) -> None:
    errors = serve(lambda request, _: request)
    place = json.loads((tmp_path / ADDRESS_FILE).read_text(encoding="utf-8"))
    with Client(place["address"], authkey=bytes.fromhex(place["key"])) as connection:
        connection.send_bytes(b"\x80\x04pickle")
        assert connection.recv_bytes() == b"-refused"
    assert "Expected a SegViz packet" in str(errors[0])


def test_missing_trainer_is_a_code_and_a_site_that_leaves_another(tmp_path: Path) -> None:
    for address, code in ((None, "stopped"), ('{"address": "/nowhere", "key": "00"}', "no-trainer")):
        if address:
            (tmp_path / ADDRESS_FILE).write_text(address)
        with pytest.raises(TrainerError) as caught:
            ask(tmp_path, REQUEST)
        assert caught.value.code == code


def test_unknown_answer_counts_as_a_failure(tmp_path: Path, serve: Serve) -> None:
    class Odd(Packet):
        def to_bytes(self) -> bytes:
            return b"no packet"

    serve(lambda request, _: Odd(request.settings))
    with pytest.raises(TrainerError) as caught:
        ask(tmp_path, REQUEST)
    assert caught.value.code == "failed"


def test_address_file_is_readable_by_its_user_alone(tmp_path: Path, serve: Serve) -> None:
    serve(lambda request, _: request)
    assert stat.S_IMODE((tmp_path / ADDRESS_FILE).stat().st_mode) == 0o600
