"""What a training goes on from after a kill: on a graphics card, too."""

import copy

import pytest
import torch
from torch import nn

from segviz_core.experiments.checkpoint import Checkpoint
from segviz_core.federation.weights import load_training, save_training


@pytest.fixture
def stepped():
    """A module and its Adam after one step."""
    module = nn.Linear(3, 2)
    optimizer = adam_of(module)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return module, optimizer


def adam_of(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), fused=True)


def devices_of(optimizer: torch.optim.Optimizer) -> set[str]:
    return {value.device.type for state in optimizer.state.values() for value in state.values()}


# "meta" stands for a card: there a fused step refuses a count of steps that lies elsewhere (pytorch issue 103256).
def test_checkpoint_puts_all_of_adams_state_where_the_weights_are(stepped, tmp_path):
    module, optimizer = stepped
    checkpoint = Checkpoint(tmp_path / "training.safetensors")
    checkpoint.save(module, [optimizer], now=True)

    elsewhere = adam_of(copy.deepcopy(module).to("meta"))
    checkpoint.restore(module, [elsewhere])

    assert devices_of(elsewhere) == {"meta"}
    assert all(set(state) == {"step", "exp_avg", "exp_avg_sq"} for state in elsewhere.state.values())


def test_site_puts_all_of_adams_state_where_the_weights_are(stepped, tmp_path):
    module, optimizer = stepped
    save_training(tmp_path / "training.safetensors", module, optimizer)

    moved = copy.deepcopy(module).to("meta")
    elsewhere = adam_of(moved)
    load_training(tmp_path / "training.safetensors", moved, elsewhere, adam_only=True)

    assert devices_of(elsewhere) == {"meta"}
    assert all(set(state) == {"step", "exp_avg", "exp_avg_sq"} for state in elsewhere.state.values())
