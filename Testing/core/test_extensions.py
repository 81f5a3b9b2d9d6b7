"""Sites that overlap, leave or come late in an experiment: what is trained, what stays, what the table says."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_btcv18 import write_btcv18

from segviz_core.errors import Cancelled, InputError
from segviz_core.experiments.datasets import load_data
from segviz_core.experiments.experiment import run_all, run_one
from segviz_core.experiments.extension_table import extension_table
from segviz_core.experiments.extensions import LATE
from segviz_core.experiments.plan import CONFIGS, plans_of, read_plan
from segviz_core.experiments.results import read_results, rows_of
from segviz_core.experiments.summaries import CONTROLS
from segviz_core.experiments.table import write_table
from segviz_core.federation.state import StudyState
from segviz_core.federation.study import Study
from segviz_core.federation.weights import initial_head
from segviz_core.network import NetworkConfig

PHANTOMS = """
profile = "smoke"
repeats = [0]
[setup]
watch = 0
[[run]]
row = "segviz+"
nodes = 2
[[run]]
row = "segviz+"
nodes = 2
variant = "overlap"
extension = { annotates = { spleen = ["liver", "spleen"] } }
[[run]]
row = "segviz+"
nodes = 2
variant = "leaving"
options = { steps_per_round = 1 }
extension = { leaves = "spleen", after = 0.5 }
"""

REAL = """
profile = "btcv18"
repeats = ["A"]
[data]
kind = "btcv18"
folder = "$SEGVIZ_BTCV18"
[setup]
contract = { spacing_mm = [10.0, 10.0, 10.0], window_hu = [-125, 275] }
network = { channels = [4, 8, 16], strides = [2, 2], num_res_units = 1 }
patch_size = [16, 16, 16]
batch_size = 2
learning_rate = 1e-3
steps_per_site = 4
steps_per_round = 2
recal_steps = 0
watch = 0
[[run]]
row = "segviz+"
[[run]]
row = "segviz+"
variant = "late-aorta"
options = { new_head_steps = 4 }
extension = { joins = "aorta", cases_of = "pancreas" }
[[run]]
row = "segviz+"
nodes = 3
[[run]]
row = "segviz+"
nodes = 3
variant = "late-kidneys"
options = { new_head_steps = 4 }
extension = { joins = "kidneys", cases_of = "kidneys" }
"""


def nothing(*_: object) -> None:
    """Progress and results that nobody watches."""


def plan(folder: Path, text: str):
    (folder / "plan.toml").write_text(text)
    return read_plan(folder / "plan.toml")


def finish(runs, tmp_path_factory):
    """(results of a profile, its runs' folder) after all `runs`."""
    results, folder = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("runs")
    run_all(runs, results, folder=folder, on_progress=nothing, on_result=nothing)
    return results / runs[0].profile, folder / runs[0].profile


def by_variant(results: Path) -> dict[str, dict]:
    return {f"{result['nodes']}{result['variant']}": result for result in read_results(results)}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return finish(plan(tmp_path_factory.mktemp("plan"), PHANTOMS), tmp_path_factory)


@pytest.fixture(scope="module")
def real_plan(tmp_path_factory):
    """Four sites of two CTs, one of them in the fold's training part, with an aorta in every label."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGVIZ_BTCV18", str(write_btcv18(tmp_path_factory.mktemp("btcv18"))))
        yield plan(tmp_path_factory.mktemp("plan"), REAL)


@pytest.fixture(scope="module")
def real(real_plan, tmp_path_factory):
    return finish(real_plan, tmp_path_factory)


# -- overlap


def test_site_of_two_organs_trains_both_heads_beside_the_site_that_has_one_of_them(phantoms) -> None:
    results, runs = phantoms
    result = by_variant(results)["2overlap"]
    assert list(result["scores"]) == ["assembled"]
    assert [row["organ"] for row in rows_of(result, "assembled")] == ["liver", "spleen"]
    members = {m.site: m.organs for m in Study(runs / result["name"] / "study").state.members.values()}
    assert members == {"liver": ("liver",), "spleen": ("liver", "spleen")}
    assert result["extension"] == {"annotates": {"spleen": ["liver", "spleen"]}}


def test_overlapping_labels_belong_to_the_same_cts(phantoms, tmp_path) -> None:
    _, runs = phantoms
    plain, overlap, _ = plan(tmp_path, PHANTOMS)
    one, two = (load_data(run, runs / "data", on_progress=nothing) for run in (plain, overlap))
    for a, b in zip(one.sites["spleen"].training_cases, two.sites["spleen"].training_cases, strict=True):
        assert (a.name, set(a.masks), set(b.masks)) == (b.name, {"spleen"}, {"liver", "spleen"})
        np.testing.assert_array_equal(a.voxels, b.voxels)
        np.testing.assert_array_equal(a.masks["spleen"], b.masks["spleen"])


# -- a site that leaves


def test_site_that_leaves_half_way_is_asked_no_more_and_its_head_stays_as_it_was(phantoms) -> None:
    results, runs = phantoms
    result = by_variant(results)["2leaving"]
    study = Study(runs / result["name"] / "study")
    shared = [row for row in study.history() if row["stage"] == "train"]
    assert [set(row["sites"]) for row in shared] == [{"liver", "spleen"}, {"liver"}]
    assert result["frozen"] == {"representation": False, "spleen": True}
    assert {row["organ"] for row in rows_of(result, "assembled")} == {"liver", "spleen"}


def test_run_that_is_killed_when_the_site_leaves_goes_on_to_the_same_weights(phantoms, tmp_path) -> None:
    _, runs = phantoms
    run = plan(tmp_path, PHANTOMS)[2]

    def kill(stage: str, done: int, total: int) -> None:
        if run.name in stage and done == 3 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            raise Cancelled

    with pytest.raises(Cancelled):
        run_one(run, tmp_path, runs / "data", on_progress=kill)
    (tmp_path / "study" / "sites.json").unlink()  # as if the kill had come a moment earlier
    run_one(run, tmp_path, runs / "data", on_progress=kill)
    one, other = (StudyState.load(w / "study" / "checkpoint.safetensors") for w in (tmp_path, runs / run.name))
    for key, array in one.representation.items():
        np.testing.assert_array_equal(array, other.representation[key])


# -- a late joiner


def test_organ_that_segviz_does_not_know_is_trained_and_scored_after_the_end(real) -> None:
    results, _ = real
    result = by_variant(results)["4late-aorta"]
    organs = ["liver", "spleen", "pancreas", "kidneys", "aorta"]
    assert [row["organ"] for row in rows_of(result, "assembled")] == organs * 4
    assert all(row["truth_ml"] > 0 for row in rows_of(result, "assembled"))
    assert result["cases"] == {LATE: {"training": 1, "validation": 0}}
    assert result["study"]["new_head_steps"] == 4
    assert result["flops"] > 0
    assert result["bytes_per_site"] > 0


def test_late_organ_leaves_the_representation_and_the_other_heads_bit_for_bit(real) -> None:
    results, runs = real
    result = by_variant(results)["4late-aorta"]
    assert result["frozen"] == dict.fromkeys(["representation", "liver", "spleen", "pancreas", "kidneys"], True)
    before = Study(runs / "segviz+_4_foldA" / "study").state
    after = Study(runs / "segviz+_4_foldA_late-aorta" / "study").state
    assert set(after.heads) - set(before.heads) == {"aorta"}
    for key, array in before.representation.items():
        np.testing.assert_array_equal(array, after.representation[key])
    seeded = initial_head(NetworkConfig([4, 8, 16], [2, 2], 1), seed=0, organ="aorta").state_dict()["up.weight"]
    assert not np.array_equal(after.heads["aorta"]["up.weight"], seeded.numpy())


def test_new_organ_has_the_first_free_value_in_the_label_maps(real) -> None:
    _, runs = real
    with np.load(runs / "segviz+_4_foldA_late-aorta" / "labels_assembled.npz") as labels:
        found = set(np.unique(np.concatenate([labels[case].ravel() for case in labels])))
    assert found <= {0, 1, 2, 3, 4, 7}


def test_newcomer_reads_the_new_organ_alone_and_of_training_cases_only(real_plan, tmp_path) -> None:
    data = load_data(real_plan[1], tmp_path, on_progress=nothing)
    assert set(data.sites) == {LATE}
    (case,) = data.sites[LATE].training_cases
    assert set(case.masks) == {"aorta"}
    assert case.name not in {test.name for test in data.tests}
    assert {value for test in data.tests for value in np.unique(test.truth)} == {0, 1, 2, 3, 4, 7}


def test_late_joiner_without_the_finished_study_says_which_run_it_needs(real_plan, tmp_path) -> None:
    with pytest.raises(InputError, match=r"late-aorta: expected the finished study of segviz\+_4_foldA in .*, found n"):
        run_one(real_plan[1], tmp_path, tmp_path, on_progress=nothing)


def test_late_joiner_with_another_network_is_refused(real, real_plan, tmp_path) -> None:
    run, work = real_plan[1], tmp_path / "late"
    (tmp_path / run.plain.name).symlink_to(real[1] / run.plain.name)
    work.mkdir()
    run = replace(run, setup=replace(run.setup, network={**run.setup.network, "head_stages": 2}))
    with pytest.raises(InputError, match=r"late-aorta: expected the network of segviz\+_4_foldA, found another"):
        run_one(run, work, tmp_path, on_progress=nothing)


def test_late_joiner_may_change_what_newcomers_get_and_nothing_that_lies_behind(real_plan, tmp_path) -> None:
    run = replace(real_plan[1], options={"rounds": 4})
    with pytest.raises(InputError, match="expected options of new_head_steps, new_head_learning_rate, found rounds"):
        run_one(run, tmp_path, tmp_path, on_progress=nothing)


def test_late_joiner_of_a_variant_that_is_killed_while_it_trains_gets_the_same_head(real, real_plan, tmp_path) -> None:
    results, runs = real
    plain, run, work = real_plan[0], real_plan[1], tmp_path / "late"
    run = replace(run, extension=replace(run.extension, of="one-stage-heads"))
    (tmp_path / f"{plain.name}_one-stage-heads").symlink_to(runs / plain.name)
    work.mkdir()

    def kill(stage: str, done: int, total: int) -> None:
        if run.name in stage and done == 2 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            raise Cancelled

    with pytest.raises(Cancelled):
        run_one(run, work, tmp_path, on_progress=kill)
    result = json.loads(json.dumps(run_one(run, work, tmp_path, on_progress=kill)))
    assert result["scores"] == by_variant(results)["4late-aorta"]["scores"]


# -- the table


def test_extensions_stand_beside_the_undisturbed_run_and_in_no_other_table(real) -> None:
    folder = write_table(real[0])
    read = {name: json.loads((folder / f"{name}.json").read_text()) for name in ("table", "ablation", "extensions")}
    aorta, kidneys = read["extensions"]
    assert [row["extension"] for row in read["extensions"]] == ["late-aorta", "late-kidneys"]
    assert set(aorta["dice"]) == {"liver", "spleen", "pancreas", "kidneys", "aorta", "mean"}
    assert aorta["beside_nodes"] == kidneys["beside_nodes"] == 4  # of the late kidneys: the run where they were there
    plain = next(e for e in read["table"] if (e["nodes"], e["evaluation"]) == (4, "assembled"))
    assert aorta["beside"] == pytest.approx(plain["dice"], abs=2e-4)
    assert (aorta["repeat"], aorta["row"], aorta["evaluation"], aorta["joins"]) == (
        "A",
        "segviz+",
        "assembled",
        "aorta",
    )
    assert all(aorta["frozen"].values())
    assert "late" not in json.dumps([read["table"], read["ablation"]])
    for name in ("table.md", "table.html"):
        text = (folder / name).read_text(encoding="utf-8")
        assert "Extensions" in text
        assert "segviz+, late-aorta, assembled" in text


def test_mean_is_set_beside_a_mean_over_the_same_organs_only(real, tmp_path) -> None:
    (tmp_path / "runs").mkdir()
    for name in ("segviz+_3_foldA", "segviz+_3_foldA_late-kidneys"):
        shutil.copy(real[0] / "runs" / f"{name}.json", tmp_path / "runs")
    (row,) = json.loads((write_table(tmp_path) / "extensions.json").read_text())
    assert row["beside_nodes"] == 3
    _, ((_, _, _, *cells),) = extension_table([row])
    assert ["(" in cell for cell in cells] == [True, True, True, False, False]


def test_table_without_extensions_has_no_section_for_them(phantoms, tmp_path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.json").write_text((phantoms[0] / "runs" / "segviz+_2_seed0.json").read_text())
    folder = write_table(tmp_path)
    assert json.loads((folder / "extensions.json").read_text()) == []
    assert "Extensions" not in (folder / "table.html").read_text(encoding="utf-8")


# -- experiment files


@pytest.mark.parametrize(
    "extension, words",
    [
        ('{ joins = "aorta", cases = "liver" }', "unknown name cases in an extension"),
        ('{ leaves = "liver", after = 0.5, joins = "aorta" }', "expected one of annotates, leaves and joins"),
        ('{ leaves = "kidneys", after = 0.5 }', "leaves: expected a site and 0 < after < 1, found kidneys, 0.5"),
        ('{ leaves = "liver" }', r"leaves: .*, found liver, 0.0"),
        ('{ joins = "liver", cases_of = "liver" }', "joins: expected an organ that no site has"),
        ('{ joins = "aorta" }', "joins: .* a site in cases_of, found aorta, none"),
        ('{ leaves = "liver", after = 0.5, of = "one-stage-heads" }', "of: expected it beside joins, found of = one-s"),
        ('{ annotates = { spleen = ["liver"] } }', "annotates: expected spleen and organs of other sites, found liver"),
    ],
)
def test_a_mistake_in_an_extension_is_named(tmp_path, extension: str, words: str) -> None:
    text = PHANTOMS.replace('{ leaves = "spleen", after = 0.5 }', extension)
    with pytest.raises(InputError, match=words):
        plan(tmp_path, text)


@pytest.mark.parametrize("old, new", [('variant = "overlap"\n', ""), ('row = "segviz+"', 'row = "segviz-fedavg"')])
def test_an_extension_needs_a_name_and_the_row_that_has_experts(tmp_path, old: str, new: str) -> None:
    with pytest.raises(InputError, match=r"an extension needs the row segviz\+ and a variant that names it"):
        plan(tmp_path, PHANTOMS.replace(old, new))


@pytest.mark.parametrize("profile", ["small", "btcv18"])
def test_every_extension_differs_from_a_plain_run_of_its_profile_in_nothing_else(monkeypatch, profile) -> None:
    monkeypatch.setenv("SEGVIZ_BTCV18", "/data")
    runs = [run for path in plans_of(profile) for run in read_plan(path)]
    extended = [run for run in runs if run.extension.to_dict()]
    assert {run.variant for run in extended} >= {"overlap", "leaving", "late-kidneys"}
    for run in extended:  # those that train everything anew stand beside whichever control differs least
        controls = [run.plain.variant] if run.extension.joins else CONTROLS
        assert any(replace(run.plain, variant=variant) in runs for variant in controls), run.name


def test_extensions_of_btcv18_are_in_a_file_that_all_finds() -> None:
    assert CONFIGS / "btcv18-extensions.toml" in plans_of("btcv18")
