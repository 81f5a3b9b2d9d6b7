"""The real trainer as a process of its own, on two tiny cases."""

import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from federation_processes import wait_until

from segviz_core.errors import Cancelled, SegVizError
from segviz_core.federation import journal, trainer_socket
from segviz_core.federation import trainer as trainer_module
from segviz_core.federation.child import Child, environment
from segviz_core.federation.packets import Packet
from segviz_core.federation.settings import StudySettings
from segviz_core.federation.site import TRAINER
from segviz_core.federation.site_folder import SITE_FILE
from segviz_core.federation.study import Study
from segviz_core.federation.trainer import Trainer
from segviz_core.federation.weights import create_study

SETTINGS = StudySettings(
    name="toy",
    network={"channels": [4, 8], "strides": [2], "num_res_units": 1},
    patch_size=(8, 8, 8),
    mode="segviz-fedavg",
)

Start = Callable[..., Child]


def site_folder(folder: Path, *, drawn: int = 1, **choices: Any) -> dict[str, Any]:
    """Settings of a site in `folder` with two cases whose liver has the value `drawn` in the label files."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        label = np.zeros((16, 16, 16), np.uint8)
        label[4:12, 4:12, 4:12] = drawn
        image = (rng.normal(0, 20, label.shape) + 100 * (label > 0)).astype(np.int16)
        for kind, voxels in (("images", image), ("labels", label)):
            path = folder / "cases" / kind / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 2.0, 1.0])), path)
    values = {
        "site": SETTINGS.for_site("north").to_dict(),
        "cases": str(folder / "cases"),
        "organs": ["liver"],
        "label_values": {},
        "cores": 1,
        "device": "cpu",
    }
    return values | choices


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the trainer of a `site_folder`."""
    children: list[Child] = []

    def trainer(*, on_line: Callable[[str], None] = lambda _: None, **choices: Any) -> Child:
        (tmp_path / SITE_FILE).write_text(json.dumps(site_folder(tmp_path, **choices)))
        child = Child(
            [*TRAINER, str(tmp_path)],
            environment=environment(flwr_home=tmp_path),
            log=tmp_path / "trainer.log",
            on_line=on_line,
        )
        children.append(child)
        return child

    yield trainer
    for child in children:
        child.stop()


