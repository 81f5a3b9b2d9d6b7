"""Runs with a bare `python -m pytest Testing/slicer`: chooses Qt and EGL; collects nothing without slicer-core."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
sys.path[:0] = [str(ROOT), str(ROOT / "SegVizSlicer")]

if importlib.util.find_spec("slicer_core") is None or importlib.util.find_spec("PySide6") is None:
    collect_ignore_glob = ["*"]
else:
    from harness_import import slicer_harness

    slicer_harness.start()


@pytest.fixture(autouse=True)
def an_empty_scene() -> Iterator[None]:
    """Every test starts with an empty scene and fails on an exception that a slot or an observer swallowed."""
    import ctk
    import slicer

    slicer.mrmlScene.Clear(0)
    slicer_harness.swallowed.clear()
    ctk.shown_messages.clear()
    yield
    if "scenes" in sys.modules:
        sys.modules["scenes"].close_windows()
    assert slicer_harness.swallowed == []


@pytest.fixture
def user_folder(tmp_path: Path) -> Path:
    """Settings, models and sites of one test's user; starts empty."""
    import qt

    qt.QSettings().clear()
    folder = tmp_path / "user"
    folder.mkdir()
    return folder


@pytest.fixture
def window(user_folder: Path) -> object:
    """The module's window with the Join section open."""
    from scenes import make_window

    window = make_window(user_folder)
    window.ui.federationSection.collapsed = False
    return window


@pytest.fixture
def kit(user_folder: Path) -> Path:
    """A site kit as the coordinator sends it."""
    from children import write_kit

    return write_kit(user_folder / "north.zip")


@pytest.fixture
def a_ct() -> object:
    """A small artificial CT in the scene."""
    from scenes import add_ct

    return add_ct()


@pytest.fixture
def busy_cores() -> Iterator[None]:
    """One endless loop per core."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    yield
    for program in programs:
        program.kill()
        program.wait()
