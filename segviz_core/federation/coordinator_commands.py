"""The group `coordinator` of the command line. Start-up imports the standard library only."""

import argparse
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segviz_core.arguments import names

if TYPE_CHECKING:
    from segviz_core.console import Console

_SHOWN_REJECTIONS = 5

Subparsers = Any  # argparse._SubParsersAction[ArgumentParser]: private in the standard library


def add_coordinator(subparsers: Subparsers) -> None:
    """Add the group; every command sets `run`, a function of (options, console)."""
    group = subparsers.add_parser("coordinator", help="lead a study: create it, add sites, start it")
    commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    create = commands.add_parser("create", help="make a study folder: settings, first weights, certificates")
    create.add_argument("study", type=Path, metavar="STUDY", help="new folder of the study")
    create.add_argument("--settings", type=Path, metavar="FILE", help="TOML file with settings of the study")
    create.add_argument("--name", help="name of the study (default: of the folder)")
    create.add_argument("--mode", choices=["segviz+", "segviz-fedavg", "segviz-fedbn"], help="how sites work together")
    create.add_argument("--rounds", type=int, help="shared rounds")
    create.add_argument("--min-sites", type=int, help="sites that must be online before a round starts")
    create.add_argument(
        "--host", default="127.0.0.1", help="name or IPv4 address that sites connect to (default: this computer only)"
    )
    create.add_argument("--port", type=int, default=9443, help="port that sites connect to (default: 9443)")
    create.add_argument("--bind", metavar="ADDRESS", help="address to listen at (default: all, or 127.0.0.1)")
    create.set_defaults(run=_create)

    add_site = commands.add_parser("add-site", help="write the kit with which a site joins")
    add_site.add_argument("study", type=Path, metavar="STUDY")
    add_site.add_argument("name", metavar="NAME", help="pseudonym of the site: letters, digits, - and _")
    add_site.add_argument("--allow", type=names, default=(), metavar="ORGANS", help="organs, by comma (default: any)")
    add_site.add_argument("--public-key", type=Path, metavar="FILE", help="key that the site made itself (site key)")
    add_site.add_argument(
        "--out", type=Path, metavar="FILE", help="where to write the kit (default: STUDY/kits/NAME.zip)"
    )
    add_site.set_defaults(run=_add_site)

    remove_site = commands.add_parser("remove-site", help="take a site out for good; its heads stay in the model")
    remove_site.add_argument("study", type=Path, metavar="STUDY")
    remove_site.add_argument("name", metavar="NAME")
    remove_site.add_argument("--erase", action="store_true", help="drop its heads and its expert too")
    remove_site.set_defaults(run=_remove_site)

    export = commands.add_parser("export", help="write the meta-model so far, also while the study runs")
    export.add_argument("study", type=Path, metavar="STUDY")
    export.add_argument("out", type=Path, metavar="OUT", help="file to write (.safetensors)")
    export.set_defaults(run=_export)

    front = commands.add_parser("front", help="what stands before Flower's server: the built-in front, or nginx")
    front.add_argument("study", type=Path, metavar="STUDY")
    front.add_argument("front", choices=["built-in", "nginx"], help="nginx: write its configuration into STUDY")
    front.add_argument(
        "--superlink-port", type=int, default=9442, help="port of 127.0.0.1 that nginx passes on to (default: 9442)"
    )
    front.set_defaults(run=_front)

    start = commands.add_parser(
        "start", help="serve the study until it is finished (Ctrl-C stops; start again goes on)"
    )
    status = commands.add_parser("status", help="what the study is doing")
    stop = commands.add_parser("stop", help="stop a running coordinator")
    for command, run in ((start, _start), (status, _status), (stop, _stop)):
        command.add_argument("study", type=Path, metavar="STUDY")
        command.set_defaults(run=run)

    dashboard = commands.add_parser("dashboard", help="watch a study in the browser of this computer (Ctrl-C ends)")
    dashboard.add_argument("study", type=Path, metavar="STUDY")
    dashboard.add_argument("--port", type=int, default=9444, help="port of the page, on 127.0.0.1 (default: 9444)")
    dashboard.add_argument("--terminal", action="store_true", help="here in the terminal, without a browser")
    dashboard.set_defaults(run=_dashboard)