def test_trainer_declares_trains_and_ends_with_its_parent(start: Start, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = []
    child = start(on_line=lambda line: lines.append(journal.heard(line) or {}))
    wait_until(lambda: any(line.get("event") == "ready" for line in lines), 60, lambda: child.last_lines)
    create_study(tmp_path / "study", SETTINGS)
    study = Study(tmp_path / "study")
    declared = trainer_socket.ask(tmp_path, dict(study.requests(["1"]))["1"])
    assert declared.settings["organs"] == "liver"
    assert declared.metrics["cases/liver"] == 2.0
    request = Packet(
        {"stage": "train", "round": 2, "mode": "segviz-fedavg", "first_step": 0, "steps": 2, "total_steps": 2}
        | {"learning_rate": 1e-3, "foreign_weight": 0.0, "foreign_ramp": 0.2, "proximal": 0.0},
        {"representation": study.state.representation},
    )
    reply = trainer_socket.ask(tmp_path, request)
    assert reply.metrics["steps"] == 2
    assert {"update", "norm", "head/liver"} == set(reply.arrays)
    assert [line["stage"] for line in lines if line.get("event") == "answered"] == ["declare", "train"]
    assert any(line.get("event") == "progress" and line.get("round") == 2 for line in lines)
    child.stop()
    assert child.returncode == 0


def test_cases_that_cannot_be_used_are_named_before_anything_else(start: Start) -> None:
    child = start(drawn=7)
    assert child.wait(60) == 3
    (said,) = [said for line in child.last_lines.splitlines() if (said := journal.heard(line))]
    assert said["event"] == "error"
    assert said["kind"] == "input"
    assert "liver" in said["message"]


def test_stated_label_values_win_over_those_of_the_layout(start: Start) -> None:
    child = start(drawn=7, label_values={"liver": [7]})
    wait_until(lambda: '"event": "ready"' in child.last_lines, 60, lambda: child.last_lines)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an NVIDIA card")
def test_a_card_that_is_not_there_ends_in_one_sentence(start: Start) -> None:
    child = start(device="cuda")
    wait_until(lambda: child.returncode is not None, 60, lambda: child.last_lines)
    assert child.returncode == 3
    assert "Expected an NVIDIA graphics card" in child.last_lines


class Rounds:
    """A trainer in this process on its "card": cpu:0 is none, but is not called cpu either."""

    def __init__(self, folder: Path) -> None:
        self.trainer = Trainer(folder, site_folder(folder))
        self.trainer._device = "cpu:0"
        self.trainer._open("cpu:0")
        create_study(folder / "study", SETTINGS)
        study = Study(folder / "study")
        self.answers = [self.trainer.answer(dict(study.requests(["1"]))["1"], lambda *_: None)]
        self._representation = study.state.representation

    def train(self, stop_when_closed: trainer_socket.Progress = lambda *_: None) -> None:
        number = len(self.answers) + 1
        settings = {"stage": "train", "round": number, "mode": "segviz-fedavg", "learning_rate": 1e-2}
        settings |= {"first_step": 3 * (number - 2), "steps": 3, "total_steps": 9}
        settings |= {"foreign_weight": 0.0, "foreign_ramp": 0.2, "proximal": 0.0}
        request = Packet(settings, {"representation": self._representation})
        self.answers.append(self.trainer.answer(request, stop_when_closed))


@pytest.fixture
def straight(tmp_path: Path) -> Rounds:
    """Three rounds without any trouble."""
    rounds = Rounds(tmp_path / "straight")
    for _ in range(3):
        rounds.train()
    return rounds


def assert_same(answers: list[Packet], expected: list[Packet]) -> None:
    for answer, other in zip(answers, expected, strict=True):
        assert answer.arrays.keys() == other.arrays.keys()
        for group, arrays in other.arrays.items():
            for key, array in arrays.items():
                np.testing.assert_array_equal(answer.arrays[group][key], array, err_msg=key)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_round_that_does_not_fit_on_the_card_is_done_by_the_processor(straight, tmp_path, capsys, wrapped) -> None:
    rounds = Rounds(tmp_path)
    devices, held, alive = [], [], []

    def full_once(stage: str, done: int, total: int) -> None:
        devices.append(rounds.trainer.session.device)
        if held:
            alive.append(held[0]() is not None)
        elif done == 2:
            on_card = torch.ones(1)
            held.append(weakref.ref(on_card))
            error = torch.OutOfMemoryError("CUDA out of memory")
            if wrapped:
                raise SegVizError("The graphics card has not enough free memory for this CT.") from error
            raise error

    rounds.train()
    rounds.train(full_once)
    rounds.train()
    assert_same(rounds.answers, straight.answers)
    assert devices == ["cpu:0", "cpu:0", "cpu", "cpu", "cpu"]
    assert not any(alive)  # what the failed attempt had on the card is free again
    assert rounds.trainer.session.device == "cpu:0"  # the next round tries it again
    told = [journal.heard(line) or {} for line in capsys.readouterr().out.splitlines()]
    (moved,) = [row for row in told if row["event"] == "device"]
    assert (
        moved["message"] == "The graphics card has too little free memory; the processor does the work of this round."
    )


def test_a_round_that_was_stopped_half_way_begins_anew_from_the_state_before_it(straight, tmp_path, capsys) -> None:
    rounds = Rounds(tmp_path)

    def stop(stage: str, done: int, total: int) -> None:
        if done == 2:
            raise Cancelled

    rounds.train()
    with pytest.raises(Cancelled):
        rounds.train(stop)
    assert '"event": "stopped"' in capsys.readouterr().out
    rounds.train()
    rounds.train()
    assert_same(rounds.answers, straight.answers)


def test_another_fault_on_the_card_is_not_hidden(tmp_path) -> None:
    rounds = Rounds(tmp_path)

    def broken(*_: object) -> None:
        raise RuntimeError("expected scalar type Float")

    with pytest.raises(RuntimeError, match="expected scalar type Float"):
        rounds.train(broken)


def test_a_trainer_that_lost_its_card_ends_so_that_a_new_one_gets_it_back(monkeypatch) -> None:
    ended = []
    monkeypatch.setattr(trainer_module.os, "_exit", ended.append)
    trainer_module._note(RuntimeError("expected scalar type Float"))
    assert ended == []
    trainer_module._note(torch.AcceleratorError("CUDA error: unspecified launch failure"))
    assert ended == [1]
