"""The groups `coordinator` and `site` of the command line. Start-up imports the standard library only."""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segviz_core.arguments import label_values, names
from segviz_core.federation.coordinator_commands import add_coordinator

if TYPE_CHECKING:
    from segviz_core.console import Console
    from segviz_core.federation.kit import Kit

Subparsers = Any  # argparse._SubParsersAction[ArgumentParser]: private in the standard library


def add_commands(subparsers: Subparsers) -> None:
    """Add both groups; every command sets `run`, a function of (options, console)."""
    add_coordinator(subparsers)
    _add_site(subparsers)


def _add_site(subparsers: Subparsers) -> None:
    group = subparsers.add_parser("site", help="take part in a study with your own cases")
    commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    join = commands.add_parser("join", help="check the cases, ask for consent, go online")
    estimate = commands.add_parser("estimate", help="time and memory that joining would cost, from a few real steps")
    for command in (join, estimate):
        _add_choices(command)
    join.add_argument("--consent", action="store_true", help="agree to what leaves this site, without being asked")
    join.add_argument("--flwr-folder", type=Path, metavar="DIR", help="private folder that holds Flower")
    join.add_argument("--foreground", action="store_true", help="work in this process until Ctrl-C")
    join.add_argument(
        "--code",
        choices=["local", "pin"],
        default="local",
        help="whose code runs here: only what is installed (default), or the coordinator's once you approved it",
    )
    estimate.set_defaults(run=_site_estimate)
    key = commands.add_parser("key", help="make this site's own key, for a kit without one")
    leave = commands.add_parser("leave", help="go offline; join again to go on")
    leave.add_argument("--after-round", action="store_true", help="leave once the answer of this round is sent")
    status = commands.add_parser("status", help="what the site is doing")
    code = commands.add_parser("code", help="what the coordinator's code is, for a site that joined with --code pin")
    approve = commands.add_parser("approve", help="let the coordinator's code of this hash run here")
    approve.add_argument("sha256", metavar="HASH")
    for command, run in (
        (join, _site_join),
        (key, _site_key),
        (leave, _site_leave),
        (status, _site_status),
        (code, _site_code),
        (approve, _site_approve),
    ):
        command.add_argument("--work", type=Path, metavar="DIR", help="folder of the site (default: ~/.segviz/site)")
        command.set_defaults(run=run)


def _add_choices(command: argparse.ArgumentParser) -> None:
    """What a site decides about its cases and its computer."""
    command.add_argument("kit", type=Path, metavar="KIT", help="the file you got from the coordinator")
    command.add_argument("--cases", type=Path, required=True, metavar="DIR", help="folder with images and labels")
    command.add_argument(
        "--label-set", type=names, required=True, metavar="ORGANS", help="organs annotated here, by comma"
    )
    command.add_argument(
        "--label-values",
        type=label_values,
        nargs="+",
        default=[],
        metavar="ORGAN=VALUES",
        help="voxel values of an organ in your label files, as in kidneys=2,3",
    )
    command.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="cores for training (default: all)")
    command.add_argument(
        "--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: an NVIDIA card where there is one"
    )


def _site_join(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import site
    from segviz_core.federation.kit import read_kit

    chosen = site.SiteOptions(
        cases=options.cases,
        organs=options.label_set,
        label_values=dict(options.label_values),
        cores=max(1, options.cores),
        device=options.device,
        flwr_folder=options.flwr_folder,
        code=options.code,
    )

    def show(row: Mapping[str, Any]) -> None:
        if row["event"] == "progress":
            console.progress(str(row["stage"]), int(row["done"]), int(row["total"]))
        elif row["event"] == "state":
            console.progress(str(row["message"]), 0, 1)

    consent = options.consent or _asked_for_consent(read_kit(options.kit), options.code)
    folder = options.work or site.DEFAULT_FOLDER
    status = site.join(options.kit, chosen, folder=folder, consent=consent, foreground=options.foreground, on_row=show)
    console.result({"folder": str(folder), **status}, f"{status['message']} Folder of the site: {folder}")


def _asked_for_consent(kit: "Kit", code: str) -> bool:
    from segviz_core.federation.consent import consent_text

    sys.stderr.write(consent_text(kit, code=code) + "\n\n")
    if not sys.stdin.isatty():
        return False
    sys.stderr.write("Do you agree? Type yes: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() == "yes"


def _site_key(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import site

    public = site.make_key(options.work or site.DEFAULT_FOLDER)
    console.result({"public_key": str(public)}, f"{public}\nSend this file to the coordinator; the key stays here.")


def _site_estimate(options: argparse.Namespace, console: "Console") -> None:
    from dataclasses import asdict

    from segviz_core.federation.estimate import estimate
    from segviz_core.federation.kit import read_kit

    found = estimate(
        read_kit(options.kit).site,
        options.cases,
        organs=options.label_set,
        label_values=dict(options.label_values),
        cores=max(1, options.cores),
        device=options.device,
        on_progress=console.progress,
    )
    console.result(asdict(found) | {"sentence": found.sentence}, found.sentence)


def _site_leave(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import site

    site.leave(options.work or site.DEFAULT_FOLDER, after_round=options.after_round)
    if options.after_round:
        console.result({"state": "leaving"}, "It leaves once the answer of this round is sent: site status")
    else:
        console.result({"state": "left"}, "Left. Join again with the same kit to go on.")


def _site_code(options: argparse.Namespace, console: "Console") -> None:
    from dataclasses import asdict

    from segviz_core.federation import site
    from segviz_core.federation.code_review import review

    found = review(options.work or site.DEFAULT_FOLDER)
    parts = []
    for code in found:
        files = "\n".join(f"  {sha256}  {name}" for name, sha256 in code.files.items())
        state = "approved" if code.approved else "waits to be approved: site approve HASH"
        parts.append(f"{code.sha256} ({state})\n{files}\n{code.difference}")
    text = "\n\n".join(parts) or "The coordinator has sent no code yet."
    console.result({"code": [asdict(code) for code in found]}, text)


def _site_approve(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import site
    from segviz_core.federation.code_review import approve

    approve(options.work or site.DEFAULT_FOLDER, options.sha256)
    console.result({"sha256": options.sha256}, "Approved: exactly this code runs here from its next request on.")


def _site_status(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import site

    status = site.status(options.work or site.DEFAULT_FOLDER)
    console.result(status, "\n".join(f"{name}: {_plain(value)}" for name, value in status.items()))


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
