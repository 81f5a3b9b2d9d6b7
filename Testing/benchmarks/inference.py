"""`make bench`: seconds, memory and Dice of ours beside the stock MONAI pipeline, in one run on one machine.

Every number is of a whole process, imports and files included, and a median of several. Results go into
build/bench/inference.json after every row, and a row that is there already is not measured again: delete the file to
start anew. `--full` adds the sizes and peers that take long.
"""

import argparse
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
import SimpleITK
from measure import ROOT, Cost, machine, medians, run
from model import FOLDER, TEST_CASES, make_model
from scans import WHOLE_BODY_SLICES, abdomen, dice_case
from warm import WarmWorker

from segviz_core.atomic import write_json
from segviz_core.evaluation import dice_per_organ
from segviz_core.labels import ORGANS
from segviz_core.volumes import read_labels

RESULTS = ROOT / "build" / "bench" / "inference.json"
RUNS, MAIN_SLICES = 5, 128
OTHER_SLICES, FULL_SLICES = (64, 512), (64, 512, WHOLE_BODY_SLICES)
MEMORY_LIMIT_GB = {WHOLE_BODY_SLICES: 3.0}

OURS = {
    "ours": [],
    "ours-fp32": ["--precision", "fp32"],
    "ours-bf16": ["--precision", "bf16"],
    "ours-int8": ["--precision", "int8"],
    "ours-fast": ["--fast"],
}

_VALUES = {organ.name: organ.value for organ in ORGANS.values()}
_NO_DICE: dict[str, object] = {"dice_mean": None, "dice": None}

_log = logging.getLogger(__name__)


class Bench:
    """The rows of one run; `scratch` holds the label maps that the pipelines write."""

    def __init__(self, model: Path, scratch: Path, results: Path) -> None:
        self.model, self.scratch, self.results = model, scratch, results
        kept = json.loads(results.read_text(encoding="utf-8")) if results.exists() else []
        self.rows = {(row["pipeline"], row["ct"]): row for row in kept}

    def command(self, pipeline: str, ct: Path, out: Path) -> list[str]:
        """The command line of a pipeline, "stock" or one of OURS."""
        if pipeline == "stock":
            return [
                sys.executable,
                "-W",
                "ignore",
                str(Path(__file__).with_name("stock.py")),
                *map(str, (self.model, ct, out)),
            ]
        options = ["--model", str(self.model), "--device", "cpu", *OURS[pipeline]]
        return [sys.executable, "-m", "segviz_core", "segment", str(ct), str(out), *options]

    def time(self, pipelines: Sequence[str], ct: Path, *, runs: int, more: Sequence[str] = ()) -> None:
        """Take the time of `runs` runs of each pipeline, and compare their labels: the same every time.

        They take turns, so that a machine that becomes slower meanwhile does so for all of them. A name with -warm
        means the second and later clicks of one worker, on the same CT.
        """
        missing = [pipeline for pipeline in pipelines if (pipeline, _name(ct)) not in self.rows]
        costs: dict[str, list[Cost]] = {pipeline: [] for pipeline in missing}
        labels: dict[str, list[np.ndarray]] = {pipeline: [] for pipeline in missing}
        warm: dict[str, WarmWorker] = {}
        with ExitStack() as workers:
            clicks = {pipeline: self._click(pipeline, ct, more, workers, warm) for pipeline in missing}
            for _ in range(runs):
                for pipeline, click in clicks.items():
                    costs[pipeline].append(click())
                    labels[pipeline].append(read_labels(self._out(pipeline)).voxels)
        for pipeline in missing:
            same = all((found == labels[pipeline][0]).all() for found in labels[pipeline])
            values = medians(costs[pipeline]) | _NO_DICE | {"identical_runs": same}
            if pipeline in warm:
                values["stages"] = _median_stages(warm[pipeline].stages[1:])
            if "ours-fp32" in labels:
                found = dice_per_organ(labels[pipeline][0], labels["ours-fp32"][0], _VALUES)
                values |= {"dice_to_fp32": {organ: round(dice, 4) for organ, dice in found.items()}}
            self.row(pipeline, ct, lambda values=values: values)

    def dice(self, pipeline: str) -> None:
        """Mean Dice on the phantoms of the scanner that the model never saw, with the time of a median case."""

        def measured() -> dict[str, object]:
            costs, scores = [], {organ: [] for organ in ORGANS}
            for i in range(TEST_CASES):
                image, truth = dice_case(FOLDER / "scans", i)
                out = self._out(pipeline)
                costs.append(run(self.command(pipeline, image, out)))
                true = read_labels(truth).voxels
                found = dice_per_organ(read_labels(out).voxels, true, _VALUES)
                for organ, dice in found.items():
                    if (true == ORGANS[organ].value).any():
                        scores[organ].append(dice)
            return medians(costs) | _mean_dice(scores)

        self.row(pipeline, Path(f"{TEST_CASES} phantoms"), measured)

    def row(self, pipeline: str, ct: Path, measured: Callable[[], dict[str, object]], *, runs: int = 1) -> None:
        """Measure a row unless it is there with so many `runs`, write it at once, and say it."""
        name = _name(ct)
        if self.rows.get((pipeline, name), {"runs": 0})["runs"] >= runs:
            return
        row = {"pipeline": pipeline, "ct": name} | measured()
        self.rows[pipeline, name] = row
        self.results.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.results, list(self.rows.values()))
        _log.info("%s", json.dumps(row))

    def _click(
        self, pipeline: str, ct: Path, more: Sequence[str], workers: ExitStack, warm: dict[str, WarmWorker]
    ) -> Callable[[], Cost]:
        """One run of a pipeline, from its start to its label map; workers that stay are put into `warm`.

        Slicer hands its worker the voxels uncompressed and takes the labels as NRRD.
        """
        if pipeline.endswith("-warm"):
            uncompressed = self.scratch / f"{_name(ct)}.nrrd"
            if not uncompressed.exists():
                SimpleITK.WriteImage(SimpleITK.ReadImage(ct), uncompressed, useCompression=False)
            ct = uncompressed
        command = [*self.command(pipeline.removesuffix("-warm"), ct, self._out(pipeline)), *more]
        if not pipeline.endswith("-warm"):
            return lambda: run(command)
        (self.scratch / pipeline).mkdir()
        worker = warm[pipeline] = workers.enter_context(WarmWorker(self.scratch / pipeline))
        worker.segment(command[3:])  # the first click loads the model
        return lambda: worker.segment(command[3:])

    def _out(self, pipeline: str) -> Path:
        return self.scratch / f"{pipeline}.{'nrrd' if pipeline.endswith('-warm') else 'nii.gz'}"


