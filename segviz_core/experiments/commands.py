"""The commands around experiments: experiment, table. Start-up imports the standard library only."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segviz_core.errors import InputError

if TYPE_CHECKING:
    from segviz_core.console import Console


def add_commands(subparsers: Any) -> None:
    """Add the commands; each sets `run`, a function of (options, console)."""
    experiment = subparsers.add_parser("experiment", help="train and score rows of the table; goes on where it stopped")
    experiment.add_argument("file", type=Path, nargs="?", metavar="RUN.toml", help="an experiment file")
    experiment.add_argument(
        "--all", dest="profile", metavar="PROFILE", help="all files of a profile: small, btcv18, ..."
    )
    experiment.add_argument("--only", metavar="TEXT", default="", help="only runs whose name contains it")
    experiment.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER")
    experiment.add_argument("--folder", type=Path, metavar="FOLDER", help="checkpoints and data; default $SEGVIZ_RUNS")
    experiment.add_argument("--list", action="store_true", help="say which runs are done")
    experiment.set_defaults(run=_experiment)

    table = subparsers.add_parser("table", help="build the table of a profile from the results of its runs")
    table.add_argument("profile", metavar="PROFILE", help="smoke, small, btcv18, medium or full")
    table.add_argument("--results", type=Path, default=Path("results"), metavar="FOLDER")
    table.add_argument("--pictures", action="store_true", help="also best, median and worst case of segviz+ per organ")
    table.add_argument("--folder", type=Path, metavar="FOLDER", help="where the runs' label maps are")
    table.set_defaults(run=_table)


def _experiment(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.experiments.plan import plans_of, read_plan

    if (options.file is None) == (options.profile is None):
        raise InputError("Expected an experiment file or --all PROFILE, found neither or both.")
    files = [options.file] if options.file else plans_of(options.profile)
    runs = [run for file in files for run in read_plan(file) if options.only in run.name]
    runs.sort(key=lambda run: bool(run.extension.joins))  # late joiners need the finished studies of plain runs
    if options.list:
        done = {run.name: (options.results / run.profile / "runs" / f"{run.name}.json").exists() for run in runs}
        text = "\n".join(f"{'done' if finished else 'open'}  {name}" for name, finished in done.items())
        console.result({"runs": done}, text)
        return

    from segviz_core.experiments.experiment import RUNS, run_all

    lines: list[str] = []

    def on_result(line: str) -> None:
        lines.append(line)
        console.progress(line, 1, 1)

    written = run_all(
        runs, options.results, folder=options.folder or RUNS, on_progress=console.progress, on_result=on_result
    )
    console.result({"results": [str(path) for path in written]}, "\n".join(lines) or "Nothing left to run.")


def _table(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.experiments.table import write_table

    if options.pictures:
        _write_pictures(options, console)
    folder = write_table(options.results / options.profile)
    console.result({"folder": str(folder)}, f"The table is in {folder}: table.html, table.md, table.csv, table.json.")


def _write_pictures(options: argparse.Namespace, console: "Console") -> None:
    """Of phantoms beside the table; of real CT into build/, which stays out of git."""
    from segviz_core.experiments.datasets import load_tests
    from segviz_core.experiments.experiment import RUNS
    from segviz_core.experiments.gallery import write_gallery
    from segviz_core.experiments.plan import plans_of, read_plan
    from segviz_core.experiments.results import read_results
    from segviz_core.experiments.table import PICTURES

    runs = {run.name: run for file in plans_of(options.profile) for run in read_plan(file)}
    found = [r for r in read_results(options.results / options.profile) if r["row"] == "segviz+" and not r["variant"]]
    if not found:
        raise InputError("Expected a result of segviz+ to show, found none.", hint="Run the experiments first.")
    result = max(found, key=lambda r: r["nodes"])
    run, folder = runs[result["name"]], (options.folder or RUNS) / options.profile
    phantoms = run.data["kind"] == "phantoms"
    target = (options.results if phantoms else Path("build")) / options.profile / PICTURES
    write_gallery(
        target,
        result,
        "assembled",
        labels=folder / run.name / "labels_assembled.npz",
        tests=load_tests(run, folder / "data", on_progress=console.progress),
    )
