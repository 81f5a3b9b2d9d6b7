"""Who belongs to a study: declaring, leaving, being erased (method.md section 6).

`sites.json`, which the coordinator writes, binds node ids to what it registered, and says who was removed:
{"<node id>": {"site": "north", "allow": ["liver"], "removed": "left" | "erased"}}; an empty `allow` permits any organ.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segviz_core.federation.guard import Rejected, declared_organs
from segviz_core.federation.packets import Packet
from segviz_core.federation.settings import StudySettings
from segviz_core.federation.state import Member, StudyState

Registered = Mapping[str, Mapping[str, Any]]


def read_registered(path: Path) -> Registered:
    """What the coordinator registered, by node id; nothing where there is no such file (a study in one process)."""
    if not path.exists():
        return {}
    values = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    return values


def newcomers(state: StudyState, registered: Registered) -> list[str]:
    """Names of registered sites that have not declared themselves yet."""
    return sorted(
        str(entry["site"])
        for node, entry in registered.items()
        if node not in state.members and not entry.get("removed")
    )


def declared(node: str, reply: Packet, state: StudyState, registered: Registered) -> Member:
    """The member that a `declare` reply makes of node id `node`.

    Raises:
        Rejected: not the name or organs that it was registered with, or a name that is taken or no name.
    """
    site, organs = str(reply.settings.get("site", "")), declared_organs(reply)
    if entry := registered.get(node):
        if site != entry["site"]:
            raise Rejected(f"expected the site name {entry['site']!r}, found {site[:64]!r}.")
        if entry["allow"] and (foreign := [organ for organ in organs if organ not in entry["allow"]]):
            raise Rejected(f"this site may annotate {', '.join(entry['allow'])}, but declared {foreign[0]}.")
        if entry.get("removed"):
            raise Rejected("this site was removed from the study.")
    if not site.replace("-", "").replace("_", "").isalnum() or not site.isascii():
        raise Rejected(f"expected a site name of letters, digits, - and _, found {site[:64]!r}.")
    if any(member.site == site for other, member in state.active.items() if other != node):
        raise Rejected(f"the site name {site!r} is taken by another site.")
    cases = {organ: int(reply.metrics[f"cases/{organ}"]) for organ in organs}
    return Member(site, organs, cases, joined=int(reply.settings["round"]))


def admit(state: StudyState, node: str, member: Member) -> None:
    """Take `member` in; a site of the same name that had left is the same one with a new key."""
    state.members = {other: m for other, m in state.members.items() if m.site != member.site} | {node: member}


def fewest(state: StudyState, stage: str, settings: StudySettings) -> int:
    """How many sites must be online at least before a round of `stage`.

    Those that the coordinator removed are not waited for; for newcomers of a finished study no other site is needed.
    """
    if state.reopened:
        return 1
    return settings.min_sites if stage == "declare" else min(settings.min_sites, max(1, len(state.active)))


def mark_left(state: StudyState, registered: Registered) -> None:
    """Note who has left by the coordinator's word."""
    for node, member in state.active.items():
        if registered.get(node, {}).get("removed") == "left":
            state.update(member.site, left=True)


def to_erase(state: StudyState, registered: Registered) -> list[Member]:
    """The members that the coordinator wants erased."""
    return [member for node, member in state.members.items() if registered.get(node, {}).get("removed") == "erased"]


def forget_training(state: StudyState) -> None:
    """Drop everything that sites have trained together; each member keeps what it has done alone."""
    for values in (state.heads, state.norms, state.momentum, state.gates, state.calibration, state.dice):
        values.clear()
    for member in state.members.values():
        state.update(member.site, labelled=())
