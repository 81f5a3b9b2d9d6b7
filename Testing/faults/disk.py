"""Full disks and damaged files. A disk of its own is a small tmpfs, which needs root."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from bed import Bed, running_bed
from fault import BROKEN, NAMED, REJECTED, REPEATED, Area, Fault, Seen

from segviz_core.federation import coordinator
from segviz_core.federation.study import CHECKPOINT_FILE

DISK_MB = 64
TRAINING_S = 3.0


@contextmanager
def disk_bed(folder: Path) -> Iterator[Bed]:
    """A bed whose study and whose site `south` have a small disk each."""
    disks = [folder / "study", folder / "south"]
    mounted = []
    try:
        for disk in disks if os.getuid() == 0 else []:
            disk.mkdir(parents=True)
            command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(disk)]
            if subprocess.run(command, check=False, capture_output=True).returncode == 0:
                mounted.append(disk)
        with running_bed(folder) as bed:
            yield bed
    finally:
        for disk in mounted:
            subprocess.run(["umount", "-l", str(disk)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def checkpoint_on_a_full_disk(bed: Bed) -> Seen:
    """The coordinator says so and ends; with space again it goes on from the last finished round."""
    assert bed.leader is not None
    log = bed.arm("before-checkpoint")
    log.wait_for("FAULT POINT before-checkpoint")
    mark = bed.mark()
    with _full(bed.study):
        bed.release("before-checkpoint")
        code = bed.leader.process.wait(600)
        message = str(bed.leader.last_line().get("message", ""))
    bed.start()
    bed.grows(2)
    after = bed.judge(mark)
    right = code == 3 and "disk is full" in message and after.outcome != BROKEN
    return Seen(NAMED if right else BROKEN, f"{code}: {message}; after: {after.outcome} {after.why}", after.rounds_lost)


def site_on_a_full_disk(bed: Bed) -> Seen:
    """The site cannot write its record of what leaves, so nothing leaves; with space again it takes part again."""
    bed.slow("south", TRAINING_S)
    bed.training("south")
    mark, words = bed.mark(), "the disk of the site is full."
    with _full(bed.folder / "south"):
        for _ in range(10):  # the last block of a file takes a few lines more
            bed.grows(1)
            if any(row["rejected"].get("south") == words for row in bed.rows()):
                break
    bed.grows(2)
    seen = bed.judge_absence(mark, "south", words)
    return seen if words in seen.why else replace(seen, outcome=BROKEN)


def truncated_checkpoint(bed: Bed) -> Seen:
    """Named at the start; with a backup in its place the study goes on."""
    assert bed.leader is not None
    _stop(bed)
    mark, path = bed.mark(), bed.study / CHECKPOINT_FILE
    backup = path.read_bytes()
    os.truncate(path, len(backup) // 2)
    bed.leader = type(bed.leader)(bed.study)
    code = bed.leader.process.wait(600)
    message = str(bed.leader.last_line().get("message", ""))
    path.write_bytes(backup)
    bed.start()
    bed.grows(2)
    after = bed.judge(mark)
    right = code == 3 and "damaged file" in message and after.outcome != BROKEN
    return Seen(NAMED if right else BROKEN, f"{code}: {message}", after.rounds_lost)


def truncated_database(bed: Bed) -> Seen:
    """Flower's database is made anew; the sites keep their names."""
    _stop(bed)
    mark = bed.mark()
    os.truncate(bed.study / "flower" / "state.db", 60_000)
    bed.start()
    bed.grows(2)
    return bed.judge(mark)


def half_a_line_in_the_history(bed: Bed) -> Seen:
    """As a kill in the middle of writing leaves it."""
    _stop(bed)
    mark = bed.mark()
    with (bed.study / "history.jsonl").open("a") as file:
        file.write('{"time": 1.0, "round": 9')
    bed.start()
    bed.grows(2)
    return bed.judge(mark)


def _stop(bed: Bed) -> None:
    assert bed.leader is not None
    coordinator.stop(bed.study)
    bed.leader.process.wait(300)


@contextmanager
def _full(disk: Path) -> Iterator[None]:
    """Nothing more can be written while the block runs."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    try:
        yield
    finally:
        filler.unlink()


def _no_disk() -> str:
    if os.getuid() != 0:
        return "a disk of its own needs root"
    return "" if shutil.which("mount") else "there is no mount"


AREA = Area(
    "disk",
    disk_bed,
    (
        Fault("truncated database of Flower", "before a start", REPEATED, truncated_database),
        Fault("half a line in the history", "before a start", REPEATED, half_a_line_in_the_history),
        Fault("truncated checkpoint", "before a start", NAMED, truncated_checkpoint),
        Fault("full disk at the coordinator", "at the checkpoint", NAMED, checkpoint_on_a_full_disk, needs=_no_disk),
        Fault("full disk at a site", "while it trains", REJECTED, site_on_a_full_disk, needs=_no_disk),
    ),
)
