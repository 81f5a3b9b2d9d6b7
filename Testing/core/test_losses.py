"""Losses count annotated organs only (method.md section 3)."""

import math

import pytest
import torch

from segviz_core.losses import distillation, published, soft_dice, supervised

SHAPE = (4, 4, 4)


def logits_for(p: torch.Tensor) -> torch.Tensor:
    """Two-channel logits (B, 2, X, Y, Z) whose softmax foreground is `p`."""
    margin = torch.logit(p)
    return torch.stack([torch.zeros_like(margin), margin], dim=1)


def test_soft_dice_of_equal_masks_is_zero_and_of_disjoint_ones_one():
    mask = torch.zeros(SHAPE)
    mask[:2] = 1
    assert soft_dice(mask, mask, smooth=1e-5).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice(mask, 1 - mask, smooth=1e-5).item() == pytest.approx(1, abs=1e-5)


def test_supervised_loss_is_dice_plus_cross_entropy_by_hand():
    p = torch.full((1, *SHAPE), 0.8)
    mask = torch.ones(1, 1, *SHAPE)
    loss = supervised({"liver": logits_for(p)}, mask, torch.tensor([[True]]), ("liver",))
    expected = 1 - 2 * 0.8 / 1.8 - torch.log(torch.tensor(0.8))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)


def test_organ_not_annotated_in_a_case_adds_nothing_there():
    good, wild = torch.full(SHAPE, 0.9), torch.full(SHAPE, 0.001)
    mask = torch.ones(2, 1, *SHAPE)
    both = supervised(
        {"liver": logits_for(torch.stack([good, wild]))}, mask, torch.tensor([[True], [False]]), ("liver",)
    )
    alone = supervised({"liver": logits_for(good[None])}, mask[:1], torch.tensor([[True]]), ("liver",))
    assert both.item() == pytest.approx(alone.item(), abs=1e-6)


def test_batch_without_annotation_gives_zero_and_still_has_a_gradient():
    logits = torch.randn(1, 2, *SHAPE, requires_grad=True)
    loss = supervised({"liver": logits}, torch.ones(1, 1, *SHAPE), torch.tensor([[False]]), ("liver",))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_published_loss_is_the_mean_of_both_channels_without_cross_entropy():
    p = torch.full((1, *SHAPE), 0.75)
    mask = torch.zeros(1, 1, *SHAPE)
    mask[..., :2] = 1
    loss = published({"liver": logits_for(p)}, mask, torch.tensor([[True]]), ("liver",))
    organ = 1 - 2 * 0.75 * 0.5 / (0.75 + 0.5)
    background = 1 - 2 * 0.25 * 0.5 / (0.25 + 0.5)
    assert loss.item() == pytest.approx((organ + background) / 2, abs=1e-4)


@pytest.mark.parametrize("target, trust", [(0.95, 1.0), (0.85, 0.1)])
def test_distillation_trusts_sure_voxels_ten_times_more(target, trust):
    p, n = 0.3, 64
    loss = distillation(
        {"spleen": logits_for(torch.full((1, *SHAPE), p))}, {"spleen": torch.full((1, *SHAPE), target)}, {}
    )
    cross_entropy = -trust * (target * math.log(p) + (1 - target) * math.log(1 - p))
    dice = 1 - (2 * trust * p * trust * n + 1) / (trust * p * n + trust * n + 1)
    assert loss.item() == pytest.approx(cross_entropy + dice, abs=1e-4)


def test_gate_of_zero_switches_a_teacher_off():
    p, target = torch.full((1, *SHAPE), 0.3), torch.ones(1, *SHAPE)
    assert distillation({"spleen": logits_for(p)}, {"spleen": target}, {"spleen": 0.0}).item() == 0
    half = distillation({"spleen": logits_for(p)}, {"spleen": target}, {"spleen": 0.5})
    full = distillation({"spleen": logits_for(p)}, {"spleen": target}, {"spleen": 1.0})
    assert half.item() == pytest.approx(full.item() / 2)
