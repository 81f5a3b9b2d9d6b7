"""The command line: `python -m segviz_core COMMAND`.

Exit codes: 0 done, 2 usage, 3 bad input, 4 cancelled, 1 anything else. Start-up imports the standard library only;
each command imports what it needs when it runs.
"""

import argparse
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from segviz_core import __version__, commands, model_commands, worker
from segviz_core.console import Console
from segviz_core.errors import Cancelled, SegVizError
from segviz_core.federation import commands as federation_commands

_COMMON_HELP = (
    "Every command also takes --json (one JSON object per line), --debug (show tracebacks), "
    "--cancel-file FILE (stop once FILE exists) and --heartbeat FILE (stop once FILE is no longer touched)."
)

_EXTRAS = {"torch": "train", "monai": "train", "flwr": "federation", "matplotlib": "demo", "nncf": "export"}
"""The extra of pyproject.toml that brings a package; the others come with `segment`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code; a person never sees a traceback unless --debug asks for it."""
    common, rest = _common_options().parse_known_args(arguments)
    options = _parser().parse_args(rest, namespace=common)
    _prepare_process(options)
    console = Console(json_lines=options.json, cancel_file=options.cancel_file, heartbeat=options.heartbeat)
    try:
        with console:
            console.started(os.getpid())
            options.run(options, console)
    except (KeyboardInterrupt, Exception) as error:
        if options.debug:
            traceback.print_exc()
        reason = _explained(error)
        console.error(reason)
        return reason.exit_code
    return 0


def _common_options() -> argparse.ArgumentParser:
    """Options that may stand anywhere on the line, so that groups of commands need not repeat them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--debug", action="store_true")
    parser.add_argument("--cancel-file", type=Path)
    parser.add_argument("--heartbeat", type=Path)
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m segviz_core",
        description="Train one multi-organ CT model at sites that each annotate one organ, and segment with it.",
        epilog=_COMMON_HELP,
    )
    parser.add_argument("--version", action="version", version=f"SegViz {__version__}")
    subparsers = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    commands.add_commands(subparsers)
    model_commands.add_commands(subparsers)
    federation_commands.add_commands(subparsers)
    if find_spec("segviz_core.experiments"):  # Slicer's extension comes without them
        from segviz_core.experiments import commands as experiment_commands

        experiment_commands.add_commands(subparsers)
    worker.add_commands(subparsers, main)
    return parser


def _prepare_process(options: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    if not options.debug and not sys.warnoptions:
        warnings.simplefilter("ignore")  # third-party deprecation notices say nothing to a user
    # Waiting OpenMP threads spin by default: beside other busy programs a CT of 5 s then took 49 s, so 12 to 18 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A shell starts programs in the background deaf to Ctrl-C; a cancel file must stop those too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end like Ctrl-C, so that half-written files are removed
    if options.json and hasattr(os, "setsid"):
        with suppress(PermissionError):  # already the leader of its group, as under a shell
            os.setsid()  # the parent stops the whole tree with killpg on the pid of `started`


def _explained(error: BaseException) -> SegVizError:
    if isinstance(error, SegVizError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Cancelled()
    if isinstance(error, MemoryError):
        return SegVizError("There is not enough memory.", hint="Close other programs, or segment with --fast.")
    if isinstance(error, ModuleNotFoundError):
        extra = _EXTRAS.get((error.name or "").partition(".")[0], "segment")
        return SegVizError(
            f"This command needs the package {error.name}, which is not installed.",
            hint=f"Install SegViz with its extra {extra!r}: pip install 'segviz[{extra}]'.",
        )
    what = str(error).strip().splitlines()[0] if str(error).strip() else "no further message"
    return SegVizError(
        f"Unexpected {type(error).__name__}: {what.removesuffix('.')}.",
        hint="Run the command again with --debug to see where it happened.",
    )


if __name__ == "__main__":
    sys.exit(main())
