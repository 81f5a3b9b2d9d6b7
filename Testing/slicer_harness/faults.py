"""Exceptions that Qt slots and VTK observers swallow: the harness collects them so that a test can fail on them."""

import sys
import traceback
from types import TracebackType

swallowed: list[BaseException] = []
"""Every exception that reached `sys.excepthook` since the list was last cleared."""


def collect_swallowed() -> None:
    """Send exceptions of slots and observers to `swallowed` instead of only to the console."""

    def hook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        swallowed.append(value)
        traceback.print_exception(kind, value, trace)

    sys.excepthook = hook
