"""What people see of a study while it runs: one picture of its folder's files, for the page and for the terminal alike.

Reads only: status.json, history.jsonl, presence.json, sites/, the settings, and the header of the checkpoint.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segviz_core.federation import coordinator, journal
from segviz_core.federation.presence import read_presence
from segviz_core.federation.schedule import Round, schedule
from segviz_core.federation.schema import DOING
from segviz_core.federation.study import CHECKPOINT_FILE, HISTORY_FILE
from segviz_core.federation.time_left import rounded, seconds_left
from segviz_core.labels import CURVE_COLORS, ORGANS, OTHER_CURVE_COLOR

_MOST_REJECTIONS = 100

Members = dict[str, dict[str, Any]]


def dashboard(folder: Path) -> dict[str, Any]:
    """The state of the study in `folder` as plain values for JSON; times in seconds since 1970.

    Keys: study, mode, state, message, hint, running, time, round, rounds, stage_title (what sites do now), time_left
    (in words; empty before the first round is finished and while nothing runs), finished_rounds,
    certificate_days_left, bytes_sent and bytes_received (by the coordinator), and `sites`, `history`, `curves`,
    `rejections` as their functions below say.

    Raises:
        InputError: there is no study in `folder`.
    """
    settings, status = coordinator.read_settings(folder), coordinator.status(folder)
    rows, (members, amendments) = journal.read(folder / HISTORY_FILE), _from_checkpoint(folder)
    rounds = schedule(settings, amendments)
    complete = {row["round"]: row for row in rows if row.get("complete")}
    finished = [complete[number] for number in sorted(complete)]
    sites = _sites(status, read_presence(folder), members, rows)
    return {
        "study": settings.name,
        "mode": settings.mode,
        "state": status["state"],
        "message": status.get("message", ""),
        "hint": status.get("hint", ""),
        "running": status["running"],
        "time": round(time.time(), 3),
        "round": min(status["finished_rounds"] + 1, len(rounds)),
        "rounds": len(rounds),
        "stage_title": DOING.get(str(status.get("stage")), ""),
        "finished_rounds": status["finished_rounds"],
        "time_left": _time_left(rounds, status, finished),
        "certificate_days_left": min(status["certificate_days_left"], status["authority_days_left"]),
        "bytes_sent": sum(site["bytes_sent"] for site in sites),
        "bytes_received": sum(site["bytes_received"] for site in sites),
        "sites": sites,
        "history": [_round(row, members) for row in finished],
        "curves": _curves(finished, members),
        "rejections": _rejections(rows),
    }


def _sites(
    status: Mapping[str, Any], presence: Mapping[str, Any], members: Members, rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Per site: site, removed, organs, cases, online, seen (or None), doing (words), dice (last), bytes, rejections."""
    names = sorted({*status["sites"], *presence, *members})
    return [_site(name, status, presence.get(name, {}), members.get(name, {}), rows) for name in names]


def _site(
    name: str,
    status: Mapping[str, Any],
    presence: Mapping[str, Any],
    member: Mapping[str, Any],
    rows: list[dict[str, Any]],
) -> dict[str, Any]:
    own = [row["sites"][name] for row in rows if name in row["sites"]]
    dice: dict[str, float] = {}
    for row in own:
        dice |= _metrics(row, "dice/")
    online = bool(status["running"] and presence.get("online"))
    return {
        "site": name,
        "removed": status["removed"].get(name, ""),
        "organs": list(member.get("organs", ())),
        "cases": max(member.get("cases", {}).values(), default=0),
        "online": online,
        "seen": presence.get("seen") or None,
        "doing": _doing(status, presence) if online else "",
        "dice": dice,
        "bytes_sent": sum(row["bytes_sent"] for row in own),
        "bytes_received": sum(row["bytes_received"] for row in own),
        "rejections": sum(name in row["rejected"] for row in rows),
    }


