"""Runs of an experiment file, one after the other: train, score, write results/PROFILE/runs/NAME.json.

A run can be killed at any moment and goes on where its last checkpoint was; a finished one is left alone. Two
processes may work on the same runs: each takes those that nobody else holds.
"""

import fcntl
import json
import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segviz_core import batches
from segviz_core.atomic import replacing, write_json
from segviz_core.devices import has_card
from segviz_core.errors import InputError
from segviz_core.experiments.datasets import Data, load_data
from segviz_core.experiments.late_joiner import train_late_joiner
from segviz_core.experiments.plan import FREE, Run
from segviz_core.experiments.predictors import Predictor
from segviz_core.experiments.results import summary, write_result
from segviz_core.experiments.rows import Trained, device_of, train_single, train_softmax
from segviz_core.experiments.scoring import COLUMNS, label_map, score, test_dice
from segviz_core.experiments.segviz_rows import train_segviz
from segviz_core.precision import computes_bf16

Progress = Callable[[str, int, int], None]

RUNS = Path(os.environ.get("SEGVIZ_RUNS", "~/.cache/segviz-runs")).expanduser()
"""Where data, checkpoints and label maps of runs lie; only results go into the project."""


def run_all(
    runs: Sequence[Run], results: Path, *, folder: Path = RUNS, on_progress: Progress, on_result: Callable[[str], None]
) -> list[Path]:
    """Do every run whose result is missing in `results`; `on_result` gets one line per finished run, and per run
    that is left out because it needs a graphics card or cannot be made.

    Raises:
        Cancelled: `on_progress` raised it; a new call goes on.
        InputError: when all others are done, for those that could not be made: their checkpoints are those of other
            settings, or their data cannot be used.
    """
    written, failed = [], []
    for run in runs:
        path = results / run.profile / "runs" / f"{run.name}.json"
        work = folder / run.profile / run.name
        work.mkdir(parents=True, exist_ok=True)
        with _claimed(work / "lock") as mine:
            if not mine or path.exists():
                continue
            if run.setup.device == "cuda" and not has_card():
                on_result(f"{run.name}: left out, it needs an NVIDIA graphics card")
                continue
            try:
                result = run_one(run, work, folder / run.profile / "data", on_progress=on_progress)
            except InputError as error:
                on_result(f"{run.name}: not made. {error.message}")
                failed.append(error)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            write_result(path, result)
            on_result(summary(result))
            written.append(path)
    if failed:
        raise InputError(" ".join(error.message for error in failed), hint=failed[0].hint)
    return written


