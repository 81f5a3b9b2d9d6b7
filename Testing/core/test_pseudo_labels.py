"""What is left of an expert's labels before they teach (docs/method_log.md)."""

import numpy as np
import torch
from toy_cases import NETWORK, PATCH, toy_case

from segviz_core.federation.pseudo_labels import Teacher, soft_maps, without_small_pieces
from segviz_core.network import NetworkConfig, SegVizNet


def test_small_pieces_of_an_experts_organ_are_not_taught_and_two_kidneys_are():
    target = np.full((40, 12, 12), 20, np.uint8)  # a little everywhere: no piece of its own
    target[2:10, 2:10, 2:10] = 250  # one kidney
    target[30:38, 2:10, 2:9] = 200  # the other
    target[20:23, 2:5, 2:5] = 255  # what an unknown scanner made of something else
    kept = without_small_pieces(target, 0.3)
    assert (kept[20:23, 2:5, 2:5] == 0).all()
    kept[20:23, 2:5, 2:5] = 255
    assert (kept == target).all()
    assert (without_small_pieces(target, 0.0) == target).all()


def test_organ_that_the_expert_does_not_find_has_no_pieces():
    nothing = np.full((4, 4, 4), 100, np.uint8)
    assert (without_small_pieces(nothing, 0.3) == nothing).all()


def test_heads_of_one_teacher_compete_for_a_voxel_where_they_did_in_training():
    """The surer head has it; each alone would claim it."""
    torch.manual_seed(0)
    network = SegVizNet(NetworkConfig.from_dict(NETWORK), ["liver", "spleen"]).eval()
    network.head("spleen").load_state_dict(network.head("liver").state_dict())
    with torch.no_grad():
        for organ, bias in (("liver", 5.0), ("spleen", 20.0)):
            network.head(organ).residual.bias.copy_(torch.tensor([0.0, bias]))
    case, teacher = toy_case("a", ("kidneys",), seed=0), Teacher(network, {"liver": 1.0, "spleen": 1.0})
    alone, against = (soft_maps(case, [teacher], patch_size=PATCH, competing=competing) for competing in (False, True))
    free = ~case.masks["kidneys"]
    assert alone["liver"][free].min() > 200
    assert against["liver"].max() < 5
    assert against["spleen"][free].min() > 200
