"""The groups `coordinator` and `site` of the command line. Start-up imports the standard library only."""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segviz_core.arguments import label_values, names

if TYPE_CHECKING:
    from segviz_core.console import Console
    from segviz_core.federation.kit import Kit

Subparsers = Any  # argparse._SubParsersAction[ArgumentParser]: private in the standard library


def add_commands(subparsers: Subparsers) -> None:
    """Add both groups; every command sets `run`, a function of (options, console)."""
    _add_coordinator(subparsers)
    _add_site(subparsers)


def _add_coordinator(subparsers: Subparsers) -> None:
    group = subparsers.add_parser("coordinator", help="lead a study: create it, add sites, start it")
    commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    create = commands.add_parser("create", help="make a study folder: settings, first weights, certificates")
    create.add_argument("study", type=Path, metavar="STUDY", help="new folder of the study")
    create.add_argument("--settings", type=Path, metavar="FILE", help="TOML file with settings of the study")
    create.add_argument("--name", help="name of the study (default: of the folder)")
    create.add_argument("--mode", choices=["segviz+", "segviz-fedavg", "segviz-fedbn"], help="how sites work together")
    create.add_argument("--rounds", type=int, help="shared rounds")
    create.add_argument("--min-sites", type=int, help="sites that must be online before a round starts")
    create.add_argument("--host", default="127.0.0.1", help="address that sites connect to (now: this computer only)")
    create.add_argument("--port", type=int, default=9443, help="port that sites connect to (default: 9443)")
    create.set_defaults(run=_coordinator_create)

    add_site = commands.add_parser("add-site", help="write the kit with which a site joins")
    add_site.add_argument("study", type=Path, metavar="STUDY")
    add_site.add_argument("name", metavar="NAME", help="pseudonym of the site: letters, digits, - and _")
    add_site.add_argument("--allow", type=names, default=(), metavar="ORGANS", help="organs, by comma (default: any)")
    add_site.add_argument(
        "--out", type=Path, metavar="FILE", help="where to write the kit (default: STUDY/kits/NAME.zip)"
    )
    add_site.set_defaults(run=_coordinator_add_site)

    start = commands.add_parser(
        "start", help="serve the study until it is finished (Ctrl-C stops; start again goes on)"
    )
    status = commands.add_parser("status", help="what the study is doing")
    stop = commands.add_parser("stop", help="stop a running coordinator")
    for command, run in ((start, _coordinator_start), (status, _coordinator_status), (stop, _coordinator_stop)):
        command.add_argument("study", type=Path, metavar="STUDY")
        command.set_defaults(run=run)

    dashboard = commands.add_parser("dashboard", help="watch a study in the browser of this computer (Ctrl-C ends)")
    dashboard.add_argument("study", type=Path, metavar="STUDY")
    dashboard.add_argument("--port", type=int, default=9444, help="port of the page, on 127.0.0.1 (default: 9444)")
    dashboard.add_argument("--terminal", action="store_true", help="here in the terminal, without a browser")
    dashboard.set_defaults(run=_coordinator_dashboard)


def _add_site(subparsers: Subparsers) -> None:
    group = subparsers.add_parser("site", help="take part in a study with your own cases")
    commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    join = commands.add_parser("join", help="check the cases, ask for consent, go online")
    join.add_argument("kit", type=Path, metavar="KIT", help="the file you got from the coordinator")
    join.add_argument("--cases", type=Path, required=True, metavar="DIR", help="folder with images and labels")
    join.add_argument(
        "--label-set", type=names, required=True, metavar="ORGANS", help="organs annotated here, by comma"
    )
    join.add_argument(
        "--label-values",
        type=label_values,
        nargs="+",
        default=[],
        metavar="ORGAN=VALUES",
        help="voxel values of an organ in your label files, as in kidneys=2,3",
    )
    join.add_argument("--consent", action="store_true", help="agree to what leaves this site, without being asked")
    join.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="cores for training (default: all)")
    join.add_argument("--flwr-folder", type=Path, metavar="DIR", help="private folder that holds Flower")
    join.add_argument("--foreground", action="store_true", help="work in this process until Ctrl-C")
    leave = commands.add_parser("leave", help="go offline; join again to go on")
    status = commands.add_parser("status", help="what the site is doing")
    for command, run in ((join, _site_join), (leave, _site_leave), (status, _site_status)):
        command.add_argument("--work", type=Path, metavar="DIR", help="folder of the site (default: ~/.segviz/site)")
        command.set_defaults(run=run)


