"""The network is MONAI's UNet, cut once, and fused heads equal separate ones (method.md section 2)."""

from dataclasses import replace

import pytest
import torch
from monai.networks.nets import UNet
from torch.nn import BatchNorm3d, Conv3d, GroupNorm, InstanceNorm3d, Sequential

from segviz_core.federation.settings import PUBLISHED_NETWORK
from segviz_core.network import (
    NORM_TYPES,
    Head,
    NetworkConfig,
    SegVizNet,
    fused_logits,
    fused_margins,
    norm_keys,
    unet,
)

SMALL = NetworkConfig((4, 8, 16), (2, 2), 1)


def test_cut_and_uncut_networks_agree_bit_for_bit():
    torch.manual_seed(0)
    unet = UNet(3, 1, 2, (16, 32, 64, 128, 256), (2, 2, 2, 2), num_res_units=2, norm="BATCH").eval()
    network = SegVizNet(NetworkConfig(), ["liver"]).eval()
    network.representation.load_state_dict(unet.model[:2].state_dict())
    network.heads["liver"] = Head(unet.model[2]).eval()
    x = torch.rand(1, 1, 32, 32, 16)
    with torch.no_grad():
        assert torch.equal(network(x)["liver"], unet(x))


def test_published_network_has_the_published_number_of_parameters():
    network = SegVizNet(NetworkConfig(), ["liver"])
    assert sum(p.numel() for p in network.representation.parameters()) == 4_807_072
    assert sum(p.numel() for p in network.head("liver").parameters()) == 1_845


def test_norm_layers_are_found_by_type_80_of_138_entries():
    representation = SegVizNet(NetworkConfig(), ["liver"]).representation
    assert len(representation.state_dict()) == 138
    assert len(norm_keys(representation)) == 80
    assert norm_keys(Sequential(Conv3d(1, 1, 1), GroupNorm(1, 4))) == {"1.weight", "1.bias"}


def test_heads_start_from_different_draws():
    network = SegVizNet(SMALL, ["liver", "spleen"])
    assert not torch.equal(network.head("liver").up.weight, network.head("spleen").up.weight)


@pytest.mark.parametrize("training", [True, False])
def test_fused_heads_equal_separate_heads(training):
    torch.manual_seed(1)
    network = SegVizNet(SMALL, ["liver", "spleen", "kidneys"]).train(training)
    twin = SegVizNet(SMALL, ["liver", "spleen", "kidneys"]).train(training)
    twin.load_state_dict(network.state_dict())
    features = torch.randn(2, 8, 6, 5, 4)
    fused = fused_logits(features, [network.head(o) for o in network.organs])
    separate = torch.stack([twin.head(o)(features) for o in twin.organs], dim=1)
    assert torch.allclose(fused, separate, atol=2e-6)
    for key, value in twin.heads.state_dict().items():
        assert torch.allclose(value.float(), network.heads.state_dict()[key].float(), atol=2e-6), key


@pytest.mark.parametrize("training", [True, False])
def test_margins_are_the_difference_of_both_logits(training):
    torch.manual_seed(2)
    network = SegVizNet(SMALL, ["liver", "spleen"]).train(training)
    for head in network.heads.values():  # as after training, not at rest
        head.norm.running_mean.normal_()
        head.norm.running_var.uniform_(0.5, 2)
    features, heads = torch.randn(2, 8, 6, 5, 4), list(network.heads.values())
    logits = fused_logits(features, heads)
    assert torch.allclose(fused_margins(features, heads), logits[:, :, 1] - logits[:, :, 0], atol=1e-5)


def test_fusing_heads_of_both_modes_is_refused():
    network = SegVizNet(SMALL, ["liver", "spleen"])
    network.head("spleen").eval()
    with pytest.raises(ValueError, match="all train or all evaluate"):
        network(torch.rand(1, 1, 16, 16, 16))


def test_studies_begin_with_the_published_network_unless_told_otherwise():
    assert NetworkConfig.from_dict(PUBLISHED_NETWORK) == NetworkConfig()


def test_settings_survive_json():
    assert NetworkConfig.from_dict(SMALL.to_dict()) == SMALL


@pytest.mark.parametrize("norm, layer", [("batch", BatchNorm3d), ("instance", InstanceNorm3d), ("group", GroupNorm)])
def test_representation_has_the_norm_layers_of_its_settings_and_heads_batch_norm(norm, layer):
    config = replace(SMALL, channels=(8, 16, 32), norm=norm)
    network = SegVizNet(NetworkConfig.from_dict(config.to_dict()), ["liver"])
    norms = [m for m in network.representation.modules() if isinstance(m, NORM_TYPES)]
    assert norms
    assert all(isinstance(m, layer) and m.weight is not None for m in norms)
    assert isinstance(network.head("liver").norm, BatchNorm3d)


def test_a_deep_head_and_its_representation_agree_with_the_uncut_network():
    config = NetworkConfig(channels=(4, 8, 16), strides=(2, 2), num_res_units=1, head_stages=2)
    torch.manual_seed(3)
    network = SegVizNet(config, ["liver"]).eval()
    torch.manual_seed(3)
    trunk = unet(config).eval()
    uncut = unet(config).eval()  # of the head's draw
    uncut.model[0].load_state_dict(trunk.model[0].state_dict())
    uncut.model[1].submodule[0].load_state_dict(trunk.model[1].submodule[0].state_dict())
    uncut.model[1].submodule[1].load_state_dict(trunk.model[1].submodule[1].state_dict())
    x = torch.rand(1, 1, 16, 16, 8)
    with torch.inference_mode():
        logits = uncut(x)
        margins = fused_margins(network.representation(x), [network.head("liver")])
        cut = network(x)["liver"]
    assert torch.allclose(cut, logits, atol=1e-5)
    assert torch.allclose(margins[:, 0], logits[:, 1] - logits[:, 0], atol=1e-5)
    assert NetworkConfig.from_dict(config.to_dict()) == config
