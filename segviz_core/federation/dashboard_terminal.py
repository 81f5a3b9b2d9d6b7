"""The dashboard in a terminal, for those without a browser."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from segviz_core.federation.dashboard import dashboard
from segviz_core.federation.time_left import rounded

_REFRESH_S, _POLL_S, _MOST_REJECTIONS, _WIDTH = 2.0, 0.25, 5, 24
_BARS = "\N{LOWER ONE EIGHTH BLOCK}▂▃▄▅▆▇█"


def watch(folder: Path, *, poll: Callable[[], None], console: Console | None = None) -> None:
    """Show the study in `folder` and follow it until it is finished or `poll` raises; in a pipe, show it once.

    Raises:
        InputError: there is no study in `folder`.
    """
    console = console or Console()
    if not console.is_terminal:
        console.print(view(dashboard(folder)))
        return
    with Live(view(dashboard(folder)), console=console, auto_refresh=False, screen=False) as live:
        while True:
            data = dashboard(folder)
            live.update(view(data), refresh=True)
            if data["state"] == "finished" and not data["running"]:
                return
            end = time.monotonic() + _REFRESH_S
            while time.monotonic() < end:
                poll()
                time.sleep(_POLL_S)


def view(data: dict[str, Any]) -> RenderableType:
    """The values of `dashboard` as tables."""
    parts: list[RenderableType] = [_head(data), _sites(data)]
    if data["curves"]:
        parts.append(_organs(data))
    if data["rejections"]:
        parts.append(_rejections(data))
    return Panel(Group(*parts), title=Text(f"Study {data['study']}", style="bold"))


def _head(data: dict[str, Any]) -> RenderableType:
    where = f"{data['state']}: {data['stage_title']}" if data["state"] == "running" else data["state"]
    facts = [where, f"{data['finished_rounds']} of {data['rounds']} rounds"]
    facts += [f"about {data['time_left']} left"] if data["time_left"] else []
    facts += [f"sent {data['bytes_sent'] / 1e6:.1f} MB, received {data['bytes_received'] / 1e6:.1f} MB"]
    facts += [f"certificate: {data['certificate_days_left']:.0f} days left"]
    bar = ProgressBar(total=data["rounds"], completed=data["finished_rounds"])
    said = " ".join(filter(None, (data["message"], data["hint"])))
    return Group(Text("  ".join(facts)), bar, *([Text(said, style="yellow")] if said else []), Text())


def _sites(data: dict[str, Any]) -> Table:
    table = _table("Site", "Connection", "Doing", "Organs", "Sent", "Received", "Rejected")
    for site in data["sites"]:
        table.add_row(
            Text(site["site"]),
            Text(_connection(site, data["time"]), style="green" if site["online"] else "dim"),
            Text(site["doing"]),
            Text(", ".join(site["organs"])),
            f"{site['bytes_sent'] / 1e6:.1f} MB",
            f"{site['bytes_received'] / 1e6:.1f} MB",
            str(site["rejections"]),
        )
    return table


def _connection(site: dict[str, Any], now: float) -> str:
    if site["removed"]:
        return f"removed ({site['removed']})"
    if site["online"]:
        return "online"
    return f"offline, seen {rounded(now - site['seen'])} ago" if site["seen"] else "not seen yet"


def _organs(data: dict[str, Any]) -> Table:
    table = _table("Organ", "Dice", "", "Loss", "")
    for curve in data["curves"]:
        cells = [Text(curve["title"], style=curve["color"])]
        for name, top in (("dice", 1.0), ("loss", None)):
            values = [value for _, value in curve[name]]
            cells += [Text(f"{values[-1]:.3f}" if values else ""), Text(_curve(values, top))]
        table.add_row(*cells)
    return table


def _rejections(data: dict[str, Any]) -> Table:
    table = _table("Round", "Site", "Rejected because")
    for row in data["rejections"][:_MOST_REJECTIONS]:
        table.add_row(str(row["round"]), Text(row["site"]), Text(row["reason"]))
    return table


def _table(*heads: str) -> Table:
    table = Table(expand=True, box=None, header_style="dim", padding=(0, 1))
    for head in heads:
        table.add_column(head)
    return table


def _curve(values: list[float], top: float | None) -> str:
    """The last values as a row of bars from 0 to `top` (default: their largest)."""
    last = values[-_WIDTH:]
    ceiling = top or max(last, default=0.0)
    if ceiling <= 0:
        return ""
    return "".join(_BARS[max(0, min(7, int(value / ceiling * 8)))] for value in last)
