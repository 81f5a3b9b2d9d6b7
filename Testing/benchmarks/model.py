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
from dataclasses import dataclass, replace
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
from segviz_core.training import TrainingConfig, set_trainable, train

FOLDER = Path.home() / ".cache" / "segviz-runs" / "bench-model"
CONTRACT = DataContract(spacing_mm=(1.5, 1.5, 1.5))
PHANTOMS = replace(PROFILES["small"], shape=(216, 160, 160), spacing_mm=CONTRACT.spacing_mm)
CASES_PER_SCANNER, TEST_CASES = 4, 16
CHECKPOINT_S = 120.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """Steps on one grid: what is where is learned at 3 mm in a tenth of the time, then its outline at 1.5 mm.

    The last stages add `coarse` views, for `--fast` and the pass that locates the organs.
    """

    spacing_mm: float
    patch_sizes: tuple[tuple[int, int, int], ...]
    steps: int
    coarse: float = 0.0
    learning_rate: float = 1e-3


STAGES = (
    Stage(3.0, ((48, 48, 48), (64, 64, 48), (64, 64, 64)), 300),
    Stage(1.5, ((96, 96, 96), (128, 96, 96), (96, 96, 128), (128, 128, 96), (160, 128, 96)), 240),
    Stage(1.5, ((96, 96, 96), (128, 96, 96), (96, 96, 128)), 120, coarse=0.3),
    Stage(1.5, ((128, 128, 96), (160, 128, 96), (160, 128, 128), (160, 160, 96), (192, 128, 96)), 130, coarse=0.1),
    Stage(1.5, ((160, 160, 128), (192, 160, 128), (208, 160, 160)), 36, coarse=0.1, learning_rate=5e-4),
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
                "steps": {f"stage {n}, {stage.spacing_mm} mm": stage.steps for n, stage in enumerate(STAGES)},
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
    while number < len(STAGES):
        stage = STAGES[number]
        cases = _cases(folder / f"phantoms_{stage.spacing_mm}mm", DataContract(spacing_mm=(stage.spacing_mm,) * 3))
        while done < stage.steps:
            started, cpu = time.monotonic(), time.process_time()
            config = TrainingConfig(
                steps=min(chunk, stage.steps - done),
                first_step=done,
                total_steps=stage.steps,
                learning_rate=stage.learning_rate,
                patch_sizes=stage.patch_sizes,
                batch_size=2,
                coarse=stage.coarse,
                seed_words=("bench-model", number),
            )
            summary = train(network, cases, config, optimizer=optimizer)
            done, seconds = done + config.steps, seconds + time.process_time() - cpu
            chunk = max(1, int(chunk * CHECKPOINT_S / (time.monotonic() - started)))
            save_training(saved, network, optimizer)
            write_json(note, {"stage": number, "done": done, "cpu_s": seconds})
            dice = ", ".join(f"{organ} {value:.2f}" for organ, value in summary.dice.items())
            where = f"{stage.spacing_mm} mm, step {done} of {stage.steps}"
            _log.info("%s, %.0f CPU s: loss %.3f, Dice of patches %s", where, seconds, summary.loss, dice)
        number, done, chunk = number + 1, 0, 5
    return network.eval(), seconds


def _cases(folder: Path, contract: DataContract) -> list[Case]:
    """The training phantoms on the contract's grid, made once and then read through memory maps."""
    folder.mkdir(exist_ok=True)
    cases = []
    for site, index in product((site for site in SCANNERS if site != TEST_SITE), range(CASES_PER_SCANNER)):

        def made(site: str = site, index: int = index) -> dict[str, np.ndarray]:
            _log.info("phantom %s %d at %s mm", site, index, contract.spacing_mm[0])
            ct, labels = make_phantom(site, index, profile=PHANTOMS)
            prepared = prepare(ct, contract)
            voxels = np.rint(prepared.voxels * np.float32(255)).astype(np.uint8)
            return {"voxels": voxels} | {
                organ.name: prepare_mask(labels == organ.value, prepared.grid) for organ in ORGANS.values()
            }

        arrays = kept_arrays(folder / f"{site}_{index}.safetensors", made)
        cases.append(Case(f"{site}_{index}", arrays["voxels"], {organ: arrays[organ] for organ in ORGANS}))
    return cases


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
