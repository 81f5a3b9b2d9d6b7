"""Prepared cases that a network learns in seconds: bright boxes on noise, one per organ, at fixed places."""

import numpy as np

from segviz_core.cases import Case, Site
from segviz_core.contract import DataContract
from segviz_core.federation.settings import StudySettings, heads_of
from segviz_core.labels import LABEL_SETS, LabelSet

SHAPE, PATCH = (20, 16, 16), (16, 16, 16)
NETWORK = {"channels": [4, 8, 16], "strides": [2, 2], "num_res_units": 1}
BOXES = {
    "liver": (slice(2, 9), slice(3, 12), slice(6, 13)),
    "spleen": (slice(13, 18), slice(3, 9), slice(8, 13)),
    "kidneys": (slice(6, 12), slice(9, 14), slice(2, 7)),
    "pancreas": (slice(10, 14), slice(8, 12), slice(9, 13)),
}
LEVELS = {"liver": 120, "spleen": 170, "kidneys": 220, "pancreas": 90}


def toy_case(name: str, organs: tuple[str, ...], *, seed: int) -> Case:
    """A case that shows all four organs; only `organs` are annotated."""
    rng = np.random.default_rng(seed)
    voxels = rng.integers(10, 50, SHAPE).astype(np.uint8)
    for organ, box in BOXES.items():
        voxels[box] = LEVELS[organ] + rng.integers(-8, 8, voxels[box].shape)
    masks = {}
    for organ in organs:
        masks[organ] = np.zeros(SHAPE, bool)
        masks[organ][BOXES[organ]] = True
    return Case(name=name, voxels=voxels, masks=masks, targets={})


def toy_site(*organs: str, cases: int = 3, validation: int = 0) -> Site:
    """A site that annotates `organs` in all its cases."""
    made = [toy_case(f"case{i}", organs, seed=100 * i + len(organs[0])) for i in range(cases + validation)]
    label_set = LabelSet({organ: LABEL_SETS[organ].values[organ] for organ in organs})
    return Site(label_set=label_set, training_cases=made[:cases], validation_cases=made[cases:])


def toy_settings(**values) -> StudySettings:
    """Settings of a study on toy cases: two local chunks of 2 steps, two rounds of 2 steps."""
    return StudySettings(
        "toy",
        **{
            "network": NETWORK | heads_of(values.get("mode", "segviz+")),
            "patch_size": PATCH,
            "contract": DataContract((10.0, 10.0, 10.0)),
            "local_steps": 4,
            "local_chunks": 2,
            "rounds": 2,
            "steps_per_round": 2,
            "tune_steps": 2,
            "learning_rate": 1e-2,
            "shared_learning_rate": 1e-2,
            **values,
        },
    )
