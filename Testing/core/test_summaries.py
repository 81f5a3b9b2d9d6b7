from typing import Any

import pytest

from segviz_core.errors import InputError
from segviz_core.experiments.comparisons import comparisons, minus_plain
from segviz_core.experiments.cost_table import cost_table, explained_costs
from segviz_core.experiments.summaries import DETAILS, ablation_entries, table_entries

COLUMNS = ["case", "organ", "dice", "truth_ml", *DETAILS]


def result(row: str, repeat: int | str, dice: list[float], **setup: Any) -> dict[str, Any]:
    """What `experiment` writes, as far as Dice of the liver goes; one value per case."""
    evaluation = "personal" if row == "single" else "assembled"
    return {
        "name": f"{row}_{repeat}",
        "row": row,
        "nodes": 1 if row == "single" else 4,
        "variant": "",
        "repeat": repeat,
        "setup": {"steps_per_site": 10, "threads": 1, "network": {"channels": [4, 8, 16]}, **setup},
        "study": {"name": f"{row}_{repeat}", "seed": repeat} if row.startswith("segviz") else None,
        "columns": COLUMNS,
        "scores": {
            evaluation: [[f"case{i}", "liver", value, 900.0, *[0.5] * len(DETAILS)] for i, value in enumerate(dice)]
        },
        "bytes_per_site": 0,
        "flops": 2e12,
        "seconds": {"training": 120.0, "training_cpu": 60.0},
        "machine": {"device": "1 CPU thread(s)"},
    }


def test_repeats_that_were_not_trained_alike_are_not_averaged() -> None:
    runs = [result("fedavg-naive", 0, [0.5]), result("fedavg-naive", 1, [0.5], shared_learning_rate=0.002)]
    with pytest.raises(InputError, match="fedavg-naive_0 and fedavg-naive_1: expected the same shared_learning_rate"):
        table_entries(runs)
    # No step of a network that is trained alone is averaged; threads change no result.
    runs = [result("single", 0, [0.5]), result("single", 1, [0.7], shared_learning_rate=0.002, threads=2)]
    assert table_entries(runs)[0].to_dict()["dice"]["mean"] == pytest.approx(0.6)


def test_settings_of_teachers_may_differ_where_nobody_teaches() -> None:
    def runs(row: str) -> list[dict[str, Any]]:
        found = [result(row, repeat, [0.5]) for repeat in (0, 1)]
        found[1]["study"]["teacher_norm"] = 0.75
        return found

    assert table_entries(runs("segviz-fedavg"))[0].repeats == [0, 1]
    with pytest.raises(InputError, match=r"same teacher_norm in all repeats of a row, found None and 0\.75"):
        table_entries(runs("segviz+"))


def test_minutes_on_a_processor_and_on_a_card_are_not_mixed() -> None:
    runs = [result("single", repeat, [0.5]) for repeat in (0, 1)]
    runs[1] |= {"seconds": {"training": 90.0, "training_cpu": 85.0}, "machine": {"device": "NVIDIA H200"}}
    (both,) = table_entries(runs)
    (plain,) = table_entries(runs[:1])
    costs = ("Minutes on one core", "Minutes on one card")
    heads, ((*_, core, card, _), (*_, alone, nothing, _)) = cost_table([both, plain])
    assert (*costs, core, card, alone, nothing) == (*heads[-3:-1], "1.0", "1.5", "1.0", "-")
    assert explained_costs([both]).endswith("by the clock on one card (NVIDIA H200).")
    runs[1]["machine"]["runs_at_once"] = 16
    assert explained_costs([both]).endswith("(NVIDIA H200, 16 runs at once).")
    assert (both.marked_repeats, plain.marked_repeats) == ("0, 1°", "0")
    assert "card" not in explained_costs([plain])


@pytest.mark.parametrize("repeats", [(0, 1, 2), ("A", "B", "C")])
def test_seeds_and_folds_that_disagree_widen_the_interval(repeats) -> None:
    def width(*shifts: float) -> float:
        ours = [result("segviz+", r, [0.6 + s, 0.61 + s]) for r, s in zip(repeats, shifts, strict=True)]
        others = [result("single", repeat, [0.5, 0.5]) for repeat in repeats]
        mean = next(one for one in comparisons(table_entries([*ours, *others])) if one.organ == "mean")
        assert (mean.difference.pairs, mean.difference.mean) == (6, pytest.approx(0.105))
        return mean.difference.high - mean.difference.low

    assert width(0.0, 0.0, 0.0) < 0.011
    assert width(-0.2, 0.0, 0.2) > 0.35


