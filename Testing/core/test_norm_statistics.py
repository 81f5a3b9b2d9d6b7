"""Experts look at CTs of another scanner with the norm statistics of these CTs (AdaBN, docs/method_log.md)."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_cases import NETWORK, PATCH, toy_site

from segviz_core import norm_statistics
from segviz_core.evaluation import dice_per_organ
from segviz_core.experiments.baselines import softmax_network
from segviz_core.experiments.predictors import Heads, Softmax
from segviz_core.network import NetworkConfig, SegVizNet, norm_keys
from segviz_core.norm_statistics import adapted
from segviz_core.torch_inference import margins
from segviz_core.training import TrainingConfig, step_generator, train

CONFIG = TrainingConfig(steps=80, patch_size=PATCH, learning_rate=1e-2, contrast=0.0, precision="fp32")


@pytest.fixture(scope="module")
def expert():
    torch.manual_seed(0)
    network = SegVizNet(NetworkConfig.from_dict(NETWORK), ["liver"])
    train(network, toy_site("liver").training_cases, CONFIG)
    return network.eval()


@pytest.fixture(scope="module")
def elsewhere():
    """Cases of a scanner that gives everything in a quarter of the contrast, and brighter; only spleens are annotated.

    The livers, which nobody there knows, come with them.
    """
    cases = toy_site("spleen", "liver").training_cases
    for case in cases:
        case.voxels = (case.voxels // 4 + 170).astype(np.uint8)
    return [(replace(case, masks={"spleen": case.masks["spleen"]}), case.masks["liver"]) for case in cases]


def test_expert_finds_its_organ_on_an_unknown_scanner_with_that_scanners_norm_statistics(expert, elsewhere):
    own, theirs = [], []
    for case, liver in elsewhere:
        own.append(dice(expert, case, liver))
        theirs.append(dice(adapted(expert, case, share=1.0, patch_size=PATCH), case, liver))
    assert np.mean(own) < 0.7 < 0.85 < np.mean(theirs), (own, theirs)


def test_site_alone_may_look_at_a_ct_without_labels_in_the_same_way(expert, elsewhere):
    plain, adapting = (Heads([(expert, ("liver",))], PATCH, exclusive=False, test_norm=share) for share in (0.0, 1.0))
    own, theirs = [], []
    for case, liver in elsewhere:
        for predictor, found in ((plain, own), (adapting, theirs)):
            mask = predictor.masks(predictor.maps(case.intensities))["liver"]
            found.append(dice_per_organ(mask.astype(np.uint8), liver.astype(np.uint8))["liver"])
    assert np.mean(own) < 0.7 < 0.8 < np.mean(theirs), (own, theirs)


def test_network_of_one_softmax_is_adapted_in_the_same_way(elsewhere):
    torch.manual_seed(0)
    network = softmax_network(NetworkConfig.from_dict(NETWORK), ("liver",)).eval()
    case, before = elsewhere[0][0], copy.deepcopy(network.state_dict())
    plain, adapting = (Softmax(network, ("liver",), PATCH, test_norm=share) for share in (0.0, 1.0))
    by_hand = Softmax(
        adapted(network, replace(case, name="ct", masks={}), share=1.0, patch_size=PATCH), ("liver",), PATCH
    )
    assert not np.array_equal(plain.maps(case.intensities), adapting.maps(case.intensities))
    np.testing.assert_array_equal(by_hand.maps(case.intensities), adapting.maps(case.intensities))
    assert all(torch.equal(network.state_dict()[key], value) for key, value in before.items())


def test_share_of_the_statistics_is_replaced_and_every_weight_stays(expert, elsewhere):
    case, before = elsewhere[0][0], copy.deepcopy(expert.state_dict())
    own, half, whole = (adapted(expert, case, share=share, patch_size=PATCH).state_dict() for share in (0.0, 0.5, 1.0))
    running = {key for key in norm_keys(expert) if "running" in key}
    assert running
    for key, value in before.items():
        assert torch.equal(expert.state_dict()[key], value)
        if key in running:
            torch.testing.assert_close(own[key], value)
            assert not torch.equal(whole[key], value)
            torch.testing.assert_close(half[key], (value + whole[key]) / 2)
        elif "num_batches" not in key:
            assert torch.equal(whole[key], value)


def test_statistics_are_the_plain_mean_of_all_batches(expert, elsewhere, monkeypatch):
    case = elsewhere[0][0]
    first = next(key for key in expert.state_dict() if key.endswith("running_mean"))
    means = []
    for words in ((0, 1), (0,), (1,)):
        monkeypatch.setattr(norm_statistics, "BATCHES", len(words))
        monkeypatch.setattr(norm_statistics, "step_generator", lambda _, i, words=words: step_generator(words[i]))
        network = adapted(expert, case, share=1.0, patch_size=PATCH)
        means.append(network.state_dict()[first])
    assert not torch.equal(means[1], means[2])
    torch.testing.assert_close(means[0], (means[1] + means[2]) / 2, rtol=1e-3, atol=1e-4)


def dice(network, case, truth):
    found = margins(network, case.intensities, organs=["liver"], patch_size=PATCH)[0] > 0
    return dice_per_organ(found.astype(np.uint8), truth.astype(np.uint8))["liver"]
