import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from segviz_core.federation import client_app, journal, records, trainer_socket
from segviz_core.federation.client_app import answer
from segviz_core.federation.guard import Rejected
from segviz_core.federation.packets import Packet
from segviz_core.federation.site_folder import AUDIT_FILE

REQUEST = Packet({"stage": "train", "round": 2, "mode": "segviz+", "steps": 1}, {"representation": {"w": np.ones(2)}})
REPLY = Packet(
    {"stage": "train", "round": 2}, {"update": {"w": np.full(2, 0.5, np.float32)}}, {"loss": 1.0, "dice/liver": 0.5}
)

Trainer = Callable[[Callable[[Packet], Packet]], None]


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """Start a trainer in a thread that answers by a function."""

    def start(handle: Callable[[Packet], Packet]) -> None:
        threading.Thread(
            target=trainer_socket.serve,
            args=(trainer_socket.listen(tmp_path), lambda request, _: handle(request)),
            kwargs={"on_error": lambda _: None},
            daemon=True,
        ).start()

    return start


def test_what_comes_and_what_leaves_is_noted(tmp_path: Path, trainer: Trainer) -> None:
    trainer(lambda request: REPLY)
    reply = records.from_record(answer(records.to_record(REQUEST), tmp_path))
    np.testing.assert_array_equal(reply.arrays["update"]["w"], REPLY.arrays["update"]["w"])
    received, row = journal.read(tmp_path / AUDIT_FILE)
    assert (received["event"], row["event"]) == ("received", "sent")
    assert received["arrays"] == {"representation": {"arrays": 1, "bytes": 16}}
    assert row["arrays"] == {"update": {"arrays": 1, "bytes": 8}}
    assert row["metrics"] == {"loss": 1.0, "dice/liver": 0.5}


@pytest.mark.parametrize(
    "reply",
    [
        Packet(REPLY.settings, {"images": {"w": np.ones(2)}}),
        Packet(REPLY.settings, {}, {"patients": 12.0}),
        Packet({**REPLY.settings, "path": "/data/DOE_JOHN.nii.gz"}),
        Packet(REPLY.settings, {}, {"loss": float("nan")}),
    ],
    ids=["array group", "metric", "setting", "not finite"],
)
def test_what_the_protocol_does_not_name_never_leaves(tmp_path: Path, trainer: Trainer, reply: Packet) -> None:
    trainer(lambda request: reply)
    content = answer(records.to_record(REQUEST), tmp_path)
    assert list(content) == ["error"]
    assert dict(content["error"]) == {"code": "refused"}


def test_text_of_an_exception_stays_at_the_site(tmp_path: Path, trainer: Trainer) -> None:
    def crash(_: Packet) -> Packet:
        raise RuntimeError("crash while reading /data/DOE_JOHN.nii.gz")

    trainer(crash)
    content = answer(records.to_record(REQUEST), tmp_path)
    assert dict(content["error"]) == {"code": "failed"}
    assert journal.read(tmp_path / AUDIT_FILE)[-1]["event"] == "error"


@pytest.mark.parametrize(
    "settings",
    [{"stage": "run", "round": 1}, {"stage": "train", "round": 1, "command": "rm"}, {"stage": "train", "round": -1}],
)
def test_request_outside_the_protocol_does_not_reach_the_trainer(
    tmp_path: Path, trainer: Trainer, settings: dict[str, str | int]
) -> None:
    asked: list[Packet] = []
    trainer(lambda request: asked.append(request) or REPLY)  # type: ignore[func-returns-value]
    assert dict(answer(records.to_record(Packet(settings)), tmp_path)["error"]) == {"code": "refused"}
    assert asked == []


def test_request_waits_while_the_trainer_is_started_again(
    tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_app, "_RETRY_S", 0.05)
    (tmp_path / trainer_socket.ADDRESS_FILE).write_text('{"address": "/nowhere", "key": "00"}')  # of a dead trainer
    threading.Timer(0.3, lambda: trainer(lambda request: REPLY)).start()
    assert "settings" in answer(records.to_record(REQUEST), tmp_path)


def test_trainer_that_does_not_come_back_is_told_by_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_app, "TRAINER_S", 0.0)
    (tmp_path / trainer_socket.ADDRESS_FILE).write_text("{}")
    assert dict(answer(records.to_record(REQUEST), tmp_path)["error"]) == {"code": "no-trainer"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_nothing_leaves_without_a_record_of_it(tmp_path: Path, trainer: Trainer) -> None:
    trainer(lambda request: REPLY)
    (tmp_path / AUDIT_FILE).symlink_to("/dev/full")
    content = answer(records.to_record(REQUEST), tmp_path)
    assert list(content) == ["error"]
    with pytest.raises(Rejected, match="the disk of the site is full"):
        records.from_record(content)


def test_site_that_leaves_says_so_at_once(tmp_path: Path) -> None:
    assert dict(answer(records.to_record(REQUEST), tmp_path)["error"]) == {"code": "stopped"}
