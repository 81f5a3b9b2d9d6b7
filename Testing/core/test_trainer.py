"""The real trainer as a process of its own, on two tiny cases."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from federation_processes import wait_until

from segviz_core.errors import SegVizError
from segviz_core.federation import journal, trainer_socket
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


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_site_whose_card_is_too_small_goes_on_with_its_processor(tmp_path, monkeypatch, capsys, wrapped) -> None:
    trainer = Trainer(tmp_path, site_folder(tmp_path))
    create_study(tmp_path / "study", SETTINGS)
    request = dict(Study(tmp_path / "study").requests(["1"]))["1"]

    def full(*_: Any, **__: Any) -> Packet:
        error = torch.OutOfMemoryError("CUDA out of memory")
        if wrapped:
            raise SegVizError("The graphics card has not enough free memory for this CT.") from error
        raise error

    monkeypatch.setattr(trainer.session, "handle", full)
    trainer.session.device = "cuda"
    reply = trainer.answer(request, lambda *_: None)
    assert reply.settings["organs"] == "liver"
    assert trainer.session.device == "cpu"
    told = [journal.heard(line) or {} for line in capsys.readouterr().out.splitlines()]
    (moved,) = [row for row in told if row["event"] == "device"]
    assert moved["message"].endswith("this site goes on with its processor.")


def test_another_fault_on_the_card_is_not_hidden(tmp_path, monkeypatch) -> None:
    trainer = Trainer(tmp_path, site_folder(tmp_path))
    create_study(tmp_path / "study", SETTINGS)
    request = dict(Study(tmp_path / "study").requests(["1"]))["1"]

    def broken(*_: Any, **__: Any) -> Packet:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(trainer.session, "handle", broken)
    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        trainer.answer(request, lambda *_: None)
