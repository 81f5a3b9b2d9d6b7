import json
from pathlib import Path

import pytest
import torch

from segviz_core.experiments.acceptance import accept, objections
from segviz_core.experiments.profiles import PROFILES

GOOD = {"liver": 0.91, "spleen": 0.75, "pancreas": 0.55, "kidneys": 0.80}


def test_phantoms_that_meet_the_criterion_are_accepted() -> None:
    assert objections(GOOD, dict.fromkeys(GOOD, 0.74), dict.fromkeys(GOOD, 0.35)) == []


@pytest.mark.parametrize(
    "single, central, words",
    [
        (GOOD | {"spleen": 0.60}, 0.74, "single spleen: expected Dice from 0.65 to 0.85, found 0.600"),
        (GOOD | {"liver": 0.98}, 0.74, "too easy"),
        (GOOD, 0.44, "by more than 0.1, found 0.090"),
    ],
    ids=["too hard", "too easy", "no harm by partial labels"],
)
def test_each_part_of_the_criterion_is_checked(single: dict[str, float], central: float, words: str) -> None:
    against = objections(single, dict.fromkeys(GOOD, central), dict.fromkeys(GOOD, 0.35))
    assert any(words in sentence for sentence in against)


def test_smoke_phantoms_are_trained_and_judged_from_end_to_end(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    result = accept(tmp_path, PROFILES["smoke"])
    assert set(result["dice"]) == {"single", "central_marginal", "fedavg_naive"}
    assert all(set(dice) == {"mean", "liver", "spleen"} for dice in result["dice"].values())
    assert not result["accepted"]  # 4 steps teach nothing
    assert result["objections"]
    json.dumps(result, allow_nan=False)


def test_recorded_acceptance_is_of_small_and_holds() -> None:
    file = Path(__file__).resolve().parents[2] / "results" / "phantoms" / "acceptance.json"
    recorded = json.loads(file.read_text(encoding="utf-8"))
    for run in recorded["runs"]:
        assert (run["profile"], run["steps_per_site"], run["test_cases"]) == ("small", 240, 16)
        dice = {row: {k: v for k, v in values.items() if k != "mean"} for row, values in run["dice"].items()}
        assert objections(dice["single"], dice["central_marginal"], dice["fedavg_naive"]) == run["objections"]
    assert recorded["accepted"]
