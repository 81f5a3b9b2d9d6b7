"""A study of a few numbers, for tests of the federation: real processes, no torch, final weights known beforehand."""

import socket
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import toy_trainer

from segviz_core.federation.packets import Arrays
from segviz_core.federation.settings import StudySettings
from segviz_core.federation.state import StudyState
from segviz_core.federation.study import Study
from segviz_core.federation.study_folder import write_study
from segviz_core.federation.synchronization import Template

_REPRESENTATION = {
    "conv.weight": ((4, 3), "float32"),
    "norm.weight": ((4,), "float32"),
    "norm.running_mean": ((4,), "float32"),
    "norm.running_var": ((4,), "float32"),
    "norm.num_batches_tracked": ((), "int64"),
}
TEMPLATE = Template(
    representation=_REPRESENTATION,
    norm=frozenset(key for key in _REPRESENTATION if key.startswith("norm")),
    head={"up.weight": ((3,), "float32")},
)


def write_toy_study(folder: Path, **settings: Any) -> StudySettings:
    """Write the study of TEMPLATE: all weights 1, one step per round."""
    initial = {key: np.ones(shape, dtype) for key, (shape, dtype) in _REPRESENTATION.items()}
    study = StudySettings(
        name="toy",
        mode="segviz-fedavg",
        network={"channels": [4, 8], "strides": [2], "num_res_units": 1},
        patch_size=(4, 4, 4),
        **{"steps_per_round": 1, **settings},
    )
    write_study(folder, study, TEMPLATE, initial)
    return study


def reference(
    folder: Path,
    sites: Mapping[str, Sequence[str]],
    *,
    until: int | None = None,
    absent: Mapping[int, Collection[str]] | None = None,
    **settings: Any,
) -> StudyState:
    """The state of the toy study, after round `until` or its last, when `sites` (name -> organs) answer every round.

    Those in `absent` (round -> names) are missing in some.
    """
    contract = write_toy_study(folder, **settings).contract.hash
    study, names = Study(folder), {str(node): site for node, site in enumerate(sorted(sites), start=1)}
    while not study.finished and study.state.finished != until:
        gone = (absent or {}).get(study.number, ())
        for node, request in study.requests([node for node in names if names[node] not in gone]):
            reply = toy_trainer.answer(request, site=names[node], organs=list(sites[names[node]]), contract=contract)
            study.accept(node, reply)
        study.close_round(seconds=0.0, rejected={})
    return study.state


def assert_same_weights(found: StudyState, expected: StudyState) -> None:
    """Representation and heads agree within 1e-6."""
    assert set(found.heads) == set(expected.heads)
    pairs: list[tuple[Arrays, Arrays]] = [(found.representation, expected.representation)]
    pairs += [(found.heads[organ], expected.heads[organ]) for organ in expected.heads]
    for one, other in pairs:
        assert set(one) == set(other)
        for key in other:
            np.testing.assert_allclose(one[key], other[key], rtol=0, atol=1e-6, err_msg=key)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
