"""Where torch computes: on an NVIDIA card that it can use, else on the processor."""

import functools

import torch

from segviz_core.errors import InputError
from segviz_core.networks import no_card


def torch_device(name: str = "auto") -> torch.device:
    """The device called `name` (auto, cpu or cuda): auto takes an NVIDIA card where torch can use one.

    Raises:
        InputError: cuda without such a card; another name.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device: expected auto, cpu or cuda, found {name!r}.")
    if name == "cpu" or (name == "auto" and not has_card()):
        return torch.device("cpu")
    if not has_card():
        raise no_card()
    return torch.device("cuda")


@functools.cache
def has_card() -> bool:
    """Whether there is an NVIDIA card that this torch computes on: its build may have no code for an old one."""
    if not torch.cuda.is_available():
        return False
    try:
        (torch.ones(1, device="cuda") + 1).item()
    except RuntimeError:
        return False
    return True


def out_of_memory(error: BaseException) -> bool:
    """Whether a card had too little free memory: torch's own error, a library's, or a sentence raised from them."""
    return any(
        isinstance(e, torch.OutOfMemoryError)
        or (isinstance(e, RuntimeError) and ("CUDA error: out of memory" in str(e) or "ALLOC_FAILED" in str(e)))
        for e in (error, error.__cause__)
    )


def lost_card(error: BaseException) -> bool:
    """Whether the card cannot be used any more by this process: after such a fault every further call fails."""
    return isinstance(error, torch.AcceleratorError) and not out_of_memory(error)
