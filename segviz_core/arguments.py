"""Types of command-line arguments that several commands share. Standard library only."""

import argparse
import math


def names(text: str) -> tuple[str, ...]:
    """`liver,spleen` -> ("liver", "spleen")."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise argparse.ArgumentTypeError("expected names separated by commas")
    return found


def label_values(text: str) -> tuple[str, tuple[int, ...]]:
    """`kidneys=2,3` -> ("kidneys", (2, 3))."""
    organ, equals, numbers = text.partition("=")
    try:
        values = tuple(int(number) for number in numbers.split(","))
    except ValueError:
        values = ()
    if not (organ and equals and values):
        raise argparse.ArgumentTypeError(f"expected ORGAN=VALUE or ORGAN=VALUE,VALUE, found {text!r}")
    return organ, values


def millimetres(text: str) -> float:
    """`2.5` -> 2.5; above 0 and finite."""
    return _above_0(text, "millimetres")


def gigabytes(text: str) -> float:
    """`2.5` -> 2.5; above 0 and finite."""
    return _above_0(text, "gigabytes")


def threads(text: str) -> int:
    """`2` -> 2; a whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a number of threads above 0, found {text!r}")
    return int(text)


def _above_0(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected {what} above 0, found {text!r}")
    return value
