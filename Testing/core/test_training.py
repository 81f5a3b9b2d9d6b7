"""The plain training loop learns, resumes at any step, and distils without touching foreign heads."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_cases import NETWORK, PATCH, SHAPE, toy_site

from segviz_core.errors import Cancelled
from segviz_core.network import NetworkConfig, SegVizNet
from segviz_core.training import (
    Distillation,
    TrainingConfig,
    draw_step,
    set_trainable,
    step_generator,
    train,
)
from segviz_core.tuning import calibrate, tune_heads, validation_dice

CONFIG = TrainingConfig(steps=60, learning_rate=1e-2, patch_size=PATCH)


def network_of(*organs: str, seed: int = 0) -> SegVizNet:
    torch.manual_seed(seed)
    return SegVizNet(NetworkConfig.from_dict(NETWORK), organs)


@pytest.fixture(scope="module")
def trained():
    """A network that knows the liver, its site, and the summary of its training."""
    site, network = toy_site("liver", validation=2), network_of("liver")
    return network, site, train(network, site.training_cases, CONFIG)


def test_sixty_steps_find_a_bright_box(trained):
    network, site, summary = trained
    dice = validation_dice(network, site.validation_cases, organs=["liver"], patch_size=PATCH)
    assert dice["liver"] > 0.8
    assert 0 < summary.loss < 3
    assert 0 <= summary.dice["liver"] <= 1


def test_training_in_two_halves_equals_training_at_once():
    site = toy_site("liver")
    at_once, halves = network_of("liver"), network_of("liver")
    train(at_once, site.training_cases, TrainingConfig(6, patch_size=PATCH))
    optimizer = torch.optim.Adam(set_trainable(halves, own=["liver"]), fused=True)
    for first in (0, 3):
        train(
            halves,
            site.training_cases,
            TrainingConfig(3, patch_size=PATCH, first_step=first, total_steps=6),
            optimizer=optimizer,
        )
    for key, value in at_once.state_dict().items():
        assert torch.equal(value, halves.state_dict()[key]), key


def test_every_step_draws_one_of_the_patch_sizes_and_always_the_same():
    cases, sizes = toy_site("liver").training_cases, ((8, 8, 8), (16, 12, 8), (16, 16, 16))
    config = TrainingConfig(1, patch_sizes=sizes)
    drawn = [draw_step(cases, config, step, organs=["liver"]).images for step in range(12)]
    assert {tuple(images.shape[2:]) for images in drawn} == set(sizes)
    assert torch.equal(draw_step(cases, config, 7, organs=["liver"]).images, drawn[7])


def test_bf16_learns_alike_and_leaves_weights_and_statistics_in_fp32():
    summaries = {}
    for precision in ("fp32", "bf16"):
        network = network_of("liver")
        config = TrainingConfig(20, learning_rate=1e-2, patch_size=PATCH, precision=precision)
        summaries[precision] = train(network, toy_site("liver").training_cases, config)
        dtypes = {value.dtype for value in network.state_dict().values()}
        assert dtypes == {torch.float32, torch.int64}  # int64: counters of batches
    assert summaries["bf16"].loss == pytest.approx(summaries["fp32"].loss, rel=0.1)
    assert summaries["bf16"].loss != summaries["fp32"].loss


def test_distillation_teaches_the_representation_and_leaves_the_foreign_head():
    site = toy_site("liver")
    for case in site.training_cases:
        case.targets = {"spleen": np.zeros(SHAPE, np.uint8)}
    plain, distilled = network_of("liver", "spleen"), network_of("liver", "spleen")
    head = copy.deepcopy(distilled.head("spleen").state_dict())
    config = TrainingConfig(3, patch_size=PATCH)
    train(plain, site.training_cases, config, organs=["liver"])
    train(distilled, site.training_cases, config, organs=["liver"], distillation=Distillation(("spleen",), ramp=0.0))
    assert all(torch.equal(value, distilled.head("spleen").state_dict()[key]) for key, value in head.items())
    key = "representation.0.conv.unit0.conv.weight"
    assert not torch.equal(plain.state_dict()[key], distilled.state_dict()[key])


def test_proximal_term_holds_the_representation_back():
    moved = {}
    for mu in (0.0, 10.0):
        network, site = network_of("liver"), toy_site("liver")
        start = [p.detach().clone() for p in network.representation.parameters()]
        train(network, site.training_cases, TrainingConfig(10, patch_size=PATCH), proximal=mu)
        after = network.representation.parameters()
        moved[mu] = sum(((p - q) ** 2).sum().item() for p, q in zip(after, start, strict=True))
    assert moved[10.0] < moved[0.0]


def test_fixed_norm_layers_normalise_by_their_statistics_and_keep_them():
    network, site = network_of("liver"), toy_site("liver")
    norms = [layer for layer in network.representation.modules() if isinstance(layer, torch.nn.BatchNorm3d)]
    for layer in norms:
        layer.running_mean.fill_(0.25)
    before = copy.deepcopy(network)
    batch_at_a_time = [
        train(copy.deepcopy(network), site.training_cases, replace(CONFIG, steps=1, fixed_norm=fixed)).loss
        for fixed in (True, False)
    ]
    assert batch_at_a_time[0] != batch_at_a_time[1]
    train(network, site.training_cases, replace(CONFIG, steps=3, fixed_norm=True))
    for (key, old), new in zip(before.state_dict().items(), network.state_dict().values(), strict=True):
        statistic = "running" in key or "tracked" in key
        assert torch.equal(old, new) == (statistic and key.startswith("representation")), key


def test_training_stops_at_the_batch_after_a_cancel():
    steps = []

    def stop(done, total):
        steps.append(done)
        if done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        train(network_of("liver"), toy_site("liver").training_cases, CONFIG, on_step=stop)
    assert steps == [1, 2]


def test_random_stream_of_a_step_depends_on_every_word():
    assert step_generator(0, "north", 3).random() == step_generator(0, "north", 3).random()
    draws = {
        step_generator(*words).random()
        for words in [(0, "north", 3), (1, "north", 3), (0, "south", 3), (0, "north", 4)]
    }
    assert len(draws) == 4


def test_tuning_changes_heads_and_nothing_else(trained):
    network, site, _ = trained
    network = copy.deepcopy(network)
    before = copy.deepcopy(network.state_dict())
    tune_heads(network, site.training_cases, TrainingConfig(4, 1e-2, PATCH), organs=["liver"])
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.startswith("heads.liver.") for key in changed)


def test_tuning_with_validation_never_ends_worse_than_it_began(trained):
    network, site, _ = trained
    network = copy.deepcopy(network)
    before = validation_dice(network, site.validation_cases, organs=["liver"], patch_size=PATCH)["liver"]
    wild = TrainingConfig(4, learning_rate=1.0, patch_size=PATCH)
    tune_heads(network, site.training_cases, wild, organs=["liver"], validation_cases=site.validation_cases)
    after = validation_dice(network, site.validation_cases, organs=["liver"], patch_size=PATCH)["liver"]
    assert after >= before - 1e-6


def test_calibration_without_validation_cases_is_neutral():
    assert calibrate(network_of("liver"), [], organs=["liver"], patch_size=PATCH) == {"liver": (1.0, 0.5)}


def test_calibration_cools_an_overconfident_head(trained):
    network, site, _ = trained
    sharp = copy.deepcopy(network)
    with torch.no_grad():
        sharp.head("liver").residual.weight.mul_(20)
        sharp.head("liver").residual.bias.mul_(20)
    normal, _ = calibrate(network, site.validation_cases, organs=["liver"], patch_size=PATCH)["liver"]
    cooled, threshold = calibrate(sharp, site.validation_cases, organs=["liver"], patch_size=PATCH)["liver"]
    assert cooled > normal
    assert 0.2 <= threshold <= 0.8


@pytest.mark.parametrize("size", [8, 16])
def test_gradients_are_finite_whatever_was_in_memory_before(size):
    """Patches of 8 voxels have features two voxels thick, where bf16 gradients would read what others left behind."""
    site = toy_site("liver")
    config = TrainingConfig(steps=2, patch_size=(size,) * 3, precision="bf16")
    for seed in range(12):
        torch.manual_seed(seed)
        network = SegVizNet(NetworkConfig.from_dict(NETWORK), ["liver"])
        for parameter in network.parameters():
            parameter.register_hook(lambda _: leave_nan_behind())
        train(network, site.training_cases, config)
        assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def leave_nan_behind() -> None:
    junk = [torch.full((2 ** (2 + i % 17),), float("nan")) for i in range(170)]
    del junk
