"""`make bench-model`: the 1.5 mm model of four organs that the benchmarks segment with, trained on phantoms.

Central training: phantoms of all four scanners in one place, all organs labelled, one head per organ on L_sup - no
federation, so the time of segmenting is measured on sensible labels and not the quality of a study. Everything stays in
one folder (default ~/.cache/segviz-runs/bench-model): phantoms, the last checkpoint, meta_model.safetensors and
model.json with the Dice of phantoms that it never saw. An interrupted run goes on where it stopped.
"""

import argparse
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np
import torch

from segviz_core import __version__
from segviz_core.atomic import write_json
from segviz_core.cases import Case
from segviz_core.contract import DataContract
from segviz_core.evaluation import dice_per_organ
from segviz_core.experiments.phantoms import TEST_SITE, make_phantom
from segviz_core.experiments.profiles import PROFILES
from segviz_core.experiments.scanners import SCANNERS
from segviz_core.federation.weights import load_training, save_training, to_arrays
from segviz_core.inference import segment
from segviz_core.labels import ORGANS
from segviz_core.mapped_arrays import kept_arrays
from segviz_core.meta_model import MetaModel, OrganEntry
from segviz_core.network import NetworkConfig, SegVizNet
from segviz_core.preprocessing import prepare, prepare_mask
from segviz_core.training import TrainingConfig, set_trainable, step_generator, train
from segviz_core.volumes import Volume

FOLDER = Path.home() / ".cache" / "segviz-runs" / "bench-model"
CONTRACT = DataContract(spacing_mm=(1.5, 1.5, 1.5))
PHANTOMS = replace(PROFILES["small"], shape=(216, 160, 160), spacing_mm=CONTRACT.spacing_mm)
CASES_PER_SCANNER, TEST_CASES = 4, 16
CHECKPOINT_S = 120.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """A grid, the sizes of the patches on it, and the share of a stage's steps that are made on it."""

    spacing_mm: float
    patch_sizes: tuple[tuple[int, int, int], ...]
    share: float = 1.0


@dataclass(frozen=True)
class Stage:
    """`steps` in all views, each step in one of them.

    What is where is learned on coarse grids in a tenth of the time, then its outline at 1.5 mm. `--fast` sees a CT at
    3 mm, and the pass that locates the organs at 4.5 mm: all stages go on with these views. From `fixed_norm` on all of
    them are normalised by the same statistics, as in use.
    """

    views: tuple[View, ...]
    steps: int
    learning_rate: float = 1e-3
    fixed_norm: bool = False


FAST = View(3.0, ((64, 64, 48), (96, 80, 80)), 0.25)
LOCATE = View(4.5, ((48, 48, 48), (64, 48, 48), (64, 64, 64)), 0.25)

STAGES = (
    Stage((View(3.0, ((48, 48, 48), (64, 64, 48), (64, 64, 64)), 0.75), LOCATE), 300),
    Stage((View(1.5, ((96, 96, 96), (128, 96, 96), (96, 96, 128), (128, 128, 96)), 0.5), FAST, LOCATE), 560),
    Stage((View(1.5, ((128, 128, 96), (160, 128, 96), (160, 128, 128)), 0.5), FAST, LOCATE), 260, fixed_norm=True),
    Stage(
        (View(1.5, ((160, 160, 128), (192, 160, 128), (208, 160, 160)), 0.6), FAST, LOCATE),
        70,
        learning_rate=5e-4,
        fixed_norm=True,
    ),
)


def make_model(folder: Path) -> Path:
    """Train the model in `folder`, or go on, and give its file; a finished one is kept."""
    file = folder / "meta_model.safetensors"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        network, seconds = _trained(folder)
        model = MetaModel(
            contract=CONTRACT,
            network=NetworkConfig().to_dict(),
            patch_size=(128, 128, 96),
            organs=tuple(OrganEntry.of(organ) for organ in ORGANS.values()),
            weights=to_arrays(network),
            provenance={
                "study": "bench-model",
                "mode": "central, all organs labelled, one head per organ",
                "sites": [],
                "steps": {f"stage {n}": stage.steps for n, stage in enumerate(STAGES)},
                "versions": {"segviz": __version__},
            },
        )
        write_json(folder / "model.json", {"training_cpu_s": round(seconds), "model_hash": model.hash})
        model.save(file)
    result = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    if "dice" not in result:
        write_json(folder / "model.json", result | {"dice": _dice(MetaModel.load(file))})
    return file