def _doing(status: Mapping[str, Any], presence: Mapping[str, Any]) -> str:
    if status["state"] == "finished":
        return ""
    if presence["doing"] == "rejected":
        return f"reply rejected: {presence['reason']}"
    if status["state"] != "running" or presence["round"] != status.get("round"):
        return "ready"
    return DOING.get(str(status.get("stage")), "") if presence["doing"] == "asked" else "done, waits for the others"


def _round(row: Mapping[str, Any], members: Members) -> dict[str, Any]:
    """One finished round: round, stage, seconds, replies, loss and dice by organ."""
    organs = _organs(row, members)
    return {
        "round": row["round"],
        "stage": row["stage"],
        "seconds": row["seconds"],
        "replies": sum("metrics" in site for site in row["sites"].values()),
        "rejected": len(row["rejected"]),
        "loss": {organ: loss for organ in organs if (loss := _mean(row, "loss", organ, members)) is not None},
        "dice": {organ: dice for organ in organs if (dice := _mean(row, f"dice/{organ}", organ, members)) is not None},
    }


def _curves(rows: list[dict[str, Any]], members: Members) -> list[dict[str, Any]]:
    """Per organ: organ, title, color, loss and dice as [round, value] points.

    Both are means over the sites that annotate the organ, weighted by their cases (method.md 5.4); the loss is the
    site's, over all organs that it annotates.
    """
    rounds = [_round(row, members) for row in rows]
    organs = {organ for row in rounds for organ in (*row["loss"], *row["dice"])}
    return [
        {
            "organ": organ,
            "title": ORGANS[organ].title if organ in ORGANS else organ.replace("_", " ").capitalize(),
            "color": CURVE_COLORS.get(organ, OTHER_CURVE_COLOR),
            **{
                name: [[row["round"], row[name][organ]] for row in rounds if organ in row[name]]
                for name in ("loss", "dice")
            },
        }
        for organ in [*(name for name in ORGANS if name in organs), *sorted(organs - set(ORGANS))]
    ]


def _rejections(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The latest rejections, newest first: time, round, stage, site, reason."""
    found = [
        {"time": row["time"], "round": row["round"], "stage": row["stage"], "site": site, "reason": reason}
        for row in rows
        for site, reason in sorted(row["rejected"].items())
    ]
    return found[::-1][:_MOST_REJECTIONS]


def _time_left(rounds: Sequence[Round], status: Mapping[str, Any], finished: list[dict[str, Any]]) -> str:
    if not finished or status["state"] not in ("running", "waiting") or len(finished) >= len(rounds):
        return ""
    return rounded(seconds_left(rounds, finished))


def _organs(row: Mapping[str, Any], members: Members) -> list[str]:
    named = {organ for site in row["sites"].values() for organ in _metrics(site, "dice/")}
    trained = {organ for name, site in row["sites"].items() if "metrics" in site for organ in _annotates(name, members)}
    return sorted(named | trained)


def _annotates(site: str, members: Members) -> list[str]:
    return list(members.get(site, {}).get("organs", ()))


def _mean(row: Mapping[str, Any], metric: str, organ: str, members: Members) -> float | None:
    values: list[float] = []
    weights: list[int] = []
    for name, site in row["sites"].items():
        metrics = site.get("metrics", {})
        if metric in metrics and (organ in _annotates(name, members) or f"dice/{organ}" in metrics):
            values.append(float(metrics[metric]))
            weights.append(members.get(name, {}).get("cases", {}).get(organ, 1))
    if not values:
        return None
    return round(sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights), 5)


def _metrics(site: Mapping[str, Any], prefix: str) -> dict[str, float]:
    metrics = site.get("metrics", {})
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}


def _from_checkpoint(folder: Path) -> tuple[Members, list[tuple[int, str]]]:
    """The sites that have declared themselves, by name, and what changed in the plan; from the file's header alone.

    A checkpoint that cannot be read is the coordinator's business to report, and none is there before round 1 ends.
    """
    try:
        with (folder / CHECKPOINT_FILE).open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        state = json.loads(header["__metadata__"]["state"])
        members = {member["site"]: member for member in state["members"].values()}
        return members, [(after, what) for after, what in state.get("amendments", [])]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError):
        return {}, []
