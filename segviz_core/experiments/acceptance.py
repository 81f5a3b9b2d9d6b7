"""Are the phantoms as hard as they should be? The generator's own criterion (method.md section 8, "Accept").

python -m segviz_core.experiments.acceptance FOLDER results/phantoms/acceptance.json
"""

import argparse
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segviz_core.atomic import write_json
from segviz_core.cases import Case, open_site
from segviz_core.evaluation import dice_per_organ
from segviz_core.experiments import baselines
from segviz_core.experiments.phantoms import TEST_SITE, write_phantoms
from segviz_core.experiments.profiles import PROFILES, Profile
from segviz_core.labels import LABEL_SETS, ORGANS, LabelSet
from segviz_core.network import NetworkConfig, SegVizNet
from segviz_core.torch_inference import margins
from segviz_core.training import TrainingConfig, train

_log = logging.getLogger(__name__)

SINGLE_DICE: Mapping[str, tuple[float, float]] = {
    "liver": (0.88, 0.94),
    "spleen": (0.65, 0.85),
    "pancreas": (0.45, 0.65),
    "kidneys": (0.70, 0.85),
}
"""Mean Dice on the test phantoms that a network trained at one site alone has to reach in `small`'s 240 steps."""

TOO_EASY = 0.97
GAP = 0.1
"""By how much central marginal has to beat FedAvg naive in mean Dice: partial labels have to hurt."""

Dice = Mapping[str, float]


def objections(single: Dice, central_marginal: Dice, fedavg_naive: Dice) -> list[str]:
    """Why phantoms with these mean Dice per organ cannot be accepted, one sentence each; none: accepted."""
    found = []
    for organ, dice in single.items():
        low, high = SINGLE_DICE[organ]
        if not low <= dice <= high:
            found.append(f"single {organ}: expected Dice from {low} to {high}, found {dice:.3f}.")
        if dice > TOO_EASY:
            found.append(f"single {organ}: expected Dice of at most {TOO_EASY}, found {dice:.3f}: too easy.")
    gap = _mean(central_marginal) - _mean(fedavg_naive)
    if gap <= GAP:
        found.append(f"expected central marginal to beat fedavg naive by more than {GAP}, found {gap:.3f}.")
    return found


def accept(folder: Path, profile: Profile, *, seed: int = 0) -> dict[str, Any]:
    """Train four singles, central marginal and FedAvg naive on `profile`'s phantoms (made in `folder`) and judge.

    A single trains the steps of one site, central as many per site, on all cases (validation included: nothing is
    selected by it). Dice is the mean over the test cases that show the organ.
    """
    started = time.monotonic()
    torch.manual_seed(seed)
    write_phantoms(profile, folder, seed=seed)
    sites = {organ: _cases(folder / organ, LABEL_SETS[organ], profile) for organ in profile.cases}
    test = _cases(folder / TEST_SITE, LabelSet({organ: (ORGANS[organ].value,) for organ in sites}), profile)
    config, organs = NetworkConfig.from_dict(profile.network), tuple(sites)

    single: dict[str, float] = {}
    for organ in organs:
        network = SegVizNet(config, [organ])
        train(network, sites[organ], _training(profile, seed, "single", organ))
        single |= _dice(test, (organ,), partial(_label_one, network.eval(), organ, profile))
        _log.info("single %s: Dice %.3f", organ, single[organ])

    central = baselines.softmax_network(config, organs)
    baselines.train_central(central, sites, _training(profile, seed, "central"), loss=baselines.marginal)
    central_marginal = _dice(test, organs, partial(baselines.predict, central, organs, profile.patch_size))
    _log.info("central marginal: mean Dice %.3f", _mean(central_marginal))

    averaged, steps = baselines.softmax_network(config, organs), profile.steps_per_round
    training = _training(profile, seed, "fedavg")
    baselines.train_fedavg(averaged, sites, training, loss=baselines.naive, steps_per_round=steps)
    fedavg_naive = _dice(test, organs, partial(baselines.predict, averaged, organs, profile.patch_size))
    _log.info("fedavg naive: mean Dice %.3f", _mean(fedavg_naive))

    against = objections(single, central_marginal, fedavg_naive)
    return {
        "accepted": not against,
        "objections": against,
        "profile": profile.name,
        "seed": seed,
        "steps_per_site": profile.rounds * profile.steps_per_round,
        "test_cases": len(test),
        "dice": {
            "single": _rounded(single),
            "central_marginal": _rounded(central_marginal),
            "fedavg_naive": _rounded(fedavg_naive),
        },
        "criterion": {"single": SINGLE_DICE, "single_at_most": TOO_EASY, "central_over_fedavg_more_than": GAP},
        "central_over_fedavg": round(_mean(central_marginal) - _mean(fedavg_naive), 4),
        "seconds": round(time.monotonic() - started),
    }


def _cases(folder: Path, label_set: LabelSet, profile: Profile) -> list[Case]:
    site = open_site(folder, label_set=label_set, contract=profile.contract)
    return sorted((*site.training_cases, *site.validation_cases), key=lambda case: case.name)


def _training(profile: Profile, seed: int, *words: str) -> TrainingConfig:
    return TrainingConfig(
        steps=profile.rounds * profile.steps_per_round,
        learning_rate=profile.learning_rate,
        patch_size=profile.patch_size,
        batch_size=profile.batch_size,
        seed_words=(seed, *words),
    )


def _label_one(network: SegVizNet, organ: str, profile: Profile, voxels: NDArray[np.float32]) -> NDArray[np.uint8]:
    margin = margins(network, voxels, organs=[organ], patch_size=profile.patch_size)[0]
    return np.where(margin > 0, ORGANS[organ].value, 0).astype(np.uint8)


def _dice(
    cases: Sequence[Case], organs: Sequence[str], label: Callable[[NDArray[np.float32]], NDArray[np.uint8]]
) -> dict[str, float]:
    scores: dict[str, list[float]] = {organ: [] for organ in organs}
    for case in cases:
        found = label(case.intensities)
        for organ in set(organs) & set(case.masks):  # open_site leaves out an organ that the case does not show
            value = ORGANS[organ].value
            truth = np.where(case.masks[organ], value, 0)
            scores[organ].append(dice_per_organ(found, truth, {organ: value})[organ])
    return {organ: float(np.mean(values)) for organ, values in scores.items()}


def _mean(dice: Dice) -> float:
    return float(np.mean(list(dice.values())))


def _rounded(dice: Dice) -> dict[str, float]:
    return {"mean": round(_mean(dice), 4)} | {organ: round(value, 4) for organ, value in dice.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge the `small` phantoms of some seeds and write the numbers after each; the folder keeps the phantoms."""
    parser = argparse.ArgumentParser(prog="python -m segviz_core.experiments.acceptance", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)  # the network is small: more threads cost more than they bring
    options.result.parent.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in options.seeds:
        runs.append(accept(options.folder / f"seed_{seed}", PROFILES["small"], seed=seed))
        write_json(options.result, {"accepted": all(run["accepted"] for run in runs), "runs": runs})


if __name__ == "__main__":
    main()
