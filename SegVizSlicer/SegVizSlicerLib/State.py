"""What the window is doing, how a button says why it is disabled, and what an opened section shows."""

from enum import Enum
from typing import Any


class State(Enum):
    """One job of the window at a time; a site trains beside it on its own."""

    Idle = "idle"
    Installing = "installing"
    Starting = "starting"
    Running = "running"
    Importing = "importing"
    Cancelling = "cancelling"
    Failed = "failed"

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return self not in (State.Idle, State.Failed)


def explain(button: Any, reason: str, otherwise: str = "") -> None:
    """Disable `button` with `reason` as its tooltip, or enable it when there is none."""
    button.enabled = not reason
    button.toolTip = reason or otherwise


def showIn(section: Any, widget: Any, wanted: bool) -> None:
    """Show `widget` of a collapsible section when it is `wanted`.

    Opening a section shows all its children, and a child shown in a closed one would be drawn over its header: so this
    is asked again whenever a section opens or closes.
    """
    widget.setVisible(wanted and not section.collapsed)
