"""`make faults`: play the matrix and write faults.json; good rows that are there already are kept.

    python Testing/faults/run.py build [--long] [--only WORDS] [--again] [--jobs N]

Each area runs in a process of its own, with its own folder and ports; a row is a JSON line on its standard output.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "core")]
from fault import BROKEN, Area, Fault, Seen, as_expected

from segviz_core.federation.child import end_with_parent

AREAS = ("processes", "keys", "replies", "network", "disk")


def main(arguments: Sequence[str]) -> int:
    """Exit status 1 where a row is not as expected or lost a finished round."""
    options = _options(arguments)
    if options.area:
        end_with_parent(lambda: os.kill(os.getpid(), signal.SIGINT))  # its bed is cleared away
        return _play(_area(options.area), set(options.done.split("\n")), options)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "faults.json"
    rows = (
        {_name(row): row for row in json.loads(file.read_text(encoding="utf-8"))}
        if file.exists() and not options.again
        else {}
    )
    areas = {name: [f for f in _area(name).faults if _chosen(f, options)] for name in options.areas.split(",")}
    wanted = [fault for faults in areas.values() for fault in faults]
    lock, waiting = threading.Lock(), [name for name, faults in areas.items() if faults]

    def take(line: str) -> None:
        with lock:
            row = json.loads(line)
            rows[_name(row)] = row
            print(_line(row), flush=True)
            file.with_suffix(".tmp").write_text(json.dumps(list(rows.values()), indent=2) + "\n")
            file.with_suffix(".tmp").replace(file)

    def work() -> None:
        while waiting:
            with lock:
                name = waiting.pop(0) if waiting else ""
            if name:
                _start(name, [name for name, row in rows.items() if _good(row)], options, take)

    began = time.monotonic()
    workers = [threading.Thread(target=work) for _ in range(options.jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return _report([rows[fault.name] for fault in wanted if fault.name in rows], wanted, time.monotonic() - began)


def _play(area: Area, done: set[str], options: argparse.Namespace) -> int:
    """In the area's own process: one fault after the other, on a new bed after each that broke it."""
    with tempfile.TemporaryDirectory(prefix=f"faults-{area.name}-") as place, ExitStack() as stack:
        bed, number = None, 0
        for fault in area.faults:
            if fault.name in done or not _chosen(fault, options):
                continue
            if lacking := fault.needs():
                print(f"left out: {fault.name}: {lacking}", file=sys.stderr)
                continue
            began = time.monotonic()
            try:
                if bed is None:
                    number += 1
                    bed = stack.enter_context(area.bed(Path(place) / f"bed{number}"))
                    began = time.monotonic()
                seen = fault.act(bed)
            except Exception as error:
                traceback.print_exc()
                seen = Seen(BROKEN, f"{type(error).__name__}: {error}"[:300])
            seconds = time.monotonic() - began if seen.seconds is None else seen.seconds
            row = {"fault": fault.fault, "when": fault.when, "expected": fault.expected, "seen": seen.outcome}
            row |= {"seconds": round(seconds, 1), "rounds_lost": seen.rounds_lost, "area": area.name}
            row["why"] = seen.why.replace(f"{place}{os.sep}", "")
            print(json.dumps(row), flush=True)
            if seen.outcome == BROKEN:
                _keep_logs(Path(place), options.out / "broken" / fault.name.replace("/", " "))
                stack.close()
                bed = None
    return 0


def _keep_logs(source: Path, target: Path) -> None:
    """What explains a broken row, before its bed is cleared away."""
    for file in source.rglob("*"):
        if file.suffix in (".log", ".jsonl", ".json") and file.is_file() and "apps" not in file.parts:
            (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / file.relative_to(source))


def _start(name: str, done: list[str], options: argparse.Namespace, take: Any) -> None:
    command = [sys.executable, __file__, str(options.out), "--area", name, "--done", "\n".join(done)]
    command += ["--only", options.only] + (["--long"] if options.long else [])
    with (options.out / f"faults-{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                take(line)
        process.wait()


def _report(rows: list[dict[str, Any]], wanted: list[Fault], seconds: float) -> int:
    print()
    for row in rows:
        print(_line(row))
    bad = [row for row in rows if not _good(row)]
    missing = [fault for fault in wanted if fault.name not in {_name(row) for row in rows}]
    for fault in missing:
        print(f"not played: {fault.name}" + (f" ({why})" if (why := fault.needs()) else ""))
    print(f"{len(rows)} rows, {len(bad)} not as expected, {len(missing)} not played; {seconds / 60:.0f} minutes")
    return 1 if bad or any(not fault.needs() for fault in missing) else 0


def _line(row: dict[str, Any]) -> str:
    mark = "ok " if _good(row) else "BAD"
    return f"{mark} {_name(row):62.62} {row['expected']:15} {row['seen']:15} {row['seconds']:6.1f} s  {row['why']:.60}"


def _good(row: dict[str, Any]) -> bool:
    return as_expected(row["expected"], row["seen"]) and not row["rounds_lost"]


def _name(row: dict[str, Any]) -> str:
    return f"{row['fault']}, {row['when']}" if row["when"] else str(row["fault"])


def _chosen(fault: Fault, options: argparse.Namespace) -> bool:
    return (options.long or not fault.slow) and options.only in fault.name


def _area(name: str) -> Area:
    area: Area = import_module(name).AREA
    return area


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--long", action="store_true", help="also SIGSTOP, long cuts and slow lines")
    parser.add_argument("--areas", default=",".join(AREAS), help="areas, by comma")
    parser.add_argument("--only", default="", help="rows whose name holds these words")
    parser.add_argument("--again", action="store_true", help="forget the rows that are there")
    parser.add_argument("--jobs", type=int, default=2, help="areas at a time")
    parser.add_argument("--area", default="", help=argparse.SUPPRESS)
    parser.add_argument("--done", default="", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