def _coordinator_create(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import coordinator
    from segviz_core.federation.settings import StudySettings

    values = _read_toml(options.settings) if options.settings else {}
    values.setdefault("name", options.study.resolve().name)
    chosen = {"name": options.name, "mode": options.mode, "rounds": options.rounds, "min_sites": options.min_sites}
    settings = StudySettings.from_dict(values | {name: value for name, value in chosen.items() if value is not None})
    coordinator.create(options.study, settings, host=options.host, port=options.port)
    console.result(
        {"study": str(options.study), "address": f"{options.host}:{options.port}"},
        f"Study {settings.name!r} in {options.study}. Next: coordinator add-site {options.study} NAME",
    )


def _coordinator_add_site(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import coordinator

    kit = coordinator.add_site(options.study, options.name, allow=options.allow, kit_file=options.out)
    text = f"{kit}\nWho holds this file is the site: send it over a channel that both trust."
    console.result({"kit": str(kit), "site": options.name}, text)


def _coordinator_start(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation.serving import serve

    def show(status: dict[str, Any]) -> None:
        if "rounds" in status:
            console.progress("round", int(status["round"]) - (status["state"] != "finished"), int(status["rounds"]))
        elif status.get("message"):
            console.progress(str(status["message"]), 0, 1)

    status = serve(options.study, on_status=show)
    console.result(status, f"Finished after {status['finished_rounds']} rounds: {status.get('meta_model', '')}")


def _coordinator_status(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import coordinator

    status = coordinator.status(options.study)
    console.result(status, "\n".join(f"{name}: {_plain(value)}" for name, value in status.items()))


def _coordinator_dashboard(options: argparse.Namespace, console: "Console") -> None:
    if options.terminal:
        from segviz_core.federation.dashboard_terminal import watch

        watch(options.study, poll=console.poll)
        return
    from segviz_core.federation.dashboard_server import serve_dashboard

    def tell(url: str) -> None:
        console.result({"url": url}, f"{url}  (this computer only; Ctrl-C ends)")

    serve_dashboard(options.study, port=options.port, on_ready=tell, poll=console.poll)


def _coordinator_stop(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import coordinator

    coordinator.stop(options.study)
    console.result({"state": "stopped"}, "Stopped. Start it again to go on after the last finished round.")


def _site_join(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import site
    from segviz_core.federation.kit import read_kit

    chosen = site.SiteOptions(
        cases=options.cases,
        organs=options.label_set,
        label_values=dict(options.label_values),
        cores=max(1, options.cores),
        flwr_folder=options.flwr_folder,
    )

    def show(row: Mapping[str, Any]) -> None:
        if row["event"] == "progress":
            console.progress(str(row["stage"]), int(row["done"]), int(row["total"]))
        elif row["event"] == "state":
            console.progress(str(row["message"]), 0, 1)

    consent = options.consent or _asked_for_consent(read_kit(options.kit))
    folder = options.work or site.DEFAULT_FOLDER
    status = site.join(options.kit, chosen, folder=folder, consent=consent, foreground=options.foreground, on_row=show)
    console.result({"folder": str(folder), **status}, f"{status['message']} Folder of the site: {folder}")


def _asked_for_consent(kit: "Kit") -> bool:
    from segviz_core.federation.consent import consent_text

    sys.stderr.write(consent_text(kit) + "\n\n")
    if not sys.stdin.isatty():
        return False
    sys.stderr.write("Do you agree? Type yes: ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() == "yes"


def _site_leave(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import site

    site.leave(options.work or site.DEFAULT_FOLDER)
    console.result({"state": "left"}, "Left. Join again with the same kit to go on.")


def _site_status(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import site

    status = site.status(options.work or site.DEFAULT_FOLDER)
    console.result(status, "\n".join(f"{name}: {_plain(value)}" for name, value in status.items()))


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib

    from segviz_core.errors import InputError

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"The settings file {path} cannot be read: {error}.", hint="Expected a TOML file.") from error


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
