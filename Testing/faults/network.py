"""Faults of the network between one site and the coordinator: cuts, silence, resets, slow lines."""

import time
from collections.abc import Callable
from functools import partial

from bed import WENT_OFFLINE, Bed, Mark, running_bed
from fault import REJECTED, REPEATED, UNDISTURBED, Area, Fault, Seen

TRAINING_S = 4.0
SITE = "south"


def _cut(seconds: float) -> Callable[[Bed], Seen]:
    """Connections break and new ones are refused."""

    def act(bed: Bed) -> Seen:
        mark = _begin(bed)
        bed.proxies[SITE].cut()
        time.sleep(seconds)
        bed.proxies[SITE].up()
        return _end(bed, mark, seconds)

    return act


def _silence(seconds: float) -> Callable[[Bed], Seen]:
    """Connections stay open and nothing comes through, as when packets are dropped."""

    def act(bed: Bed) -> Seen:
        mark = _begin(bed)
        bed.proxies[SITE].hold(True)
        time.sleep(seconds)
        bed.proxies[SITE].hold(False)
        return _end(bed, mark, seconds)

    return act


def _resets(seconds: float) -> Callable[[Bed], Seen]:
    """Every connection is taken and broken at once, as by a gateway that restarts."""

    def act(bed: Bed) -> Seen:
        mark = _begin(bed)
        bed.proxies[SITE].reset(True)
        time.sleep(seconds)
        bed.proxies[SITE].reset(False)
        return _end(bed, mark, seconds)

    return act


def _slow(bytes_per_second: float, *, rounds: int) -> Callable[[Bed], Seen]:
    def act(bed: Bed) -> Seen:
        mark = _begin(bed)
        bed.proxies[SITE].limit(bytes_per_second)
        bed.slow(SITE, 0)
        bed.grows(rounds)
        bed.proxies[SITE].limit(0)
        return bed.judge(mark)

    return act


def _begin(bed: Bed) -> Mark:
    bed.slow(SITE, TRAINING_S)
    bed.training(SITE)
    return bed.mark()


def _end(bed: Bed, mark: Mark, seconds: float) -> Seen:
    """A site that is away for more than a minute misses the round, and takes part in the next."""
    bed.slow(SITE, 0)
    bed.grows(2, seconds=600 + seconds)
    return bed.judge_absence(mark, SITE, WENT_OFFLINE)


AREA = Area(
    "network",
    partial(running_bed, wait_seconds=1200.0),  # the study waits for its site through the longest cut
    (
        Fault("network cut for 10 s", "while the site trains", REPEATED, _cut(10)),
        Fault("network silent for 10 s", "while the site trains", REPEATED, _silence(10)),
        Fault("connections reset for 10 s", "while the site trains", REPEATED, _resets(10)),
        Fault("slow line, 8 kB/s", "over two rounds", UNDISTURBED, _slow(8_000, rounds=2)),
        Fault("network cut for 100 s", "while the site trains", REJECTED, _cut(100), slow=True),
        Fault("network cut for 10 min", "while the site trains", REJECTED, _cut(600), slow=True),
        Fault("network silent for 100 s", "while the site trains", REJECTED, _silence(100), slow=True),
        Fault("connections reset for 100 s", "while the site trains", REJECTED, _resets(100), slow=True),
        Fault("slow line, 1 Mbit/s", "over three rounds", UNDISTURBED, _slow(125_000, rounds=3), slow=True),
    ),
)
