"""bf16 where the machine multiplies it, fp32 elsewhere."""

import torch

from segviz_core.precision import autocast_for_gradients, computes_bf16


def test_precision_follows_the_processor(monkeypatch):
    cpu = torch.device("cpu")
    for able, expected in (
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"avx2": True}, False),
        ({}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able, raising=False)
        assert computes_bf16(cpu) is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not computes_bf16(cpu)


def test_no_gradient_is_computed_in_bf16_where_features_are_two_voxels_thick():
    for size, strides, bf16 in (
        (8, (2, 2), False),
        (16, (2, 2), True),
        (32, (2, 2, 2, 2), False),
        (64, (2,) * 4, True),
    ):
        images = torch.zeros(1, 1, size, 4, 4)
        assert autocast_for_gradients(images, strides, "bf16")._enabled is bf16
