"""Training of every row of the table but the segviz modes (segviz_rows.py): what comes out is a predictor and a record.

Sites take turns in one process. Every row sees the same network, augmentation, patches per step and steps per site.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from segviz_core.cases import Site
from segviz_core.devices import torch_device
from segviz_core.experiments import baselines, condist
from segviz_core.experiments.checkpoint import Checkpoint
from segviz_core.experiments.plan import Run
from segviz_core.experiments.predictors import Heads, Predictor, Softmax
from segviz_core.network import NetworkConfig, SegVizNet
from segviz_core.training import TrainingConfig, set_trainable, train

Report = Callable[[int, int], None]
Watch = Callable[[int, Predictor], Mapping[str, Any]]


@dataclass(frozen=True)
class Trained:
    """A trained row: predictors by evaluation (personal, assembled, assembled+recal) and the record of the training.

    `bytes_per_site` is what a site sent and received, on average; `flops` all arithmetic of the training.
    """

    predictors: Mapping[str, Heads | Softmax]
    curve: list[dict[str, Any]]
    bytes_per_site: int = 0
    flops: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)


def train_single(run: Run, sites: Mapping[str, Site], work: Path, report: Report, watch: Watch) -> Trained:
    """One network per site, on L_sup, alone."""
    setup, networks, curve, flops = run.setup, [], [], 0
    for i, (organ, site) in enumerate(sites.items()):
        torch.manual_seed(run.seed)
        network = SegVizNet(NetworkConfig.from_dict(setup.network), [organ]).to(device_of(run))
        optimizer = torch.optim.Adam(set_trainable(network, own=(organ,)), setup.learning_rate, fused=True)
        checkpoint = Checkpoint(work / f"single-{organ}.safetensors")
        checkpoint.restore(network, [optimizer])
        heads = Heads([(network, (organ,))], setup.patch_size, exclusive=False)
        flops += flops_of(lambda: train(copy.deepcopy(network), site.training_cases, training(run, steps=1)))  # noqa: B023
        for first in range(checkpoint.done, setup.steps_per_site, setup.steps_per_round):
            steps = min(setup.steps_per_round, setup.steps_per_site - first)
            config = training(run, organ, "single", first_step=first, steps=steps)
            summary = train(network, site.training_cases, config, optimizer=optimizer)
            checkpoint.done = first + steps
            row = {"step": checkpoint.done, f"loss/{organ}": summary.loss, **watch(checkpoint.done, heads)}
            checkpoint.curve.append(row)
            checkpoint.save(network, [optimizer], now=checkpoint.done == setup.steps_per_site)
            report(i * setup.steps_per_site + checkpoint.done, len(sites) * setup.steps_per_site)
        networks.append((network, (organ,)))
        curve.append(checkpoint.curve)
    merged = [_joined(rows) for rows in zip(*curve, strict=True)]
    return Trained(
        {"personal": Heads(networks, setup.patch_size, exclusive=False)}, merged, flops=flops * setup.steps_per_site
    )


def train_softmax(run: Run, sites: Mapping[str, Site], work: Path, report: Report, watch: Watch) -> Trained:
    """central-*, fedavg-* and condist: one network with a softmax over all organs."""
    setup, organs = run.setup, tuple(sites)
    where, _, loss_name = run.row.partition("-")
    loss = baselines.naive if loss_name == "naive" else baselines.marginal
    torch.manual_seed(run.seed)
    network = baselines.softmax_network(NetworkConfig.from_dict(setup.network), organs).to(device_of(run))
    predictor = Softmax(network, organs, setup.patch_size)
    cases = {organ: site.training_cases for organ, site in sites.items()}
    checkpoint = Checkpoint(work / "softmax.safetensors")
    config = training(run, run.row, steps=setup.steps_per_site)
    if where != "central":
        config = replace(config, learning_rate=setup.shared_learning_rate or setup.learning_rate)

    def on_round(steps: int) -> Mapping[str, Any]:
        report(steps, setup.steps_per_site)
        return watch(steps, predictor)

    options = {**_as_condist(run), "loss": loss, **run.options}
    share = partial(baselines.train_central if where == "central" else baselines.train_fedavg, **options)
    flops = flops_of(lambda: share(copy.deepcopy(network), cases, replace(config, steps=1), steps_per_round=1))
    share(network, cases, config, steps_per_round=setup.steps_per_round, checkpoint=checkpoint, on_round=on_round)
    rounds = 0 if where == "central" else -(-setup.steps_per_site // setup.steps_per_round)
    size = sum(value.nbytes for value in network.state_dict().values())
    return Trained({"assembled": predictor}, checkpoint.curve, 2 * rounds * size, flops * setup.steps_per_site)


def training(run: Run, *words: str, steps: int, first_step: int = 0) -> TrainingConfig:
    """The training of `steps` steps of a row's `steps_per_site`; `words` name the stream of patches."""
    setup = run.setup
    return TrainingConfig(
        steps=steps,
        first_step=first_step,
        total_steps=setup.steps_per_site,
        learning_rate=setup.learning_rate,
        patch_size=setup.patch_size,
        batch_size=setup.batch_size,
        contrast=setup.contrast,
        seed_words=(run.seed, *words),
    )


def flops_of(work: Callable[[], object]) -> int:
    """Floating-point operations of `work`, from the shapes of its layers."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def device_of(run: Run) -> torch.device:
    """Where a run trains."""
    return torch_device(run.setup.device)


def _as_condist(run: Run) -> dict[str, Any]:
    return {"distil": _distil, "server_momentum": condist.SERVER_MOMENTUM} if run.row == "condist" else {}


def _distil(logits: Tensor, teacher: Tensor, mask: Tensor, own: int, *, number: int, rounds: int) -> Tensor:
    return condist.weight(number, rounds) * condist.conditional_distillation(logits, teacher, mask, own)


def _joined(rows: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """The rows of several sites at one step as one; their mean Dice is taken anew."""
    joined = {key: value for row in rows for key, value in row.items()}
    dice = [value for key, value in joined.items() if key.startswith("dice/") and key != "dice/mean"]
    return joined | ({"dice/mean": float(np.mean(dice))} if dice else {})
