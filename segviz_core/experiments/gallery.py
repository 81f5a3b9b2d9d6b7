"""Best, median and worst test case of every organ: the model's outline over the CT, beside the true one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segviz_core.atomic import replacing
from segviz_core.errors import InputError
from segviz_core.experiments.datasets import Test
from segviz_core.experiments.figures import ShownCase, organ_planes
from segviz_core.experiments.plan import ORDER
from segviz_core.experiments.results import rows_of
from segviz_core.labels import ORGANS

Picture = tuple[str, str, str, float]
_DPI = 75  # they lie in git


def chosen_cases(result: Mapping[str, Any], evaluation: str) -> list[Picture]:
    """(organ, rank, case, Dice) with rank best, median or worst, over the cases that show the organ."""
    pictures = []
    for organ in ORDER:
        rows = [row for row in rows_of(result, evaluation) if row["organ"] == organ and row["truth_ml"] > 0]
        rows.sort(key=lambda row: (-row["dice"], row["case"]))
        if rows:
            places = {"best": 0, "median": len(rows) // 2, "worst": len(rows) - 1}
            pictures += [(organ, rank, rows[i]["case"], rows[i]["dice"]) for rank, i in places.items()]
    return pictures


def write_gallery(
    folder: Path, result: Mapping[str, Any], evaluation: str, *, labels: Path, tests: Sequence[Test]
) -> list[Path]:
    """Write ORGAN_RANK.png into `folder`: the organ found (above) and true (below) in three planes.

    Args:
        folder: where to write.
        result: the run whose scores decide which cases are shown.
        evaluation: which of its evaluations.
        labels: the run's label maps, labels_EVALUATION.npz.
        tests: its test cases.

    Raises:
        InputError: the label maps are not on this computer.
    """
    if not labels.exists():
        raise InputError(
            f"{labels}: expected the label maps of {result['name']}, found none.",
            hint="They stay on the computer that ran it; leave out --pictures, or run the row here.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    by_name, written = {test.name: test for test in tests}, []
    with np.load(labels) as found:
        for organ, rank, name, dice in chosen_cases(result, evaluation):
            value, test = ORGANS[organ].value, by_name[name]
            title = f"{ORGANS[organ].title}, {rank} test case: Dice {dice:.2f} ({name})"
            shown = [np.where(labels == value, value, 0).astype(np.uint8) for labels in (found[name], test.truth)]
            written.append(folder / f"{organ}_{rank}.png")
            with replacing(written[-1]) as temporary:
                temporary.write_bytes(organ_planes(ShownCase(name, test.ct(), *shown), title=title, dpi=_DPI))
    return written
