"""What a row of the table is, and the one vocabulary of its outcomes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

UNDISTURBED, REPEATED = "undisturbed", "round-repeated"
REJECTED, REFUSED, NAMED = "rejected", "refused", "named-error"
BROKEN = "broken"
"""None of the above: never expected."""


@dataclass(frozen=True)
class Seen:
    """What was observed. `rounds_lost`: finished rounds that had to be played again; `why`: the words or numbers."""

    outcome: str
    why: str = ""
    rounds_lost: int = 0
    seconds: float | None = None


@dataclass(frozen=True)
class Fault:
    """One row: what breaks, when, what is expected, and the function that does it and gives what was seen.

    `act` gets the area's bed. `slow` rows belong to `make faults-long`; `needs` says what this computer lacks, or "".
    """

    fault: str
    when: str
    expected: str
    act: Callable[[Any], Seen]
    slow: bool = False
    needs: Callable[[], str] = lambda: ""

    @property
    def name(self) -> str:
        """Fault and moment, unique in the table."""
        return f"{self.fault}, {self.when}" if self.when else self.fault


@dataclass(frozen=True)
class Area:
    """Faults that share one bed, one after the other; a bed that a fault has broken is made anew."""

    name: str
    bed: Callable[[Path], AbstractContextManager[Any]]
    faults: tuple[Fault, ...]


def as_expected(expected: str, seen: str) -> bool:
    """The matrix allows a repeated round wherever nothing at all was noticed."""
    return seen == expected or (expected, seen) == (REPEATED, UNDISTURBED)


Beds = Iterator[Any]
