"""Where torch computes, and which faults of a card are which."""

import pytest
import torch

from segviz_core import devices
from segviz_core.devices import has_card, lost_card, out_of_memory, torch_device
from segviz_core.errors import InputError, SegVizError


def test_auto_takes_a_card_where_torch_can_use_one(monkeypatch) -> None:
    monkeypatch.setattr(devices, "has_card", lambda: True)
    assert [torch_device(name).type for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr(devices, "has_card", lambda: False)
    assert [torch_device(name).type for name in ("auto", "cpu")] == ["cpu", "cpu"]


def test_a_card_for_which_this_torch_has_no_code_is_none(monkeypatch) -> None:
    def ones(*_: object, **__: object) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device")

    has_card.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", ones)
    assert not has_card()
    has_card.cache_clear()


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(InputError, match="device: expected auto, cpu or cuda, found 'mps'"):
        torch_device("mps")


def test_a_card_that_is_not_there_is_named_with_what_to_do(monkeypatch) -> None:
    monkeypatch.setattr(devices, "has_card", lambda: False)
    with pytest.raises(InputError, match=r"Expected an NVIDIA graphics card .*, found none\. Use --device cpu\."):
        torch_device("cuda")


def test_out_of_memory_is_known_behind_the_sentence_that_was_made_of_it() -> None:
    error = SegVizError("The graphics card has not enough free memory for this CT.")
    assert not out_of_memory(error)
    error.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    assert out_of_memory(error)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert out_of_memory(torch.AcceleratorError("CUDA error: out of memory"))
    assert out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not out_of_memory(MemoryError())


def test_a_card_is_lost_by_faults_of_the_card_alone() -> None:
    assert lost_card(torch.AcceleratorError("CUDA error: unspecified launch failure"))
    assert not lost_card(torch.AcceleratorError("CUDA error: out of memory"))
    assert not lost_card(RuntimeError("expected scalar type Float"))