def _create(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import coordinator
    from segviz_core.federation.settings import StudySettings, heads_of

    values = _read_toml(options.settings) if options.settings else {}
    values.setdefault("name", options.study.resolve().name)
    chosen = {"name": options.name, "mode": options.mode, "rounds": options.rounds, "min_sites": options.min_sites}
    values |= {name: value for name, value in chosen.items() if value is not None}
    if "network" in values:
        values["network"] = heads_of(values.get("mode", StudySettings.mode)) | values["network"]
    settings = StudySettings.from_dict(values)
    coordinator.create(options.study, settings, host=options.host, port=options.port, bind=options.bind)
    console.result(
        {"study": str(options.study), "address": f"{options.host}:{options.port}"},
        f"Study {settings.name!r} in {options.study}. Next: coordinator add-site {options.study} NAME",
    )


def _add_site(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import coordinator

    kit = coordinator.add_site(
        options.study, options.name, allow=options.allow, public_key=options.public_key, kit_file=options.out
    )
    secret = "Who holds this file is the site: send it over a channel that both trust."
    text = f"{kit}\n{'It holds no secret: the key stays at the site.' if options.public_key else secret}"
    console.result({"kit": str(kit), "site": options.name}, text)


def _remove_site(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import coordinator

    done = coordinator.remove_site(options.study, options.name, erase=options.erase)
    what = "Removed; its heads and expert are dropped." if options.erase else "Removed; its heads stay in the model."
    when = "" if done else " The coordinator does it at its next start."
    console.result({"site": options.name, "erased": options.erase, "done": done}, what + when)


def _export(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import coordinator

    state = coordinator.export(options.study, options.out)
    text = f"{options.out}: the model after round {state.finished}, with {', '.join(sorted(state.heads))}."
    console.result({"model": str(options.out), "round": state.finished, "organs": sorted(state.heads)}, text)


def _front(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import coordinator

    path = coordinator.choose_front(options.study, options.front, superlink_port=options.superlink_port)
    text = f"{path}\nPut it in place as its first lines say, then start the coordinator." if path else "Built-in front."
    console.result({"front": options.front, "file": str(path) if path else None}, text)


def _start(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation.serving import serve

    def show(status: dict[str, Any]) -> None:
        if "rounds" in status:
            console.progress("round", int(status["round"]) - (status["state"] != "finished"), int(status["rounds"]))
        elif status.get("message"):
            console.progress(str(status["message"]), 0, 1)

    status = serve(options.study, on_status=show)
    console.result(status, f"Finished after {status['finished_rounds']} rounds: {status.get('meta_model', '')}")


def _status(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import coordinator
    from segviz_core.federation.dashboard import dashboard

    page = dashboard(options.study)
    shared = {name: page[name] for name in ("study", "rounds", "stage_title", "time_left", "sites", "rejections")}
    values = coordinator.status(options.study) | shared
    console.result(values, "\n".join(_status_lines(values)))


def _dashboard(options: argparse.Namespace, console: "Console") -> None:
    if options.terminal:
        from segviz_core.federation.dashboard_terminal import watch

        watch(options.study, poll=console.poll)
        return
    from segviz_core.federation.dashboard_server import serve_dashboard

    def tell(url: str) -> None:
        console.result({"url": url}, f"{url}  (this computer only; Ctrl-C ends)")

    serve_dashboard(options.study, port=options.port, on_ready=tell, poll=console.poll)


def _stop(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.federation import coordinator

    coordinator.stop(options.study)
    console.result({"state": "stopped"}, "Stopped. Start it again to go on after the last finished round.")


def _read_toml(path: Path) -> dict[str, Any]:
    import tomllib

    from segviz_core.errors import InputError

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"The settings file {path} cannot be read: {error}.", hint="Expected a TOML file.") from error


def _status_lines(values: Mapping[str, Any]) -> Iterator[str]:
    """What a person wants to know: state, round, sites with last seen, rejections, days left."""
    yield f"state: {values['state']}"
    if values.get("message"):
        yield f"  {values['message']} {values.get('hint', '')}".rstrip()
    now = [str(values["stage_title"]) if values["running"] else ""]
    now += [f"about {values['time_left']} left"] if values["time_left"] else []
    yield ", ".join(filter(None, [f"rounds finished: {values['finished_rounds']} of {values['rounds']}", *now]))
    for site in values["sites"]:
        yield f"site {site['site']}: {_site_text(site, values['removed'])}"
    for row in values["rejections"][:_SHOWN_REJECTIONS]:
        yield f"rejected in round {row['round']}: {row['site']}: {row['reason']}"
    days, authority = values["certificate_days_left"], values["authority_days_left"]
    yield f"certificate: {days:.0f} days left, its authority {authority:.0f}"


def _site_text(site: Mapping[str, Any], removed: Mapping[str, str]) -> str:
    organs = f", {'+'.join(site['organs'])}, {site['cases']} cases" if site["organs"] else ""
    if site["site"] in removed:
        return f"removed ({removed[site['site']]}){organs}"
    if site["online"]:
        return f"online{', ' if site['doing'] else ''}{site['doing']}{organs}"
    if not site["seen"]:
        return f"not seen yet{organs}"
    return f"offline, last seen {time.strftime('%Y-%m-%d %H:%M', time.localtime(site['seen']))}{organs}"
