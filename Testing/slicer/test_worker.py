"""Click after click in one warm process: kept, lost, cancelled, idle, and never more than one."""

import os
import shutil
import signal

import pytest
import slicer
from children import descendants, make_random_model, write_launcher
from scenes import add_ct, make_window, process_events
from SegVizSlicerLib.State import State
from SegVizSlicerLib.Worker import Worker


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_random_model(tmp_path_factory.mktemp("model") / "meta_model.safetensors")


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Slicer's temporary folder."""
    folder = tmp_path / "jobs"
    folder.mkdir()
    monkeypatch.setattr(type(slicer.app), "temporaryPath", property(lambda self: str(folder)))
    return folder


@pytest.fixture
def worker():
    return Worker()


@pytest.fixture
def window(user_folder, model, jobs, worker, tmp_path, monkeypatch):
    launcher = write_launcher(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{launcher.parent}{os.pathsep}{os.environ['PATH']}")
    (user_folder / "models").mkdir()
    shutil.copyfile(model, user_folder / "models" / "meta_model.safetensors")
    add_ct((24, 64, 64))
    return make_window(user_folder, worker=worker)


def apply(window):
    """Click Apply and wait; what the status line says."""
    window.ui.applyButton.click()
    process_events(lambda: not window.state.busy)
    return window.ui.statusLabel.text


def processes(jobs):
    """Python processes of this test's worker, without the launcher."""
    return [pid for pid in descendants(str(jobs)) if pid in _groups()]


def _groups():
    return {pid for pid in descendants("segviz_core") if os.getpgid(pid) == pid}


def test_a_second_click_finds_the_process_of_the_first_and_leaves_it_alone(window, worker, jobs):
    first = apply(window)
    pid = worker.pid
    assert first == apply(window) == "4 organs found."
    assert worker.pid == pid
    assert processes(jobs) == [pid]
    (folder,) = jobs.iterdir()
    assert [path.name for path in folder.iterdir()] == ["heartbeat"]
    window.cleanup()
    process_events(lambda: not descendants(str(jobs)), 10)
    process_events(lambda: not list(jobs.iterdir()), 10)


def test_a_killed_worker_is_one_sentence_and_the_next_click_starts_a_new_one(window, worker):
    window.ui.inputSelector.setCurrentNode(add_ct((220, 256, 256)))
    window.ui.applyButton.click()
    process_events(lambda: window.segment.logic._process.began)
    pid = worker.pid
    os.kill(pid, signal.SIGKILL)
    process_events(lambda: not window.state.busy)
    assert window.state is State.Failed
    assert window.ui.statusLabel.text == (
        "The process that segments ended unexpectedly (exit code 137). Perhaps the memory was full: close other "
        "programs, or choose Fast under Advanced. Apply starts a new one."
    )
    assert apply(window) == "4 organs found."
    assert worker.pid not in (0, pid)


def test_an_idle_worker_ends_and_the_next_click_starts_a_new_one(window, worker, jobs):
    worker._idleMinutes = 0.01
    apply(window)
    process_events(lambda: worker.pid == 0)
    assert not descendants(str(jobs))
    assert list(jobs.iterdir()) == []
    assert apply(window) == "4 organs found."


def test_cancel_leaves_the_idle_worker_and_no_file(window, worker, jobs):
    apply(window)
    pid = worker.pid
    window.ui.applyButton.click()
    window.ui.applyButton.click()
    process_events(lambda: not window.state.busy)
    assert window.ui.statusLabel.text == "Cancelled; nothing was changed."
    assert processes(jobs) == [pid]
    assert [path.name.startswith("SegVizWorker") for path in jobs.iterdir()] == [True]
    assert apply(window) == "4 organs found."
    assert worker.pid == pid


def test_a_worker_that_does_not_listen_to_cancel_is_killed(window, worker, monkeypatch):
    monkeypatch.setattr("SegVizSlicerLib.CoreProcess.CANCEL_PATIENCE_MS", 200)
    apply(window)
    pid = worker.pid
    os.kill(pid, signal.SIGSTOP)
    window.ui.applyButton.click()
    window.ui.applyButton.click()
    process_events(lambda: not window.state.busy)
    assert window.ui.statusLabel.text == "Cancelled; nothing was changed."
    assert worker.pid == 0


def test_a_worker_that_cannot_be_used_is_replaced_by_the_plain_command(window, worker, jobs, monkeypatch):
    def no_sockets(self):
        raise OSError("no sockets here")

    monkeypatch.setattr(Worker, "_connect", no_sockets)
    assert apply(window) == "4 organs found."
    assert "The worker cannot be reached: no sockets here" in window.ui.logText.toPlainText()
    process_events(lambda: not descendants(str(jobs)), 10)
    assert list(jobs.iterdir()) == []


def test_a_job_that_a_dying_worker_had_not_begun_is_done_all_the_same(window, worker):
    apply(window)
    os.kill(worker.pid, signal.SIGKILL)
    assert apply(window) == "4 organs found."


def test_closing_slicer_in_the_middle_leaves_no_process_and_no_ct(window, jobs):
    window.ui.inputSelector.setCurrentNode(add_ct((220, 256, 256)))
    window.ui.applyButton.click()
    process_events(lambda: window.segment.logic._process.began)
    window.cleanup()
    assert list(jobs.iterdir()) == []
    process_events(lambda: not descendants(str(jobs)), 10)


def test_an_installation_ends_the_worker_first(window, worker):
    apply(window)
    window.ui.installSegmentButton.click()
    process_events(lambda: worker.pid == 0, 10)
    assert window.dependencies.asked == ["segment", "segment"]
