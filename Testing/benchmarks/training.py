"""`make bench`: CPU seconds of a training step, plain and distilling, heads fused and one by one, bf16 and fp32.

Real steps of segviz_core.training on one phantom: patches drawn and augmented, forward, backward, Adam. The variants
take turns in one process, so that what else the machine does hits all alike; medians go into
build/bench/training.json as {step, patch, precision, runs, cpu_s, ratio}, `ratio` to the plain step beside it.
"""

import json
import logging
import time
from itertools import product
from statistics import median

import torch
from measure import ROOT, machine
from model import CONTRACT, PHANTOMS
from torch import Tensor

from segviz_core import training
from segviz_core.atomic import write_json
from segviz_core.cases import Case
from segviz_core.experiments.phantoms import make_phantom
from segviz_core.labels import ORGANS
from segviz_core.network import Head, NetworkConfig, SegVizNet, fused_margins
from segviz_core.preprocessing import prepare
from segviz_core.training import Distillation, TrainingConfig, set_trainable, train

RESULTS = ROOT / "build" / "bench" / "training.json"
OWN, FOREIGN = "liver", ("spleen", "kidneys", "pancreas")
PATCHES, TURNS = (64, 96), 7


def main() -> None:
    """Measure every variant and write the results."""
    case = _case()
    seconds: dict[tuple[str, int, str], list[float]] = {}
    for patch, precision in product(PATCHES, ("bf16", "fp32")):
        steps = {
            "plain": _Step(case, patch, precision, foreign=()),
            "distilling": _Step(case, patch, precision, foreign=FOREIGN),
            "distilling, heads one by one": _Step(case, patch, precision, foreign=FOREIGN, fused=False),
        }
        for turn in range(TURNS + 1):
            for name, step in steps.items():
                cpu_s = step.take(turn)
                if turn:  # the first one sets up memory
                    seconds.setdefault((name, patch, precision), []).append(cpu_s)
    rows = []
    for (name, patch, precision), runs in seconds.items():
        plain = median(seconds["plain", patch, precision])
        row = {"step": name, "patch": f"{patch}^3", "precision": precision, "runs": len(runs)}
        rows.append(row | {"cpu_s": round(median(runs), 3), "ratio": round(median(runs) / plain, 2)})
        logging.info("%s", json.dumps(rows[-1]))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS, rows)
    write_json(RESULTS.with_name("machine.json"), machine())


class _Step:
    """One network in training, batch 2."""

    def __init__(self, case: Case, patch: int, precision: str, *, foreign: tuple[str, ...], fused: bool = True) -> None:
        torch.manual_seed(0)
        self._case, self._fused = case, fused
        self._patch, self._precision = (patch, patch, patch), precision
        self._network = SegVizNet(NetworkConfig(), [OWN, *foreign])
        self._optimizer = torch.optim.Adam(set_trainable(self._network, own=[OWN]), fused=True)
        self._distillation = Distillation(foreign) if foreign else None

    def take(self, number: int) -> float:
        """CPU seconds of step `number`."""
        config = TrainingConfig(
            steps=1, first_step=number, total_steps=100, patch_size=self._patch, precision=self._precision
        )
        training.fused_margins = fused_margins if self._fused else _one_by_one
        started = time.process_time()
        train(
            self._network,
            [self._case],
            config,
            organs=[OWN],
            optimizer=self._optimizer,
            distillation=self._distillation,
        )
        return time.process_time() - started


def _one_by_one(features: Tensor, heads: list[Head]) -> Tensor:
    return torch.cat([fused_margins(features, [head]) for head in heads], dim=1)


def _case() -> Case:
    ct, labels = make_phantom("liver", 0, profile=PHANTOMS)
    voxels = (prepare(ct, CONTRACT).voxels * 255).astype("uint8")
    targets = {organ: (labels == ORGANS[organ].value).astype("uint8") * 255 for organ in FOREIGN}
    case = Case("phantom", voxels, {OWN: labels == ORGANS[OWN].value})
    case.targets.update(targets)
    return case


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main()