def run_one(run: Run, work: Path, data_folder: Path, *, on_progress: Progress) -> dict[str, Any]:
    """Train and score one run; its checkpoints are in `work`, phantoms in `data_folder`.

    Raises:
        InputError: the checkpoints are those of other settings.
    """
    settings = _check_settings(run, work / "settings.json")
    torch.set_num_threads(run.setup.threads)
    clock = _Clock(work / "seconds.json")
    data = load_data(run, data_folder, on_progress=on_progress)
    clock.lap("load")

    def report(done: int, total: int) -> None:
        if not (work / "settings.json").exists():
            write_json(work / "settings.json", settings)
        clock.lap("training", done)
        on_progress(f"{run.name} \N{MIDDLE DOT} {clock.left(done, total)} left", done, total)

    def watch(steps: int, predictor: Predictor) -> Mapping[str, Any]:
        every = max(1, run.setup.steps_per_site // max(1, run.setup.watch))
        if not run.setup.watch or steps % every >= run.setup.steps_per_round or steps < every:
            return {}
        clock.lap("training", steps)
        dice = {f"dice/{organ}": value for organ, value in test_dice(predictor, data.tests).items()}
        clock.lap("evaluation")
        return dice

    trained = _train(run)(run, data.sites, work, report, watch)
    clock.lap("training", run.setup.steps_per_site)
    predictors = {name: replace(p, test_norm=run.setup.test_norm) for name, p in trained.predictors.items()}
    scores = _score(run, predictors, data, work, on_progress)
    clock.lap("evaluation")
    return _result(run, trained, data, scores, clock)


def _check_settings(run: Run, path: Path) -> dict[str, Any]:
    """What is noted in `path` once training has begun; other settings than those noted there are refused."""
    values = {
        **run.setup.to_dict(),
        "data": run.data["kind"],
        "options": run.options,
        "extension": run.extension.to_dict(),
    }
    ours: dict[str, Any] = json.loads(json.dumps({name: value for name, value in values.items() if name not in FREE}))
    begun = json.loads(path.read_text(encoding="utf-8")) if path.exists() else ours
    for name in sorted(set(ours) | set(begun)):
        if ours.get(name) != begun.get(name):
            raise InputError(
                f"{run.name} was begun with {name} {begun.get(name)}, expected {ours.get(name)}.",
                hint=f"Make it a variant, or delete {path.parent} and begin anew.",
            )
    return ours


def _train(run: Run) -> Callable[..., Trained]:
    if run.row == "single":
        return train_single
    if run.extension.joins:
        return train_late_joiner
    return train_segviz if run.row.startswith("segviz") else train_softmax


def _score(
    run: Run, predictors: Mapping[str, Predictor], data: Data, work: Path, on_progress: Progress
) -> dict[str, list[list[Any]]]:
    scores: dict[str, list[list[Any]]] = {}
    for evaluation, predictor in predictors.items():
        rows, labels = [], {}
        for done, test in enumerate(data.tests, start=1):
            found = score(predictor, test, tolerance_mm=run.setup.tolerance_mm)
            rows += [[row[column] for column in COLUMNS] for row in found.rows]
            labels[test.name] = label_map(found.masks)
            on_progress(f"{run.name}: score {evaluation}", done, len(data.tests))
        scores[evaluation] = rows
        with replacing(work / f"labels_{evaluation}.npz") as temporary:
            np.savez_compressed(temporary, **labels)  # type: ignore[arg-type]
    return scores


def _result(run: Run, trained: Trained, data: Data, scores: Mapping[str, Any], clock: "_Clock") -> dict[str, Any]:
    device = device_of(run)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{run.setup.threads} CPU thread(s)"
    return {
        "name": run.name,
        "profile": run.profile,
        "row": run.row,
        "nodes": run.nodes,
        "repeat": run.repeat,
        "variant": run.variant,
        "extension": run.extension.to_dict(),
        "setup": run.setup.to_dict(),
        "data": {"kind": run.data["kind"]},
        "cases": {
            organ: {"training": len(site.training_cases), "validation": len(site.validation_cases)}
            for organ, site in data.sites.items()
        },
        "tests": [test.name for test in data.tests],
        **trained.notes,
        "bytes_per_site": trained.bytes_per_site,
        "flops": trained.flops,
        "seconds": clock.seconds,
        "augmentation": {
            "rotation_deg": batches.ROTATION_DEG,
            "zoom": batches.ZOOM,
            "intensity_scale": batches.INTENSITY_SCALE,
            "intensity_shift": batches.INTENSITY_SHIFT,
            "contrast": run.setup.contrast,
        },
        "machine": {"device": name, "precision": "bf16" if computes_bf16(device) else "fp32"},
        "versions": {package: version(package) for package in ("segviz", "torch", "monai", "numpy")}
        | {"python": platform.python_version(), "commit": _commit()},
        "curve": trained.curve,
        "columns": list(COLUMNS),
        "scores": dict(scores),
    }


@contextmanager
def _claimed(path: Path) -> Iterator[bool]:
    """Whether this process alone holds the run; a killed process lets go by itself."""
    with path.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


class _Clock:
    """Wall and CPU seconds of a run over all its starts, and how long it will still take."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self._wall, self._cpu = time.monotonic(), _cpu_seconds()
        self._first: tuple[float, int] | None = None

    def lap(self, stage: str, done: int | None = None) -> None:
        """Book what has passed since the last lap."""
        wall, cpu = time.monotonic(), _cpu_seconds()
        for name, passed in ((stage, wall - self._wall), (f"{stage}_cpu", cpu - self._cpu)):
            self.seconds[name] = round(self.seconds.get(name, 0.0) + passed, 3)
        self._wall, self._cpu = wall, cpu
        if done is not None and self._first is None:
            self._first = (wall, done)
        write_json(self._path, self.seconds)

    def left(self, done: int, total: int) -> str:
        """`12 min`, from the speed since this start."""
        if self._first is None or done <= self._first[1]:
            return "unknown time"
        seconds = (time.monotonic() - self._first[0]) / (done - self._first[1]) * (total - done)
        return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"
