"""`make demo`: the main job of SegViz on phantoms, with real Flower processes over TLS on this computer.

Four sites that each annotate one organ join a coordinator, train together, and end up with one meta-model; it then
segments CTs of a fifth hospital that nobody trained on. Everything it makes stands in one folder:

data/                     the phantoms               study/, sites/            the federation, as on five computers
meta_model.safetensors    the result                 organs.nii.gz, ct.nii.gz  an unseen CT and its four organs
summary.json              the numbers                report.html, report.png   what happened, to look at
"""

import platform
import shutil
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from segviz_core.atomic import write_json
from segviz_core.evaluation import evaluate
from segviz_core.experiments.figures import ShownCase
from segviz_core.experiments.loopback import Federation
from segviz_core.experiments.phantoms import TEST_SITE, write_phantoms
from segviz_core.experiments.profiles import PROFILES, Profile
from segviz_core.experiments.report import write_report
from segviz_core.federation.settings import StudySettings
from segviz_core.inference import segment
from segviz_core.labels import ORGANS
from segviz_core.meta_model import MetaModel
from segviz_core.volumes import read_ct, read_labels, write_labels

Progress = Callable[[str, int, int], None]


def run_demo(
    folder: Path, *, profile: Profile = PROFILES["small"], seed: int = 0, on_progress: Progress
) -> dict[str, Any]:
    """Play the whole demo in `folder` and give the summary. An interrupted demo goes on where it stopped.

    Raises:
        SegVizError: a site or the coordinator could not go on.
        Cancelled: `on_progress` raised it; every process that was started has ended.
    """
    summary_file = folder / "summary.json"
    if summary_file.exists():  # a finished demo starts anew, an interrupted one goes on; phantoms are the same anyway
        summary_file.unlink()
        for name in ("study", "sites"):
            shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}

    def timed(name: str, started: float) -> None:
        seconds[name] = round(time.monotonic() - started, 1)

    began = started = time.monotonic()
    write_phantoms(profile, folder / "data", seed=seed, on_progress=on_progress)
    timed("phantoms", started)

    started = time.monotonic()
    federation = Federation(folder, settings_of(profile, seed=seed))
    model_file = federation.run(folder / "data", on_progress=on_progress)
    shutil.copyfile(model_file, folder / "meta_model.safetensors")
    timed("federation", started)

    started = time.monotonic()
    model = MetaModel.load(folder / "meta_model.safetensors")
    scores, example = _score_test_cases(model, folder, on_progress)
    timed("segmentation", started)

    summary = {
        "profile": profile.name,
        "seed": seed,
        "evaluation": "assembled, mean over the unseen test phantoms that show the organ",
        "test_cases": profile.test_cases,
        "dice": _mean_dice(scores),
        "false_positive_ml_where_absent": _false_positives(scores),
        **federation.summary(),
        "seconds": seconds,
        "total_seconds": round(time.monotonic() - began, 1),
        "model_hash": model.hash,
        "versions": {name: version(name) for name in ("segviz", "torch", "monai", "flwr", "numpy")}
        | {"python": platform.python_version()},
        "cases": scores,
    }
    write_report(folder, summary, federation.history(), example)
    write_json(summary_file, summary)
    return summary


def settings_of(profile: Profile, *, seed: int) -> StudySettings:
    """The demo's study: half of the budget alone, half together (method.md section 4)."""
    steps = profile.rounds * profile.steps_per_round
    return StudySettings(
        name=f"demo-{profile.name}",
        seed=seed,
        contract=profile.contract,
        network={**profile.network, "head_stages": 2},
        patch_size=profile.patch_size,
        batch_size=profile.batch_size,
        coarse_share=0.0,  # 240 steps leave none for it
        local_steps=steps // 2,
        local_chunks=min(5, max(1, steps // 24)),
        rounds=max(1, profile.rounds // 2),
        steps_per_round=profile.steps_per_round,
        tune_steps=2 * profile.steps_per_round,
        learning_rate=profile.learning_rate,
        shared_learning_rate=profile.learning_rate,
        min_sites=len(profile.cases),
        wait_seconds=120,
        round_timeout=600,
    )


def _score_test_cases(model: MetaModel, folder: Path, on_progress: Progress) -> tuple[list[dict[str, Any]], ShownCase]:
    """Segment every test phantom; rows per case and organ, and the first case for the report and as files."""
    images = sorted((folder / "data" / TEST_SITE / "images").glob("*.nii.gz"))
    rows: list[dict[str, Any]] = []
    example: ShownCase | None = None
    for i, image in enumerate(images):
        on_progress("segment unseen CTs", i, len(images))
        ct, truth = read_ct(image), read_labels(folder / "data" / TEST_SITE / "labels" / image.name)
        result = segment(model, ct)
        spacing = ct.spacing_mm
        organs = {entry.name: entry.value for entry in model.organs}
        for score in evaluate(
            result.labels,
            truth.voxels,
            case=image.name.removesuffix(".nii.gz"),
            spacing_mm=spacing,
            organs=organs,
            tolerance_mm=max(spacing),
        ):
            rows.append({k: round(v, 4) if isinstance(v, float) else v for k, v in vars(score).items()})
        if example is None and all((truth.voxels == organ.value).any() for organ in ORGANS.values()):
            write_labels(folder / "organs.nii.gz", result.labels, like=ct)
            shutil.copyfile(image, folder / "ct.nii.gz")
            example = ShownCase(score.case, ct, result.labels, truth.voxels.astype(np.uint8))
    on_progress("segment unseen CTs", len(images), len(images))
    assert example is not None  # most test phantoms show all organs
    return rows, example


def _mean_dice(rows: list[dict[str, Any]]) -> dict[str, float]:
    organs = list(dict.fromkeys(row["organ"] for row in rows))
    dice = {
        organ: float(np.mean([row["dice"] for row in rows if row["organ"] == organ and row["truth_ml"] > 0]))
        for organ in organs
    }
    return {organ: round(value, 4) for organ, value in (dice | {"mean": float(np.mean(list(dice.values())))}).items()}


def _false_positives(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    absent = [row for row in rows if row["truth_ml"] == 0]
    return {o: [r["false_positive_ml"] for r in absent if r["organ"] == o] for o in {r["organ"] for r in absent}}
