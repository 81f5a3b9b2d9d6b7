"""bf16 where the machine multiplies it, fp32 elsewhere."""

import torch

from segviz_core.precision import computes_bf16


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
