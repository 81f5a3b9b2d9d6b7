from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from segviz_core.cases import Case
from segviz_core.experiments import baselines
from segviz_core.losses import supervised
from segviz_core.network import NetworkConfig
from segviz_core.training import TrainingConfig

CONFIG = NetworkConfig((4, 8, 16), (2, 2), 1)
TRAINING = TrainingConfig(steps=2, patch_size=(16, 16, 16), batch_size=2)


def toy_case(organ: str, seed: int) -> Case:
    voxels = np.random.default_rng(seed).integers(0, 255, (20, 20, 20), np.uint8)
    mask = np.zeros((20, 20, 20), bool)
    mask[5:12, 5:12, 5:12] = True
    return Case(f"{organ}{seed}", voxels, {organ: mask})


SITES = {organ: [toy_case(organ, seed) for seed in range(2)] for organ in ("liver", "spleen")}


def test_marginal_loss_asks_nothing_of_organs_that_are_not_annotated() -> None:
    logits, mask = torch.zeros(1, 3, 4, 4, 4), torch.zeros(1, 4, 4, 4)
    mask[:, :2] = 1
    same_liver = logits.clone()
    # Background and spleen trade probability; the liver's stays one third.
    same_liver[:, 0], same_liver[:, 2] = np.log(1.5), np.log(0.5)
    assert baselines.marginal(same_liver, mask, 1) == pytest.approx(
        float(baselines.marginal(logits, mask, 1)), abs=1e-6
    )
    assert baselines.naive(same_liver, mask, 1) < baselines.naive(logits, mask, 1)


def test_perfect_prediction_costs_nothing() -> None:
    mask = torch.zeros(1, 4, 4, 4)
    mask[:, :2] = 1
    logits = torch.stack([40 * (1 - mask), 40 * mask, torch.full_like(mask, -40)], dim=1)
    assert baselines.marginal(logits, mask, 1) == pytest.approx(0, abs=1e-3)
    # Two of three channels are right, the third is empty in both.
    assert baselines.naive(logits, mask, 1) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("margin", [-20.0, -12.0, 12.0])
def test_a_voxel_that_is_surely_wrong_is_corrected_as_by_the_loss_of_the_other_rows(margin: float) -> None:
    mask = torch.full((1, 4, 4, 4), float(margin < 0))
    logits = torch.zeros(1, 2, 4, 4, 4)
    logits[:, 1] = margin
    logits.requires_grad_()
    baselines.marginal(logits, mask, 1).backward()
    margins = torch.full((1, 1, 4, 4, 4), margin, requires_grad=True)
    supervised(margins, mask[None], torch.ones(1, 1, dtype=torch.bool)).backward()
    assert logits.grad[:, 1].abs().min() > 0.01
    assert torch.allclose(logits.grad[:, 1], margins.grad[:, 0], rtol=1e-4)


def test_server_momentum_adds_a_share_of_the_last_step() -> None:
    def rounds(momentum: float) -> list[list[torch.Tensor]]:
        torch.manual_seed(0)
        network = baselines.softmax_network(CONFIG, list(SITES))
        states = [[parameter.detach().clone() for parameter in network.parameters()]]

        def on_round(_steps: int) -> dict[str, Any]:
            states.append([parameter.detach().clone() for parameter in network.parameters()])
            return {}

        loss, options = baselines.marginal, {"steps_per_round": 1, "server_momentum": momentum, "on_round": on_round}
        baselines.train_fedavg(network, SITES, TRAINING, loss=loss, **options)
        return states

    (start, one, two), (_, same, further) = rounds(0.0), rounds(0.5)
    for before, after, plain, equal, other in zip(start, one, two, same, further, strict=True):
        assert torch.allclose(after, equal, atol=1e-7)
        assert torch.allclose(other - plain, 0.5 * (after - before), atol=1e-6)


@pytest.mark.parametrize("loss", [baselines.marginal, baselines.naive])
def test_both_ways_of_training_change_the_network_and_repeat_exactly(loss: baselines.Loss) -> None:
    def trained(seed: int, *, central: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        network = baselines.softmax_network(CONFIG, list(SITES))
        config = replace(TRAINING, seed_words=(seed,))
        if central:
            baselines.train_central(network, SITES, config, loss=loss)
        else:
            baselines.train_fedavg(network, SITES, config, loss=loss, steps_per_round=1)
        return {key: value.clone() for key, value in network.state_dict().items()}

    for central in (True, False):
        first, again, other = trained(1, central=central), trained(1, central=central), trained(2, central=central)
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert not all(torch.equal(first[key], other[key]) for key in first)


def test_fedavg_without_a_step_leaves_the_network_as_it_is() -> None:
    network = baselines.softmax_network(CONFIG, list(SITES))
    before = {key: value.clone() for key, value in network.state_dict().items()}
    config = replace(TRAINING, steps=1, learning_rate=0.0)
    baselines.train_fedavg(network, SITES, config, loss=baselines.naive, steps_per_round=1)
    parameters = dict(network.named_parameters())
    assert all(torch.allclose(before[key], value, atol=1e-7) for key, value in parameters.items())


def test_predicted_labels_are_values_of_the_organs() -> None:
    network = baselines.softmax_network(CONFIG, ["kidneys", "pancreas"])
    voxels = np.random.default_rng(0).random((20, 24, 18), np.float32)
    labels = baselines.predict(network, ["kidneys", "pancreas"], (16, 16, 16), voxels)
    assert labels.shape == voxels.shape
    assert set(np.unique(labels)) <= {0, 3, 4}
