"""Faults of processes: kill -9 (and, in the long run, SIGSTOP) of every part, at moments that its log tells."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from bed import WENT_OFFLINE, Bed, kill_all, pids, running_bed
from fault import REJECTED, REPEATED, UNDISTURBED, Area, Fault, Seen

from segviz_core.federation import site

TRAINING_S = 4.0
HELD_S = 30.0


def _kill(folder: Path, words: str, sign: int = signal.SIGKILL) -> list[int]:
    """Signal every process with `words` on its command line; there must be one."""
    found = pids(folder, words)
    if not found:
        raise LookupError(f"no process {words!r} in {folder.name}")
    for pid in found:
        os.kill(pid, sign)
    return found


def _while_training(words: str) -> Callable[[Bed], Seen]:
    """Kill a process of the site `south` while its trainer works."""

    def act(bed: Bed) -> Seen:
        bed.slow("south", TRAINING_S)
        bed.training("south")
        mark = bed.mark()
        _kill(bed.folder / "south", words)
        bed.slow("south", 0)
        bed.grows()
        return bed.judge(mark)

    return act


def _client_app(point: str) -> Callable[[Bed], Seen]:
    """Kill the ClientApp of `south` at a point of its own."""

    def act(bed: Bed) -> Seen:
        log = bed.arm(point, "south")
        log.wait_for(f"FAULT POINT {point}")
        mark = bed.mark()
        # The next ClientApp waits for its task already: the one that works is the older one.
        os.kill(min(pids(bed.folder / "south", " client-app ")), signal.SIGKILL)
        bed.release(point, "south")
        bed.grows()
        return bed.judge(mark)

    return act


def node_between_rounds(bed: Bed) -> Seen:
    """`south` has answered, `north` still trains. Flower refuses the key for the 60 s of its lease."""
    bed.slow("north", TRAINING_S)
    log = bed.log("node.log", "south")
    bed.training("north")
    log.wait_for("Sent successfully")
    mark = bed.mark()
    _kill(bed.folder / "south", " supernode ")
    bed.slow("north", 0)
    bed.grows(2)
    return bed.judge(mark)


def node_while_receiving(bed: Bed) -> Seen:
    """Behind a slow line, so that receiving lasts long enough to be hit."""
    bed.proxies["south"].limit(2_000)
    log = bed.log("node.log", "south")
    log.wait_for("Receiving: train message")
    mark = bed.mark()
    _kill(bed.folder / "south", " supernode ")
    bed.proxies["south"].limit(0)
    bed.grows(2)
    return bed.judge(mark)


def _server(point: str, words: str) -> Callable[[Bed], Seen]:
    """Kill a process of the coordinator while the ServerApp waits at a point."""

    def act(bed: Bed) -> Seen:
        log = bed.arm(point)
        log.wait_for(f"FAULT POINT {point}")
        mark = bed.mark()
        _kill(bed.study, words)
        bed.release(point)
        bed.grows()
        return bed.judge(mark)

    return act


def _server_while_training(words: str) -> Callable[[Bed], Seen]:
    def act(bed: Bed) -> Seen:
        bed.slow("south", TRAINING_S)
        bed.training("south")
        mark = bed.mark()
        _kill(bed.study, words)
        bed.slow("south", 0)
        bed.grows()
        return bed.judge(mark)

    return act


def whole_site(bed: Bed) -> Seen:
    """A power cut at the site; somebody joins again."""
    bed.slow("south", TRAINING_S)
    bed.training("south")
    mark = bed.mark()
    kill_all(bed.folder / "south")
    bed.slow("south", 0)
    bed.join("south")
    bed.grows()
    return bed.judge(mark)


def whole_coordinator(bed: Bed) -> Seen:
    """A power cut at the coordinator; somebody starts it again."""
    bed.slow("south", TRAINING_S)
    bed.training("south")
    mark = bed.mark()
    kill_all(bed.study)
    time.sleep(0.5)
    bed.slow("south", 0)
    bed.start()
    bed.grows()
    return bed.judge(mark)


def supervisor(bed: Bed) -> Seen:
    """Its processes end with it; somebody joins again."""
    bed.slow("south", TRAINING_S)
    bed.training("south")
    mark = bed.mark()
    _kill(bed.folder / "south", "federation.supervisor")
    bed.slow("south", 0)
    deadline = time.monotonic() + 30
    while site.is_running(bed.folder / "south") or pids(bed.folder / "south", " supernode "):
        if time.monotonic() > deadline:
            raise TimeoutError("processes of the site outlive their supervisor")
        time.sleep(0.1)
    bed.join("south")
    bed.grows()
    return bed.judge(mark)


def _stopped(place: str, words: str, seconds: float, *, patience: float = 600.0) -> Callable[[Bed], Seen]:
    """SIGSTOP, and SIGCONT after `seconds`, of a process of the study or of a site while `south` trains."""

    def act(bed: Bed) -> Seen:
        folder = bed.study if place == "study" else bed.folder / place
        bed.slow("south", TRAINING_S)
        bed.training("south")
        mark = bed.mark()
        held = _kill(folder, words, signal.SIGSTOP)
        bed.slow("south", 0)
        time.sleep(seconds)
        for pid in held:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue  # it was held for dead and replaced
        bed.grows(2, seconds=patience)
        return bed.judge_absence(mark, "south", WENT_OFFLINE)

    return act


AREA = Area(
    "processes",
    running_bed,
    (
        Fault("kill -9 of the trainer", "while it trains", UNDISTURBED, _while_training("toy_trainer.py")),
        Fault("kill -9 of the ClientApp", "before it sends", REPEATED, _client_app("before-send")),
        Fault("kill -9 of the ClientApp", "while it sends", REPEATED, _client_app("sending")),
        Fault("kill -9 of the SuperNode", "between rounds", REPEATED, node_between_rounds),
        Fault("kill -9 of the SuperNode", "while it receives", REPEATED, node_while_receiving),
        Fault("kill -9 of the site's SuperExec", "while a task runs", REPEATED, _while_training(" site-superexec ")),
        Fault("kill -9 of the site's supervisor", "while a task runs", REPEATED, supervisor),
        Fault("kill -9 of the whole site", "while it trains", REPEATED, whole_site),
        Fault("kill -9 of the front", "while a site trains", REPEATED, _server_while_training("federation.front ")),
        Fault(
            "kill -9 of the server's SuperExec",
            "during a round",
            REPEATED,
            _server_while_training(" server-superexec "),
        ),
        Fault("kill -9 of the SuperLink", "before averaging", REPEATED, _server("all-answered", " superlink ")),
        Fault("kill -9 of the SuperLink", "while averaging", REPEATED, _server("averaging", " superlink ")),
        Fault("kill -9 of the SuperLink", "after averaging", REPEATED, _server("after-checkpoint", " superlink ")),
        Fault("kill -9 of the SuperLink", "while sites train", REPEATED, _server_while_training(" superlink ")),
        Fault(
            "kill -9 of the ServerApp", "before the checkpoint", REPEATED, _server("before-checkpoint", " server-app ")
        ),
        Fault(
            "kill -9 of the ServerApp", "after the checkpoint", REPEATED, _server("after-checkpoint", " server-app ")
        ),
        Fault("kill -9 of the whole coordinator", "during a round", REPEATED, whole_coordinator),
        Fault(
            "SIGSTOP of the trainer, 30 s",
            "while it trains",
            UNDISTURBED,
            _stopped("south", "toy_trainer.py", HELD_S),
            slow=True,
        ),
        Fault(
            "SIGSTOP of the ClientApp, 30 s",
            "while it waits",
            UNDISTURBED,
            _stopped("south", " client-app ", HELD_S),
            slow=True,
        ),
        Fault(
            "SIGSTOP of the SuperNode, 30 s",
            "during a round",
            UNDISTURBED,
            _stopped("south", " supernode ", HELD_S),
            slow=True,
        ),
        Fault(
            "SIGSTOP of the SuperNode, 90 s",
            "during a round",
            REJECTED,
            _stopped("south", " supernode ", 90.0),
            slow=True,
        ),
        Fault(
            "SIGSTOP of the site's SuperExec, 30 s",
            "during a round",
            UNDISTURBED,
            _stopped("south", " site-superexec ", HELD_S),
            slow=True,
        ),
        Fault(
            "SIGSTOP of the front, 30 s",
            "during a round",
            REPEATED,
            _stopped("study", "federation.front ", HELD_S),
            slow=True,
        ),
        Fault(
            "SIGSTOP of the SuperLink, 30 s",
            "during a round",
            REPEATED,
            _stopped("study", " superlink ", HELD_S),
            slow=True,
        ),
        Fault(
            "SIGSTOP of the SuperLink, 200 s",
            "during a round",
            REPEATED,
            _stopped("study", " superlink ", 200.0),
            slow=True,
        ),
        Fault(
            "SIGSTOP of the ServerApp, 30 s",
            "during a round",
            UNDISTURBED,
            _stopped("study", " server-app ", HELD_S),
            slow=True,
        ),
        Fault(
            "SIGSTOP of the ServerApp, 700 s",
            "during a round",
            REPEATED,
            _stopped("study", " server-app ", 700.0),
            slow=True,
        ),
    ),
)
