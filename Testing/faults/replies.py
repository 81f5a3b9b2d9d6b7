"""Replies of a hostile site, another one in each round of one run, beside two honest sites."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bed import SITES, Bed
from fault import BROKEN, REJECTED, Area, Fault, Seen
from hostile_replies import BEHAVIOURS, FIRST_ROUND

HOSTILE = "pancreas"
ROUNDS = len(BEHAVIOURS) - 1
"""Training rounds, after `declare`; the last behaviour meets `evaluate`, where nobody waits for a lost site."""


@contextmanager
def hostile_bed(folder: Path) -> Iterator[dict[str, Any]]:
    """The finished study: its rows by round, and whether its weights are those of the honest sites alone."""
    settings = {"rounds": ROUNDS, "min_sites": 3, "round_timeout": 60.0}
    bed = Bed(folder, sites={**SITES, HOSTILE: ["pancreas"]}, **settings)
    try:
        bed.start()
        for name in bed.sites:
            bed.join(name, client_app="hostile_replies:app" if name == HOSTILE else "paused_client_app:app")
        assert bed.leader is not None
        if bed.leader.process.wait(900):
            raise RuntimeError(bed.leader.output()[-800:])
        state, rows = bed.settled()
        try:
            bed.compare(state, absent=[HOSTILE])
            wrong = ""
        except AssertionError as error:
            wrong = str(error).strip().splitlines()[0]
        yield {"rows": {row["round"]: row for row in rows}, "wrong": wrong}
    finally:
        bed.stop()


def _reply(number: int, words: str) -> Any:
    def act(played: dict[str, Any]) -> Seen:
        row = played["rows"][number]
        why = row["rejected"].get(HOSTILE, "not rejected")
        right = (
            any(word.rstrip(".") in why for word in words.split("|"))
            and list(row["rejected"]) == [HOSTILE]
            and not played["wrong"]
        )
        seen = Seen(REJECTED if right else BROKEN, why if not played["wrong"] else f"weights: {played['wrong']}")
        return replace(seen, seconds=row["seconds"])

    return act


AREA = Area(
    "replies",
    hostile_bed,
    tuple(
        Fault(f"hostile reply: {title}", f"round {number}", REJECTED, _reply(number, words))
        for number, (title, words, _) in enumerate(BEHAVIOURS, start=FIRST_ROUND)
    ),
)