def _name(ct: Path) -> str:
    return ct.name.removesuffix(".nii.gz").removeprefix("ct_")


def _median_stages(clicks: Sequence[dict[str, float]]) -> dict[str, float]:
    """Wall seconds per stage: what a second click reads, segments (locate to restore) and writes."""
    return {stage: round(median(click[stage] for click in clicks), 3) for stage in clicks[0]}


def _mean_dice(scores: dict[str, list[float]]) -> dict[str, object]:
    dice = {organ: round(float(np.mean(values)), 4) for organ, values in scores.items()}
    return {"dice_mean": round(float(np.mean(list(dice.values()))), 4), "dice": dice}


def main(*, full: bool, results: Path) -> None:
    """Measure what is missing in `results`."""
    model = make_model(FOLDER)
    quantized = FOLDER / "meta_model_int8.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        if not quantized.exists():
            cases = Path(folder) / "ranges"
            for i in range(4):
                for kind, file in zip(("images", "labels"), dice_case(FOLDER / "scans", i), strict=True):
                    (cases / kind).mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, cases / kind / f"{i}.nii.gz")
            run([sys.executable, "-m", "segviz_core", "export", str(model), str(quantized), "--cases", str(cases)])
        bench = Bench(quantized, Path(folder), results)
        _measure(bench, full=full)
    write_json(results.with_name("machine.json"), machine())


def _measure(bench: Bench, *, full: bool) -> None:
    scans = FOLDER / "scans"
    main_ct = abdomen(scans, MAIN_SLICES)
    bench.time([*OURS, "ours-warm", "ours-fast-warm", "stock"], main_ct, runs=RUNS)
    for pipeline in ("ours", "ours-fp32", "ours-int8", "ours-fast", "stock"):
        bench.dice(pipeline)
    for slices in FULL_SLICES if full else OTHER_SLICES:
        limit = ["--memory-gb", str(MEMORY_LIMIT_GB[slices])] if slices in MEMORY_LIMIT_GB else []
        bench.time(["ours"], abdomen(scans, slices), runs=3, more=limit)
        if full and slices != WHOLE_BODY_SLICES:
            bench.time(["stock"], abdomen(scans, slices), runs=1)
    for peer in ("segresnetds", "nnunet"):
        command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("peers.py")), peer]
        runs = 3 if full else 1
        bench.row(
            f"{peer} (random weights, 4 tiles at 3 mm)",
            main_ct,
            lambda command=command, runs=runs: medians([run(command) for _ in range(runs)]) | _NO_DICE,
            runs=runs,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--full", action="store_true", help="also 1000 slices under 3 GB, stock at more sizes, peers three times"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main(full=options.full, results=options.results)
