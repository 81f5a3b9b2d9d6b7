"""Every row of the table on the smoke phantoms: trained, scored, resumed after a kill, and put into a table."""

import base64
import json
from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest

from segviz_core import training, tuning
from segviz_core.__main__ import main
from segviz_core.errors import Cancelled, InputError
from segviz_core.experiments import baselines, checkpoint
from segviz_core.experiments.experiment import run_all, run_one
from segviz_core.experiments.gallery import chosen_cases
from segviz_core.experiments.plan import CONFIGS, ROWS, read_plan
from segviz_core.experiments.results import read_results, rows_of
from segviz_core.experiments.segviz_rows import study_settings
from segviz_core.experiments.table import write_table
from segviz_core.training import cosine


def nothing(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder of results, folder of runs, the lines that were said) after all rows of the smoke profile."""
    results, runs = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("runs")
    lines: list[str] = []
    run_all(read_plan(CONFIGS / "smoke.toml"), results, folder=runs, on_progress=nothing, on_result=lines.append)
    return results, runs, lines


@pytest.fixture(scope="module")
def table(finished):
    folder = write_table(finished[0] / "smoke")
    return json.loads((folder / "table.json").read_text(encoding="utf-8"))


def test_every_row_has_a_result_with_its_settings_costs_and_scores(finished) -> None:
    results = read_results(finished[0] / "smoke")
    assert {result["row"] for result in results} == set(ROWS)
    for result in results:
        assert result["setup"]["steps_per_site"] == 4
        assert result["flops"] > 0
        assert (result["bytes_per_site"] > 0) == (not result["row"].startswith(("single", "central")))
        assert {"training", "training_cpu", "evaluation"} <= set(result["seconds"])
        assert {"torch", "monai", "commit"} <= set(result["versions"])
        assert any("dice/mean" in row for row in result["curve"])
        assert all(np.isfinite(v) for row in result["curve"] for k, v in row.items() if k.startswith("loss/"))
        for evaluation in result["scores"]:
            assert [row["organ"] for row in rows_of(result, evaluation)] == ["liver", "spleen"]


def test_selective_rows_have_three_evaluations_the_others_one(finished) -> None:
    for result in read_results(finished[0] / "smoke"):
        expected = {"assembled"}
        if result["row"].startswith("segviz"):
            expected = {"personal", "assembled", "assembled+recal"}
        if result["row"] == "segviz+":
            expected |= {"experts"}
        assert set(result["scores"]) == ({"personal"} if result["row"] == "single" else expected)


def test_rows_train_in_equal_steps_and_move_the_bytes_they_should(finished) -> None:
    by_row = {result["row"]: result for result in read_results(finished[0] / "smoke")}
    assert {result["curve"][-1]["step"] for result in by_row.values()} == {4}
    weights = by_row["fedavg-naive"]["bytes_per_site"] / 4  # two rounds, both ways
    assert by_row["condist"]["bytes_per_site"] == by_row["fedavg-naive"]["bytes_per_site"]
    assert weights < by_row["segviz-fedavg"]["bytes_per_site"] < 12 * weights
    assert by_row["condist"]["flops"] > by_row["fedavg-marginal"]["flops"]


@pytest.mark.parametrize(
    "file", ["smoke", "small", "small-nodes", "small-ablation", "small-fp16", "small-extensions", "small-reruns"]
)
def test_every_variant_of_segviz_plus_makes_the_steps_of_its_table(file) -> None:  # method.md section 8, "Fair"
    runs = [run for run in read_plan(CONFIGS / f"{file}.toml") if run.row == "segviz+"]
    assert runs
    for run in runs:
        assert study_settings(run).planned_steps == run.setup.steps_per_site, run.name


def test_augmentation_and_precision_are_the_same_in_every_row(finished) -> None:  # method.md section 5.9
    results = read_results(finished[0] / "smoke")
    assert len({json.dumps([result["augmentation"], result["machine"]["precision"]]) for result in results}) == 1
    assert results[0]["augmentation"]["contrast"] > 0


@pytest.mark.parametrize("row", ["single", "central-marginal", "fedavg-naive", "condist", "segviz-fedbn", "segviz+"])
def test_only_averaged_steps_take_the_rate_of_averaged_steps(finished, tmp_path, monkeypatch, row) -> None:
    rates = set()

    def recorded(step: int, total: int, learning_rate: float) -> float:
        rates.add(learning_rate)
        return cosine(step, total, learning_rate)

    for module in (training, tuning, baselines):
        monkeypatch.setattr(module, "cosine", recorded)
    run = next(run for run in read_plan(CONFIGS / "smoke.toml") if run.row == row)
    run = replace(run, setup=replace(run.setup, shared_learning_rate=0.007))
    run_one(run, tmp_path, finished[1] / "smoke" / "data", on_progress=nothing)
    alone = run.setup.learning_rate
    averaged = {"fedavg-naive": {0.007}, "condist": {0.007}}  # no step of theirs is made alone, no head tuned
    assert rates == averaged.get(row, {alone, 0.007} if row.startswith("segviz") else {alone})


def test_finished_runs_are_left_alone(finished) -> None:
    results, runs, _ = finished
    plan = read_plan(CONFIGS / "smoke.toml")
    assert run_all(plan, results, folder=runs, on_progress=nothing, on_result=pytest.fail) == []


def test_run_that_needs_a_card_is_left_out_where_there_is_none(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("segviz_core.experiments.experiment.has_card", lambda: False)
    run = read_plan(CONFIGS / "smoke.toml")[0]
    run, lines = replace(run, setup=replace(run.setup, device="cuda")), []
    assert run_all([run], tmp_path, folder=tmp_path, on_progress=nothing, on_result=lines.append) == []
    assert lines == ["single_1_seed0: left out, it needs an NVIDIA graphics card"]


@pytest.mark.parametrize("row", ["single", "condist", "segviz+"])
def test_run_that_is_killed_goes_on_and_gives_the_same_result_bit_by_bit(finished, tmp_path, monkeypatch, row) -> None:
    monkeypatch.setattr(checkpoint, "EVERY_S", 0.0)
    results, runs, _ = finished
    run = next(run for run in read_plan(CONFIGS / "smoke.toml") if run.row == row)
    seen = []

    def cancel_once(stage: str, done: int, total: int) -> None:
        if run.name in stage and 0 < done < total:
            seen.append(done)
            if len(seen) == 1:
                raise Cancelled

    with pytest.raises(Cancelled):
        run_one(run, tmp_path, runs / "smoke" / "data", on_progress=cancel_once)
    result = run_one(run, tmp_path, runs / "smoke" / "data", on_progress=cancel_once)
    expected = json.loads((results / "smoke" / "runs" / f"{run.name}.json").read_text(encoding="utf-8"))
    again = json.loads(json.dumps(result))
    assert again["scores"] == expected["scores"]
    assert [row["step"] for row in again["curve"]] == [row["step"] for row in expected["curve"]]
    for evaluation in expected["scores"]:
        name = f"labels_{evaluation}.npz"
        with np.load(tmp_path / name) as one, np.load(runs / "smoke" / run.name / name) as other:
            assert all(np.array_equal(one[case], other[case]) for case in other)


def test_run_does_not_go_on_from_checkpoints_of_other_settings(tmp_path) -> None:
    run = next(run for run in read_plan(CONFIGS / "smoke.toml") if run.row == "fedavg-marginal")

    def stop(stage: str, done: int, total: int) -> None:
        if run.name in stage and done == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        run_one(run, tmp_path, tmp_path / "data", on_progress=stop)
    longer = replace(run, setup=replace(run.setup, learning_rate=0.5, threads=2))
    with pytest.raises(
        InputError, match=r"fedavg-marginal_2_seed0 was begun with learning_rate 0\.001, expected 0\.5\. Ma"
    ):
        run_one(longer, tmp_path, tmp_path / "data", on_progress=nothing)
    run_one(replace(run, setup=replace(run.setup, threads=2)), tmp_path, tmp_path / "data", on_progress=nothing)


def test_run_that_cannot_be_made_keeps_no_other_from_being_made(tmp_path) -> None:
    plans = {run.row: run for run in read_plan(CONFIGS / "smoke.toml")}
    stale = tmp_path / "smoke" / "central-naive_2_seed0"
    stale.mkdir(parents=True)
    (stale / "settings.json").write_text('{"learning_rate": 0.5}', encoding="utf-8")
    lines: list[str] = []
    with pytest.raises(InputError, match=r"^central-naive_2_seed0 was begun with .* Make it a variant, or delete"):
        run_all(
            [plans["central-naive"], plans["single"]],
            tmp_path,
            folder=tmp_path,
            on_progress=nothing,
            on_result=lines.append,
        )
    assert [line.split(":")[0] for line in lines] == ["central-naive_2_seed0", "single_1_seed0"]
    assert [path.stem for path in (tmp_path / "smoke" / "runs").iterdir()] == ["single_1_seed0"]


@pytest.mark.parametrize("row", ["single", "central-marginal", "segviz-fedbn"])
def test_finished_row_may_be_scored_with_the_norm_statistics_of_each_test_ct(finished, tmp_path, row) -> None:
    run = next(run for run in read_plan(CONFIGS / "smoke.toml") if run.row == row)
    work = tmp_path / run.name
    copytree(finished[1] / "smoke" / run.name, work)  # trained: only the scoring differs
    adapting = replace(run, setup=replace(run.setup, test_norm=0.75))
    (work / "settings.json").unlink()
    result = json.loads(json.dumps(run_one(adapting, work, finished[1] / "smoke" / "data", on_progress=nothing)))
    plain = json.loads((finished[0] / "smoke" / "runs" / f"{run.name}.json").read_text(encoding="utf-8"))
    assert result["setup"] == plain["setup"] | {"test_norm": 0.75}
    scores = result["scores"]
    assert set(scores) == set(plain["scores"])
    assert all(scores[evaluation] != plain["scores"][evaluation] for evaluation in scores)


def test_label_mask_of_the_first_case_loses_the_others_labels(finished, tmp_path) -> None:
    run = next(run for run in read_plan(CONFIGS / "smoke.toml") if run.row == "central-naive")
    wrong = replace(run, variant="bug", options={"label_of": "first case"})
    result = run_one(wrong, tmp_path, finished[1] / "smoke" / "data", on_progress=nothing)
    right = json.loads((finished[0] / "smoke" / "runs" / f"{run.name}.json").read_text(encoding="utf-8"))
    assert result["curve"][-1]["loss"] != right["curve"][-1]["loss"]


def test_table_has_one_entry_per_row_nodes_and_evaluation_in_the_agreed_form(table) -> None:
    assert len({(e["mode"], e["nodes"], e["evaluation"]) for e in table}) == len(table) == 15
    for entry in table:
        assert list(entry) == [
            "row", "nodes", "mode", "evaluation", "seeds", "steps_per_site", "cases", "dice", "sd", "bytes_per_site",
        ]  # fmt: skip
        assert entry["mode"] in ROWS
        assert entry["nodes"] == (1 if entry["mode"] == "single" else 2)
        assert set(entry["dice"]) == set(entry["sd"]) == {"liver", "spleen", "pancreas", "kidneys", "mean"}
        assert entry["dice"]["pancreas"] is None
        assert entry["dice"]["mean"] == pytest.approx((entry["dice"]["liver"] + entry["dice"]["spleen"]) / 2, abs=1e-4)
        assert (entry["seeds"], entry["steps_per_site"], entry["cases"]) == ([0], 4, 1)


def test_published_numbers_stand_in_columns_of_their_own(finished, table) -> None:
    folder = finished[0] / "smoke"
    published = json.loads((folder / "published.json").read_text(encoding="utf-8"))
    assert {row["source"] for row in published} == {"SegViz poster", "arXiv 2301.07074"}
    assert not [entry for entry in table if "poster" in json.dumps(entry)]
    head, _, *rows = (folder / "table.md").read_text(encoding="utf-8").split("\n\n")[3].splitlines()
    assert head.endswith("| SegViz poster | arXiv 2301.07074 |")
    single = next(row for row in rows if row.startswith("| single, personal |"))
    assert ".88±.15 / .79±.17 / .46±.20 / .64±.21" in single.split(" | ")[-2]
    text = (folder / "table.html").read_text(encoding="utf-8")
    assert "phantoms: these numbers say nothing about patients" in text
    picture = (folder / "dice.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert base64.b64encode(picture).decode() in text


def test_experts_are_an_ablation_not_a_row(finished, table) -> None:
    ablation = json.loads((finished[0] / "smoke" / "ablation.json").read_text(encoding="utf-8"))
    assert [entry["row"] for entry in ablation] == ["segviz+, experts"]
    assert "experts" not in {entry["evaluation"] for entry in table}


def test_comparisons_hold_segviz_plus_against_rows_of_the_same_evaluation(finished, table) -> None:
    compared = json.loads((finished[0] / "smoke" / "statistics.json").read_text(encoding="utf-8"))
    against = {(one["evaluation"], one["other"]) for one in compared}
    assert ("assembled", "segviz-fedbn, assembled") in against
    assert ("assembled+recal", "segviz-fedbn, assembled+recal") in against
    assert not [pair for pair in against if "segviz" in pair[1] and "personal" in pair[1]]
    single = next(o for o in compared if o["other"] == "single, personal" and o["organ"] == "mean")
    means = {(e["mode"], e["evaluation"]): e["dice"]["mean"] for e in table}
    assert single["mean"] == pytest.approx(means["segviz+", "assembled"] - means["single", "personal"], abs=2e-4)
    assert all(0 <= one["p"] <= one["p_holm"] <= 1 for one in compared)


def test_commands_list_the_runs_and_draw_best_median_and_worst_case(finished, capsys) -> None:
    results, runs, lines = finished
    assert len(lines) == len(ROWS)
    assert lines[0].startswith("single_1_seed0: Dice personal 0.")
    common = ["--results", str(results), "--folder", str(runs)]
    assert main(["experiment", "--all", "smoke", "--list", *common]) == 0
    assert "done  segviz+_2_seed0" in capsys.readouterr().out
    assert main(["table", "smoke", "--pictures", *common]) == 0
    pictures = {path.stem for path in (results / "smoke" / "pictures").glob("*.png")}
    assert pictures == {f"{organ}_{rank}" for organ in ("liver", "spleen") for rank in ("best", "median", "worst")}
    html = (results / "smoke" / "table.html").read_text(encoding="utf-8")
    assert all(f'src="pictures/{picture}.png"' in html for picture in pictures)


def test_pictures_without_the_label_maps_of_the_run_say_where_these_are(finished, tmp_path, capsys) -> None:
    results, *_ = finished
    elsewhere = ["--results", str(results), "--folder", str(tmp_path)]
    assert main(["table", "smoke", "--pictures", *elsewhere]) == 3
    assert "expected the label maps of segviz+_2_seed0, found none." in capsys.readouterr().err


def test_best_median_and_worst_are_taken_from_cases_that_show_the_organ() -> None:
    rows = [["a", "liver", 0.9, 5], ["b", "liver", 0.5, 5], ["c", "liver", 0.7, 5], ["d", "liver", 0.0, 0]]
    result = {"columns": ["case", "organ", "dice", "truth_ml"], "scores": {"assembled": rows}}
    chosen = chosen_cases(result, "assembled")
    assert chosen == [("liver", "best", "a", 0.9), ("liver", "median", "c", 0.7), ("liver", "worst", "b", 0.5)]
