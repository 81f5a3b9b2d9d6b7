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
from dataclasses import replace
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
from segviz_core.preprocessing import prepare
from segviz_core.training import TrainingConfig, set_trainable, train

FOLDER = Path.home() / ".cache" / "segviz-runs" / "bench-model"
CONTRACT = DataContract(spacing_mm=(1.5, 1.5, 1.5))
PHANTOMS = replace(PROFILES["small"], shape=(216, 160, 160), spacing_mm=CONTRACT.spacing_mm)
CASES_PER_SCANNER, TEST_CASES = 4, 16
PATCH_SIZES = ((96, 96, 96), (128, 96, 96), (96, 96, 128), (128, 128, 96), (160, 128, 96), (160, 160, 128))
STEPS = 600
CHECKPOINT_S = 120.0

_log = logging.getLogger(__name__)


def make_model(folder: Path, *, steps: int = STEPS) -> Path:
    """Train the model in `folder`, or go on, and give its file; a finished one is kept."""
    file = folder / "meta_model.safetensors"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        network, seconds = _trained(folder, steps)
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
                "steps": steps,
                "versions": {"segviz": __version__},
            },
        )
        model.save(file)
        _log.info("trained in %.0f CPU seconds", seconds)
        write_json(folder / "model.json", {"steps": steps, "cpu_s": round(seconds), "model_hash": model.hash})
    if "dice" not in (result := json.loads((folder / "model.json").read_text(encoding="utf-8"))):
        write_json(folder / "model.json", result | {"dice": _dice(MetaModel.load(file))})
    return file


def _trained(folder: Path, steps: int) -> tuple[SegVizNet, float]:
    """The network after `steps` steps and the CPU seconds they took; a checkpoint every CHECKPOINT_S."""
    cases = [
        _case(folder / "phantoms", site, i) for i in range(CASES_PER_SCANNER) for site in SCANNERS if site != TEST_SITE
    ]
    torch.manual_seed(0)
    network = SegVizNet(NetworkConfig(), list(ORGANS))
    optimizer = torch.optim.Adam(set_trainable(network, own=network.organs), fused=True)
    saved, note = folder / "checkpoint.safetensors", folder / "checkpoint.json"
    done, seconds = 0, 0.0
    if note.exists():
        done, seconds = json.loads(note.read_text(encoding="utf-8")).values()
        load_training(saved, network, optimizer)
    chunk = 5
    while done < steps:
        started, cpu = time.monotonic(), time.process_time()
        config = TrainingConfig(
            steps=min(chunk, steps - done),
            first_step=done,
            total_steps=steps,
            learning_rate=1e-3,
            patch_sizes=PATCH_SIZES,
            batch_size=2,
            seed_words=("bench-model",),
        )
        summary = train(network, cases, config, optimizer=optimizer)
        done, seconds = done + config.steps, seconds + time.process_time() - cpu
        chunk = max(1, int(chunk * CHECKPOINT_S / (time.monotonic() - started)))
        save_training(saved, network, optimizer)
        write_json(note, {"done": done, "cpu_s": seconds})
        dice = ", ".join(f"{organ} {value:.2f}" for organ, value in summary.dice.items())
        _log.info("step %d of %d, %.0f CPU s: loss %.3f, Dice of patches %s", done, steps, seconds, summary.loss, dice)
    return network.eval(), seconds


def _case(folder: Path, site: str, index: int) -> Case:
    """One training phantom, prepared once and then read through a memory map."""
    folder.mkdir(exist_ok=True)

    def made() -> dict[str, np.ndarray]:
        _log.info("phantom %s %d", site, index)
        ct, labels = make_phantom(site, index, profile=PHANTOMS)
        voxels = np.rint(prepare(ct, CONTRACT).voxels * np.float32(255)).astype(np.uint8)
        return {"voxels": voxels} | {o.name: labels == o.value for o in ORGANS.values()}

    arrays = kept_arrays(folder / f"{site}_{index}.safetensors", made)
    return Case(f"{site}_{index}", arrays.pop("voxels"), arrays)


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
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    _log.info("%s", make_model(options.folder, steps=options.steps))
