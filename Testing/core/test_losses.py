"""Losses count annotated organs only (method.md section 3)."""

import math

import pytest
import torch
from monai.losses import DiceLoss

from segviz_core.losses import distillation, published, soft_dice, supervised

SHAPE = (4, 4, 4)


def margins_for(p: torch.Tensor) -> torch.Tensor:
    """Margins (B, 1, X, Y, Z) of one organ whose probability is `p` (B, X, Y, Z)."""
    return torch.logit(p)[:, None]


def test_soft_dice_of_equal_masks_is_zero_and_of_disjoint_ones_one():
    mask = torch.zeros(SHAPE)
    mask[:2] = 1
    assert soft_dice(mask, mask, smooth=1e-5).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice(mask, 1 - mask, smooth=1e-5).item() == pytest.approx(1, abs=1e-5)


def test_supervised_loss_is_dice_plus_cross_entropy_by_hand():
    p = torch.full((1, *SHAPE), 0.8)
    mask = torch.ones(1, 1, *SHAPE)
    loss = supervised(margins_for(p), mask, torch.tensor([[True]]))
    expected = 1 - 2 * 0.8 / 1.8 - torch.log(torch.tensor(0.8))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)


def test_organ_not_annotated_in_a_case_adds_nothing_there():
    good, wild = torch.full(SHAPE, 0.9), torch.full(SHAPE, 0.001)
    mask = torch.ones(2, 1, *SHAPE)
    both = supervised(margins_for(torch.stack([good, wild])), mask, torch.tensor([[True], [False]]))
    alone = supervised(margins_for(good[None]), mask[:1], torch.tensor([[True]]))
    assert both.item() == pytest.approx(alone.item(), abs=1e-6)


def test_batch_without_annotation_gives_zero_and_still_has_a_gradient():
    margins = torch.randn(1, 1, *SHAPE, requires_grad=True)
    loss = supervised(margins, torch.ones(1, 1, *SHAPE), torch.tensor([[False]]))
    loss.backward()
    assert loss.item() == 0
    assert not margins.grad.any()


def test_published_loss_is_the_mean_of_both_channels_without_cross_entropy():
    p = torch.full((1, *SHAPE), 0.75)
    mask = torch.zeros(1, 1, *SHAPE)
    mask[..., :2] = 1
    loss = published(margins_for(p), mask, torch.tensor([[True]]))
    organ = 1 - 2 * 0.75 * 0.5 / (0.75 + 0.5)
    background = 1 - 2 * 0.25 * 0.5 / (0.25 + 0.5)
    assert loss.item() == pytest.approx((organ + background) / 2, abs=1e-4)


@pytest.mark.parametrize("target, trust", [(0.95, 1.0), (0.85, 0.1)])
def test_distillation_trusts_sure_voxels_ten_times_more(target, trust):
    p, n = 0.3, 64
    loss = distillation(margins_for(torch.full((1, *SHAPE), p)), torch.full((1, 1, *SHAPE), target), [1.0])
    cross_entropy = -trust * (target * math.log(p) + (1 - target) * math.log(1 - p))
    dice = 1 - (2 * trust * p * trust * n + 1) / (trust * p * n + trust * n + 1)
    assert loss.item() == pytest.approx(cross_entropy + dice, abs=1e-4)


def test_gate_of_zero_switches_a_teacher_off():
    margins, target = margins_for(torch.full((1, *SHAPE), 0.3)), torch.ones(1, 1, *SHAPE)
    assert distillation(margins, target, [0.0]).item() == 0
    half, full = distillation(margins, target, [0.5]), distillation(margins, target, [1.0])
    assert half.item() == pytest.approx(full.item() / 2)


def test_losses_of_several_organs_are_the_sums_of_each():
    generator = torch.Generator().manual_seed(0)
    margins = torch.randn(2, 3, *SHAPE, generator=generator)
    masks, soft = (margins > 1).float(), torch.rand(2, 3, *SHAPE, generator=generator)
    annotated = torch.tensor([[True, False, True], [True, True, False]])
    for loss in (supervised, published):
        each = sum(loss(margins[:, k : k + 1], masks[:, k : k + 1], annotated[:, k : k + 1]) for k in range(3))
        assert loss(margins, masks, annotated).item() == pytest.approx(each.item(), rel=1e-5)
    gates = [1.0, 0.5, 0.25]
    each = sum(distillation(margins[:, k : k + 1], soft[:, k : k + 1], gates[k : k + 1]) for k in range(3))
    assert distillation(margins, soft, gates).item() == pytest.approx(each.item(), rel=1e-5)


def test_published_loss_counts_every_annotated_case_alike():
    """As MONAI's DiceLoss(softmax, to_onehot_y): a mean over cases and channels, not one Dice over the batch."""
    generator = torch.Generator().manual_seed(1)
    margins = torch.randn(3, 1, *SHAPE, generator=generator)
    masks = (torch.rand(3, 1, *SHAPE, generator=generator) > 0.8).float()
    dice = DiceLoss(softmax=True, to_onehot_y=True, smooth_nr=1e-5, smooth_dr=1e-5)
    logits = torch.cat([torch.zeros_like(margins), margins], 1)
    known = torch.tensor([[True], [True], [False]])
    assert published(margins, masks, known).item() == pytest.approx(dice(logits[:2], masks[:2]).item(), rel=1e-5)
