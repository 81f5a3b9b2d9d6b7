"""Every process of a click, killed ten times at a line of its log under full load: no orphan, no hang."""

import os
import signal
import time
from contextlib import suppress

import pytest
import slicer
from children import descendants, make_random_model, write_launcher
from scenes import FakeWorker, add_ct, make_window, process_events
from SegVizSlicerLib.CoreProcess import CoreProcess
from SegVizSlicerLib.State import State
from SegVizSlicerLib.Worker import Worker

TIMES = 10


@pytest.mark.parametrize("victim", ["command", "command's launcher", "worker", "worker's launcher"])
def test_a_killed_process_of_a_click_leaves_no_orphan_and_no_hang(
    victim, busy_cores, user_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr("SegVizSlicerLib.CoreProcess.CANCEL_PATIENCE_MS", 300)
    monkeypatch.setattr(type(slicer.app), "temporaryPath", property(lambda self: str(tmp_path / "jobs")))
    (tmp_path / "jobs").mkdir()
    launcher = write_launcher(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{launcher.parent}{os.pathsep}{os.environ['PATH']}")
    make_random_model(user_folder / "models" / "meta_model.safetensors")
    worker = Worker() if victim.startswith("worker") else FakeWorker(CoreProcess)
    window = make_window(user_folder, worker=worker)
    add_ct((220, 256, 256) if victim == "worker" else (20, 48, 64))
    longest, ended = 0.0, 0
    for _ in range(TIMES):
        window.ui.applyButton.click()
        job = window.segment.logic._process
        process = worker._process if victim.startswith("worker") else job
        if victim == "worker":
            process_events(lambda job=job: job.began, 60)  # its line `started`
        process_events(lambda process=process: process.pid, 60)  # the line `started`
        began = time.monotonic()
        with suppress(ProcessLookupError):  # on a busy computer it may have ended just now
            os.kill(process._process.pid if "launcher" in victim else process.pid, signal.SIGKILL)
        if "launcher" in victim:  # Python goes on without it, and must still obey
            window.ui.applyButton.click()
        process_events(lambda: not window.state.busy, 60)
        worker.stop()
        process_events(lambda: not descendants(str(tmp_path / "jobs")), 10)
        process_events(lambda: not list((tmp_path / "jobs").iterdir()), 10)
        longest = max(longest, time.monotonic() - began)
        ended += window.state in (State.Failed, State.Idle)
    print(f"\n{victim}: {TIMES} kills, {ended} ended in words, 0 orphans, at most {longest:.1f} s")
    assert ended == TIMES
