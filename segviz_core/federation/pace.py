"""Sites of unequal speed, and how long the work of a stage takes.

A slow site makes fewer steps in the next round; its weight in the average stays (1/N).
"""

from collections.abc import Collection, Mapping
from statistics import median

from segviz_core.federation.packets import Packet
from segviz_core.federation.settings import StudySettings
from segviz_core.federation.state import StudyState

_MARGIN = 0.8
"""A round is to end in this part of its timeout."""
_LONGEST_SHARE, _TRANSFER_S = 3.0, 60.0


class Durations:
    """The longest time that any site took for each stage, since this process began."""

    def __init__(self) -> None:
        self._longest: dict[str, float] = {}

    def note(self, reply: Packet) -> None:
        """Learn from an accepted reply."""
        self._longest[reply.stage] = max(self._longest.get(reply.stage, 0.0), reply.metrics.get("seconds", 0.0))

    def patience(self, request: Packet) -> float | None:
        """Seconds after which silence means that a message got lost; None before anybody has answered such a one."""
        longest = self._longest.get(request.stage)
        return None if longest is None else _LONGEST_SHARE * longest + _TRANSFER_S


def adapt(
    state: StudyState,
    replies: Mapping[str, Mapping[str, float]],
    *,
    late: Collection[str],
    steps: int,
    settings: StudySettings,
) -> None:
    """Set every member's share of a round's `steps` by the metrics of its `train` reply; sites `late` get half of it.

    A site is held to `settings.round_timeout` and, with `settings.pace`, to that many times the median site.
    """
    whole = {
        site: steps * metrics["seconds"] / metrics["steps"]
        for site, metrics in replies.items()
        if metrics.get("seconds") and metrics.get("steps")
    }  # seconds that each site would need for all steps
    allowed = _MARGIN * settings.round_timeout
    if settings.pace and whole:
        allowed = min(allowed, settings.pace * median(whole.values()))
    for member in list(state.members.values()):
        if member.site in late:
            state.update(member.site, share=max(member.share / 2, 1 / steps))
        elif member.site in whole:
            state.update(member.site, share=min(1.0, allowed / whole[member.site]))