def test_a_variant_is_held_to_the_same_variant_of_other_rows() -> None:
    plain = [result("segviz+", 0, [0.6]), result("single", 0, [0.5])]
    other = [
        {**result("segviz+", 4, [0.7]), "variant": "other-seed"},
        {**result("single", 4, [0.4]), "variant": "other-seed"},
    ]
    entries = [*table_entries([*plain, *other]), *ablation_entries([*plain, *other])]
    means = {(one.variant, one.other): one.difference.mean for one in comparisons(entries) if one.organ == "mean"}
    assert means == {
        ("", "single, personal"): pytest.approx(0.1),
        ("other-seed", "single, other-seed, personal"): pytest.approx(0.3),
    }


def test_a_variant_is_held_to_the_row_it_changes_over_the_repeats_and_steps_that_both_have() -> None:
    plain = [result("segviz+", 0, [0.6, 0.7]), result("segviz+", 1, [0.9, 0.9])]
    changed = {**result("segviz+", 0, [0.7, 0.7]), "variant": "changed"}
    shorter = {**result("segviz+", 0, [0.1, 0.1], steps_per_site=5), "variant": "shorter"}
    of_others = {**result("condist", 0, [0.1, 0.1]), "variant": "changed"}
    entries = table_entries(plain)
    found = {
        (entry.mode, entry.variant): minus_plain(entry, entries)
        for entry in ablation_entries([changed, shorter, of_others])
    }
    assert found.pop(("segviz+", "changed")).mean == pytest.approx(0.05)
    assert set(found.values()) == {None}


def test_a_variant_trained_on_a_card_is_held_to_the_row_on_a_card() -> None:
    def on_card(dice: float, **values: Any) -> dict[str, Any]:
        return {**result("segviz+", 0, [dice]), "machine": {"device": "NVIDIA H200"}, **values}

    plain, again = result("segviz+", 0, [0.6]), on_card(0.5, variant="one-gpu")
    entries = [*table_entries([plain]), *ablation_entries([again])]
    changed = {
        variant: minus_plain(entry, entries)
        for variant, run in {"card": on_card(0.58), "processor": result("segviz+", 0, [0.58])}.items()
        for entry in ablation_entries([{**run, "variant": variant}])
    }
    assert {name: round(d.mean, 3) for name, d in changed.items() if d} == {"card": 0.08, "processor": -0.02}
    experts = {**plain, "scores": {"experts": plain["scores"]["assembled"]}}
    (of_the_row,) = ablation_entries([experts])
    assert minus_plain(of_the_row, [*entries, of_the_row]) is None
    (itself,) = ablation_entries([again])
    assert minus_plain(itself, entries).mean == pytest.approx(-0.1)
    assert minus_plain(entries[1], entries[1:]) is None


def test_a_variant_with_heads_of_one_stage_is_held_to_the_row_with_heads_of_one_stage() -> None:
    def two_stages(dice: float) -> dict[str, Any]:
        return result("segviz+", 0, [dice], network={"channels": [4, 8, 16], "head_stages": 2})

    row, one_stage = two_stages(0.7), {**result("segviz+", 0, [0.6]), "variant": "one-stage-heads"}
    entries = [*table_entries([row]), *ablation_entries([one_stage])]
    changed = {
        variant: minus_plain(entry, entries)
        for variant, run in {"one": result("segviz+", 0, [0.5]), "two": two_stages(0.5)}.items()
        for entry in ablation_entries([{**run, "variant": variant}])
    }
    assert {name: round(d.mean, 3) for name, d in changed.items() if d} == {"one": -0.1, "two": -0.2}
    (itself,) = ablation_entries([one_stage])
    assert minus_plain(itself, entries).mean == pytest.approx(-0.1)


def test_a_variant_with_heads_of_two_stages_is_held_to_such_a_variant_of_a_row_with_one() -> None:
    def two_stages(dice: float, variant: str) -> dict[str, Any]:
        network = {"channels": [4, 8, 16], "head_stages": 2}
        return {**result("segviz-fedavg", 0, [dice], network=network), "variant": variant}

    deep, changed = two_stages(0.7, "two-stage-heads"), two_stages(0.75, "two-stage-heads-changed")
    entries = [*table_entries([result("segviz-fedavg", 0, [0.5])]), *ablation_entries([deep, changed])]
    found = {entry.variant: minus_plain(entry, entries) for entry in entries[1:]}
    assert {name: round(d.mean, 3) for name, d in found.items() if d} == {
        "two-stage-heads": 0.2,
        "two-stage-heads-changed": 0.05,
    }
