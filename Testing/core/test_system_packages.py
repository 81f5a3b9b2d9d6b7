"""The tests name a missing system package and the line to type; they install nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import system_packages


@pytest.fixture
def dpkg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dpkg-query that knows libfirst and libtimet64 as installed, libgone as removed and nothing else."""
    query = tmp_path / "dpkg-query"
    known = "libfirst|libtimet64) printf installed ;; libgone) printf config-files ;;"
    query.write_text(f'#!/bin/sh\ncase "$3" in {known} *) exit 1 ;; esac\n')
    query.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")


def test_missing_packages_are_named_with_the_line_to_type(
    dpkg: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "apt.txt"
    listed.write_text("# comment\nlibfirst\nlibgone  # was removed\n\nlibnever\nserver  # optional\n")
    monkeypatch.setattr(system_packages, "LIST", listed)
    assert system_packages.main() == 1
    assert capsys.readouterr().err.strip().endswith("type: sudo apt-get install libgone libnever")


def test_nothing_is_said_when_all_are_there(
    dpkg: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "apt.txt"
    listed.write_text("libfirst\nlibtime\n")
    monkeypatch.setattr(system_packages, "LIST", listed)
    assert system_packages.main() == 0
    assert capsys.readouterr().err == ""


def test_system_without_dpkg_is_left_to_the_tests_themselves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert system_packages.installed("libanything")


def test_ci_reads_the_same_names_as_the_tests() -> None:
    """The shell script strips comments by itself, because it runs before any Python is set up."""
    script = (Path(__file__).resolve().parents[2] / ".ci" / "run").read_text(encoding="utf-8")
    text = "# all\nlibfirst # one\n\n  libsecond\n"
    line = next(line for line in script.splitlines() if line.startswith("read -ra packages"))
    echo = f"{line.replace('Testing/apt.txt', '-')}; printf '%s\\n' \"${{packages[@]}}\""
    answer = subprocess.run(["bash", "-c", echo], input=text, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == system_packages.wanted(text)
