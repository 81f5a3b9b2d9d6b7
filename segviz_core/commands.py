"""The commands around training data: phantoms, demo, check.

Start-up imports the standard library only; a command imports what it needs when it runs.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segviz_core.arguments import label_values, names
from segviz_core.console import aligned
from segviz_core.errors import InputError

if TYPE_CHECKING:
    from segviz_core.console import Console

Subparsers = Any  # argparse._SubParsersAction[ArgumentParser]: private in the standard library


def add_commands(subparsers: Subparsers) -> None:
    """Add the commands; each sets `run`, a function of (options, console)."""
    phantoms = subparsers.add_parser("phantoms", help="write the synthetic CTs of four sites and a test site")
    phantoms.add_argument("profile", metavar="PROFILE", help="smoke, small or medium")
    phantoms.add_argument("folder", type=Path, metavar="FOLDER", help="where to write SITE/images and SITE/labels")
    phantoms.add_argument("--seed", type=int, default=0)
    phantoms.set_defaults(run=_phantoms)

    demo = subparsers.add_parser("demo", help="train on phantoms in a real federation on this computer, and report")
    demo.add_argument("folder", type=Path, metavar="FOLDER", help="where model, summary and report go")
    demo.add_argument("--profile", default="small", metavar="PROFILE", help="smoke, small (default) or medium")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=_demo)

    check = subparsers.add_parser("check", help="say which cases of a site's folder are fit for training")
    check.add_argument("folder", type=Path, metavar="FOLDER", help="site folder, data list, MSD, KiTS19 or BTCV")
    check.add_argument("--label-set", type=names, default=(), metavar="ORGANS", help="organs annotated here, by comma")
    check.add_argument(
        "--label-values",
        type=label_values,
        nargs="+",
        default=[],
        metavar="ORGAN=VALUES",
        help="voxel values of an organ in your label files, as in kidneys=2,3",
    )
    check.set_defaults(run=_check)


def _phantoms(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.experiments.phantoms import write_phantoms

    folder = write_phantoms(_profile(options.profile), options.folder, seed=options.seed, on_progress=console.progress)
    console.result({"folder": str(folder)}, f"Phantoms of profile {options.profile} are in {folder}.")


def _demo(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.experiments.demo import run_demo

    summary = run_demo(
        options.folder, profile=_profile(options.profile), seed=options.seed, on_progress=console.progress
    )
    rows = [("organ", "Dice"), *((organ, f"{dice:.3f}") for organ, dice in summary["dice"].items())]
    console.result(summary, f"{aligned(rows)}\n\nReport: {options.folder / 'report.html'}")


def _profile(name: str) -> Any:
    from segviz_core.experiments.profiles import PROFILES

    if name not in PROFILES:
        raise InputError(f"Expected a profile of {', '.join(PROFILES)}, found {name}.")
    return PROFILES[name]


def _check(options: argparse.Namespace, console: "Console") -> None:
    from segviz_core.cases import check_cases
    from segviz_core.layouts import find_cases

    label_set = find_cases(options.folder).label_set(options.label_set, stated=dict(options.label_values))
    rows = check_cases(options.folder, label_set, on_progress=console.progress)
    bad = sum(not row.ok for row in rows)
    cases = [
        {"name": row.name, "image": str(row.image), "label": str(row.label or ""), "ok": row.ok, "why": row.why}
        for row in rows
    ]
    table = [("case", "image", "label", "ok")]
    table += [(row.name, row.image.name, row.label.name if row.label else "-", row.why or "ok") for row in rows]
    console.result({"cases": cases, "bad": bad}, aligned(table))
    if bad:
        raise InputError(
            f"{bad} of {len(rows)} cases cannot be used for training.",
            hint="Correct what the table says, or move them.",
        )