def _trained(folder: Path) -> tuple[SegVizNet, float]:
    """The network after all stages and the CPU seconds they took; a checkpoint every CHECKPOINT_S."""
    torch.manual_seed(0)
    network = SegVizNet(NetworkConfig(), list(ORGANS))
    optimizer = torch.optim.Adam(set_trainable(network, own=network.organs), fused=True)
    saved, note = folder / "checkpoint.safetensors", folder / "checkpoint.json"
    number, done, seconds, chunk = 0, 0, 0.0, 5
    if note.exists():
        number, done, seconds = json.loads(note.read_text(encoding="utf-8")).values()
        load_training(saved, network, optimizer)
    cases = _cases(folder, sorted({view.spacing_mm for stage in STAGES for view in stage.views}))
    while number < len(STAGES):
        stage = STAGES[number]
        shares = np.cumsum([view.share for view in stage.views])
        while done < stage.steps:
            started, cpu = time.monotonic(), time.process_time()
            for step in range(done, min(done + chunk, stage.steps)):
                drawn = step_generator("bench-model", number, step, "view").uniform(0, shares[-1])
                view = stage.views[int(np.searchsorted(shares, drawn, side="right"))]
                config = TrainingConfig(
                    steps=1,
                    first_step=step,
                    total_steps=stage.steps,
                    learning_rate=stage.learning_rate,
                    patch_sizes=view.patch_sizes,
                    batch_size=2,
                    fixed_norm=stage.fixed_norm,
                    seed_words=("bench-model", number),
                )
                summary = train(network, cases[view.spacing_mm], config, optimizer=optimizer)
                done += 1
            seconds += time.process_time() - cpu
            chunk = max(1, int(chunk * CHECKPOINT_S / (time.monotonic() - started)))
            save_training(saved, network, optimizer)
            write_json(note, {"stage": number, "done": done, "cpu_s": seconds})
            _log.info(
                "stage %d, step %d of %d, %.0f CPU s: loss %.3f", number, done, stage.steps, seconds, summary.loss
            )
        number, done, chunk = number + 1, 0, 5
    return network.eval(), seconds


def _cases(folder: Path, spacings_mm: Sequence[float]) -> dict[float, list[Case]]:
    """The training phantoms on every grid, made once and then read through memory maps."""
    phantom = lru_cache(maxsize=1)(_phantom)
    cases: dict[float, list[Case]] = {spacing: [] for spacing in spacings_mm}
    sites = [site for site in SCANNERS if site != TEST_SITE]
    for site, index, spacing in product(sites, range(CASES_PER_SCANNER), spacings_mm):

        def made(site: str = site, index: int = index, spacing: float = spacing) -> dict[str, np.ndarray]:
            ct, labels = phantom(site, index)
            prepared = prepare(ct, DataContract(spacing_mm=(spacing,) * 3))
            voxels = np.rint(prepared.voxels * np.float32(255)).astype(np.uint8)
            return {"voxels": voxels} | {
                organ.name: prepare_mask(labels == organ.value, prepared.grid) for organ in ORGANS.values()
            }

        of_grid = folder / f"phantoms_{spacing}mm"
        of_grid.mkdir(exist_ok=True)
        arrays = kept_arrays(of_grid / f"{site}_{index}.safetensors", made)
        cases[spacing].append(Case(f"{site}_{index}", arrays["voxels"], {organ: arrays[organ] for organ in ORGANS}))
    return cases


def _phantom(site: str, index: int) -> tuple[Volume, np.ndarray]:
    _log.info("phantom %s %d", site, index)
    return make_phantom(site, index, profile=PHANTOMS)


def _dice(model: MetaModel) -> dict[str, float]:
    """Mean Dice on phantoms of the unseen scanner that show the organ."""
    scores: dict[str, list[float]] = {organ: [] for organ in ORGANS}
    for i in range(TEST_CASES):
        ct, truth = make_phantom(TEST_SITE, i, profile=PHANTOMS)
        found = dice_per_organ(segment(model, ct).labels, truth, {o.name: o.value for o in ORGANS.values()})
        for organ, dice in found.items():
            if (truth == ORGANS[organ].value).any():
                scores[organ].append(dice)
        _log.info("phantom %d: %s", i, ", ".join(f"{organ} {dice:.3f}" for organ, dice in found.items()))
    dice = {organ: round(float(np.mean(values)), 4) for organ, values in scores.items()}
    return {"mean": round(float(np.mean(list(dice.values()))), 4)} | dice


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    _log.info("%s", make_model(options.folder))
