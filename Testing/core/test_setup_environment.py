"""The set-up finds a Python by running it, asks before gigabytes, and says in one sentence what stops it."""

import json
import os
import re
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import setup_environment as setup

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def pythons(tmp_path: Path) -> Path:
    """An empty folder for stand-ins of interpreters."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def stand_in(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def report(**versions: str) -> dict:
    """What `pip install --dry-run --report` says, as far as the set-up reads it."""
    packages = {name.replace("_", "-"): version for name, version in versions.items()}
    url = "file:///wheels/{}.whl"
    items = [
        {"metadata": {"name": name, "version": version}, "download_info": {"url": url.format(name)}}
        for name, version in packages.items()
    ]
    return {"install": items}


def test_dead_interpreter_on_path_is_skipped(pythons: Path, tmp_path: Path) -> None:
    dead = stand_in(tmp_path / "shims" / f"python{HERE}", 'echo "pyenv: command not found" >&2; exit 127')
    alive = stand_in(pythons / f"python{HERE}", f'exec {sys.executable} "$@"')
    environ = {"PATH": os.pathsep.join([str(dead.parent), str(alive.parent)])}
    assert setup.found_python([HERE], environ, tmp_path) == str(alive)


def test_interpreter_of_pyenv_is_found_behind_a_dead_shim(tmp_path: Path) -> None:
    dead = stand_in(tmp_path / "shims" / f"python{HERE}", "exit 127")
    alive = stand_in(tmp_path / ".pyenv" / "versions" / f"{HERE}.9" / "bin" / f"python{HERE}", f'{sys.executable} "$@"')
    assert setup.found_python([HERE], {"PATH": str(dead.parent)}, tmp_path) == str(alive)


def test_python_that_lies_about_its_version_is_skipped(pythons: Path, tmp_path: Path) -> None:
    stand_in(pythons / "python3.99", f'{sys.executable} "$@"')
    assert setup.found_python(["3.99"], {"PATH": str(pythons)}, tmp_path) is None


def test_preferred_version_wins_over_the_first_on_path(pythons: Path, tmp_path: Path) -> None:
    stand_in(pythons / "python3.13", "echo 3.13")
    old = stand_in(pythons / "python3.11", "echo 3.11")
    assert setup.found_python(setup.PREFERRED, {"PATH": str(pythons)}, tmp_path) == str(old)


def test_no_python_at_all_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PYENV_ROOT", "PYTHON"):
        monkeypatch.delenv(name, raising=False)
    assert setup.main(["demo", "--folder", str(tmp_path / "venv")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Set-up stopped: no Python 3.11 or 3.12")
    assert "make PYTHON=" in said
    assert said.count("\n") == 1


def test_missing_optional_python_skips_its_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PYENV_ROOT", raising=False)
    folder = tmp_path / "venv"
    assert setup.main(["test-312", "--python", "3.12", "--folder", str(folder), "--optional"]) == 0
    assert capsys.readouterr().err == "Python 3.12 was not found on this machine: its job is skipped.\n"
    assert not folder.exists()


@pytest.mark.parametrize(
    "script, sentence",
    [("exit 127", "does not run or lacks venv"), ("echo 3.9", "is Python 3.9; expected 3.11 or newer")],
    ids=["dead", "old"],
)
def test_python_named_by_the_user_is_refused_in_words(pythons: Path, script: str, sentence: str) -> None:
    with pytest.raises(setup.SetupError, match=sentence):
        setup.named_python(str(stand_in(pythons / "python", script)))


def test_cuda_packages_are_refused_with_their_size() -> None:
    found = report(torch="2.13.0", nvidia_cublas="13.0", nvidia_nccl_cu13="2.28", cuda_toolkit="13.0", numpy="2.4.6")
    sentence = r"NVIDIA GPUs \(CUDA packages: 3, 4.0 GB\); give TORCH_INDEX=.* or CUDA=1 to accept"
    with pytest.raises(setup.SetupError, match=sentence):
        setup.refuse_cuda(found, lambda url: 10**9)


def test_size_that_no_server_tells_is_several_gigabytes() -> None:
    with pytest.raises(setup.SetupError, match="several GB"):
        setup.refuse_cuda(report(triton="3.5", torch="2.13.0"), lambda url: 0)


def test_gpu_wheel_of_torch_alone_is_refused() -> None:
    with pytest.raises(setup.SetupError, match=r"CUDA packages: 1, 0\.9 GB"):
        setup.refuse_cuda(report(torch="2.13.0+cu130"), lambda url: 9 * 10**8)


def test_cpu_wheels_are_not_refused() -> None:
    setup.refuse_cuda(report(torch="2.13.0+cpu", nvidialike="1.0", numpy="2.4.6"), lambda url: 10**9)


def test_size_of_a_file_that_cannot_be_reached_is_zero(tmp_path: Path) -> None:
    wheel = tmp_path / "torch.whl"
    assert setup.download_bytes(wheel.as_uri()) == 0
    wheel.write_bytes(bytes(12))
    assert setup.download_bytes(wheel.as_uri()) == 12


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full"),
        (
            "WARNING: Retrying: NewConnectionError('Failed to establish a new connection')\n"
            "ERROR: Could not find a version that satisfies the requirement setuptools>=77",
            "package index cannot be reached; check the network or pip's proxy settings",
        ),
        ("Traceback\nERROR: No matching distribution found for torch==2.13.0\nnote: more", "^ERROR: No matching"),
    ],
    ids=["disk", "network", "other"],
)
def test_failure_of_pip_names_its_cause(text: str, sentence: str) -> None:
    assert re.search(sentence, setup.cause(text))


def test_too_small_a_disk_is_named_before_the_download(tmp_path: Path) -> None:
    with pytest.raises(setup.SetupError, match=r"needs 1000000 GB of free disk, .* GB are left; free some space"):
        setup.require_space(tmp_path / "venv", 1_000_000)


def stamped(folder: Path, **changes: str) -> Path:
    content = {"inputs": setup.inputs_hash(), "extra": "test", "python": "3.11", "named": ""} | changes
    stamp = folder / "stamp.json"
    stamp.write_text(json.dumps(content))
    return stamp


def test_environment_of_the_tests_serves_the_demo_but_not_the_other_way(tmp_path: Path) -> None:
    assert setup.is_current(stamped(tmp_path), "demo", "", "3.11")
    assert not setup.is_current(stamped(tmp_path, extra="demo"), "test", "", "3.11")


@pytest.mark.parametrize(
    "changes, named, current",
    [
        ({"inputs": "other pins"}, "", "3.11"),
        ({}, "/opt/python3.13", "3.11"),
        ({}, "", "3.12"),
        ({}, "", None),
    ],
    ids=["pins", "another-python-named", "another-version", "broken"],
)
def test_environment_is_renewed_when_what_made_it_changed(tmp_path, changes, named, current) -> None:
    assert not setup.is_current(stamped(tmp_path, **changes), "test", named, current)


def test_interrupted_set_up_is_not_current(tmp_path: Path) -> None:
    assert not setup.is_current(tmp_path / "stamp.json", "test", "", "3.11")


def test_second_call_returns_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not even look for an interpreter."""
    monkeypatch.delenv("PYTHON", raising=False)
    monkeypatch.setenv("PATH", "")
    stand_in(tmp_path / "bin" / "python", "echo 3.11")
    stamped(tmp_path).rename(tmp_path / "segviz-stamp.json")
    started = time.perf_counter()
    setup.set_up("test", tmp_path, version=None, optional=False)
    assert time.perf_counter() - started < 1
