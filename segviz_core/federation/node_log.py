"""What Flower's SuperNode means: its exit codes are text in a log, here they become sentences (flower.md section 3)."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from segviz_core.federation.clock import TOLERATED_S


class Then(Enum):
    """What the site does next."""

    RETRY = "try again"
    RETRY_A_WHILE = "try again for a while, then give up"
    NEW_PORT = "try again at another local port"
    GIVE_UP = "give up"
    REMOVED = "removed"


@dataclass(frozen=True)
class Reason:
    """Why the connection ended, in one sentence, and what follows."""

    message: str
    then: Then
    hint: str = ""


CONNECTED = re.compile(r"SuperNode ID: (\d+)")
RETRYING = re.compile(r"Connection attempt failed, retrying")
SENT = re.compile(r"Sent successfully|Failed to send message|Ignoring reply message")
CONNECTED_AGAIN = re.compile(r"Connection successful after")

NOT_RUNNING = "The coordinator is not running, or the address or port is wrong."
RECONNECTING = "Reconnecting: the coordinator frees your place within a minute."
REMOVED = "Removed by the coordinator."

_NEW_KIT = "Ask the coordinator for a new kit."
UNREGISTERED = Reason(
    "This site is not registered: ask the coordinator.",
    Then.RETRY_A_WHILE,
    "The study may have been made anew, this site removed, or another computer may be using its kit.",
)


def explain(
    log: str, *, returncode: int, worked_before: bool, seconds_ahead: Callable[[], float | None] = lambda: None
) -> Reason:
    """The reason for the end of a SuperNode that nobody asked to stop.

    `log` is the end of its output without colours; `worked_before` tells whether this site's key was accepted once;
    `seconds_ahead` looks at the clocks (clock.py), for Flower ends a site with a wrong one like one that was removed.
    """
    if "address already in use" in log.lower():
        return Reason("Another program took the local port.", Then.NEW_PORT)
    if "code: 2004" in log:
        return Reason(RECONNECTING, Then.RETRY_A_WHILE) if worked_before else UNREGISTERED
    if "code: 2001" in log:
        return Reason("The site key is missing: import the kit again.", Then.GIVE_UP)
    if "certificate has expired" in log:
        return Reason("The coordinator's certificate has ended.", Then.GIVE_UP, "Ask it to start the study again.")
    if "certificate is not yet valid" in log:
        return Reason(
            "The coordinator's certificate is not valid yet.", Then.GIVE_UP, "Is this computer's clock right?"
        )
    if "CERTIFICATE_VERIFY_FAILED" in log:
        return Reason("The coordinator's certificate does not belong to this kit.", Then.GIVE_UP, _NEW_KIT)
    if "Connection refused" in log:
        return Reason(NOT_RUNNING, Then.RETRY_A_WHILE)
    if "disconnected" in log:
        return Reason("The address in the kit is not a TLS fleet address.", Then.RETRY_A_WHILE, _NEW_KIT)
    if "Exit Code: 302" in log or "Exit Code: 604" in log:
        return Reason("The kit is damaged.", Then.GIVE_UP, _NEW_KIT)
    if "Exit Code: 606" in log:
        return Reason(
            "There are two Flower versions on this computer.",
            Then.GIVE_UP,
            "Remove the one that the kit does not name.",
        )
    if returncode == 0 and "terminated gracefully" in log:
        ahead = seconds_ahead() or 0.0
        if abs(ahead) > TOLERATED_S:
            away = f"{abs(ahead) / 60:.0f} minutes {'ahead of' if ahead > 0 else 'behind'} the coordinator's"
            return Reason(f"The clock of this computer is {away}.", Then.GIVE_UP, "Set it right, then join again.")
        return Reason(REMOVED, Then.REMOVED, "Ask the coordinator for a new kit to take part again.")
    return Reason("The connection to the coordinator broke.", Then.RETRY, "The log of the site (node.log) says more.")
