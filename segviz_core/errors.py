"""What can go wrong, as one exception tree: every error carries a sentence and what to do next.

SegVizError
 +- InputError      bad input of a person or another site: exit code 3
 +- Cancelled       the user stopped it: exit code 4
"""


class SegVizError(Exception):
    """Anything SegViz reports on purpose: `message` says what was expected and found, `hint` what to do."""

    kind = "error"
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class InputError(SegVizError):
    """A file, folder, setting or message that cannot be used."""

    kind = "input"
    exit_code = 3


class Cancelled(SegVizError):
    """The user stopped the work; nothing was written."""

    kind = "cancelled"
    exit_code = 4

    def __init__(self, message: str = "Cancelled.", *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
