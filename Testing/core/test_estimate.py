"""What joining would cost, from real steps on a site's own cases."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from toy_cases import NETWORK

from segviz_core.errors import InputError
from segviz_core.federation.estimate import Estimate, estimate
from segviz_core.federation.settings import StudySettings

SETTINGS = StudySettings("toy", network=NETWORK, patch_size=(8, 8, 8), local_steps=10, rounds=3, steps_per_round=20)


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in "abc":
        label = np.zeros((16, 16, 16), np.uint8)
        label[4:12, 4:12, 4:12] = 1
        for folder, voxels in (
            ("images", (rng.normal(0, 20, label.shape) + 90 * label).astype(np.int16)),
            ("labels", label),
        ):
            path = tmp_path / folder / f"{name}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 2.0, 1.0])), path)
    return tmp_path


def test_steps_are_measured_and_multiplied_by_the_plan_of_the_study(cases: Path) -> None:
    stages: set[str] = set()
    found = estimate(
        SETTINGS.for_site("north"),
        cases,
        organs=("liver",),
        label_values={},
        cores=1,
        on_progress=lambda stage, *_: stages.add(stage),
    )
    assert stages == {"cases", "estimate"}
    assert found.seconds_per_step > 0
    assert found.cases == 3
    assert found.seconds_per_round == pytest.approx(20 * found.seconds_per_step, rel=0.2, abs=0.1)
    assert found.planned_steps == 10 + 3 * 20 + 200  # phase 1, shared rounds, the heads at the end
    assert found.memory_mb is None or found.memory_mb > 100
    assert sorted(path.name for path in cases.iterdir()) == ["images", "labels"]  # nothing is left behind


def test_cases_that_cannot_be_used_are_named_like_at_joining(cases: Path) -> None:
    with pytest.raises(InputError, match=r"Case a: .*expected the label values of spleen \(2\)"):
        estimate(SETTINGS.for_site("north"), cases, organs=("spleen",), label_values={}, cores=1)


def test_sentence_says_time_per_round_in_all_and_memory() -> None:
    found = Estimate(
        cores=2,
        cases=12,
        seconds_to_prepare=14.0,
        seconds_per_step=1.234,
        steps_per_round=665,
        seconds_per_round=820.6,
        planned_steps=33_450,
        hours_in_all=11.47,
        memory_mb=2100.0,
    )
    assert found.sentence == (
        "About 14 min of training per round (665 steps of 1.2 s) and 11.5 h in all with 2 cores; "
        "2.1 GB of the computer's memory; the 12 cases are prepared once, in about 14 s."
    )
    assert " in all on the graphics card; 2.1 GB" in replace(found, device="cuda").sentence
