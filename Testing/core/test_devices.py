"""Where torch trains, and what happens when the card is too small. "cuda" itself is tried on a machine that has one."""

import pytest
import torch

from segviz_core.devices import out_of_memory, torch_device
from segviz_core.errors import InputError, SegVizError


def test_auto_takes_a_card_where_torch_can_use_one(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [torch_device(name).type for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [torch_device(name).type for name in ("auto", "cpu")] == ["cpu", "cpu"]


def test_a_card_that_is_not_there_is_named_with_what_to_do(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"Expected an NVIDIA graphics card .*, found none\. Use --device cpu\."):
        torch_device("cuda")


def test_out_of_memory_is_known_behind_the_sentence_that_was_made_of_it() -> None:
    error = SegVizError("The graphics card has not enough free memory for this CT.")
    assert not out_of_memory(error)
    error.__cause__ = torch.OutOfMemoryError("CUDA out of memory")
    assert out_of_memory(error)
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not out_of_memory(MemoryError())
