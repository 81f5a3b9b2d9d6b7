"""The study on the server's side, on toy weights (numpy only)."""

import json

import numpy as np
import pytest
from toy_sites import ToySite, step_round, toy_sites, toy_study

from segviz_core.errors import InputError, SegVizError
from segviz_core.experiments.runner import run_study
from segviz_core.federation.guard import Rejected
from segviz_core.federation.packets import Packet
from segviz_core.federation.study import Study


def test_phase_2_starts_from_the_expert_with_most_cases_and_adds_the_mean_update(tmp_path):
    study = toy_study(tmp_path)
    run_study(study, toy_sites(study))
    # south has most cases: expert 10 * 2; three rounds of the mean step (1 + 2 + 6) / 3
    np.testing.assert_allclose(study.state.representation["w"], 20 + 3 * 3.0)
    assert study.finished


def test_only_owners_change_a_head_weighted_by_their_cases(tmp_path):
    study = toy_study(tmp_path)
    run_study(study, toy_sites(study))
    np.testing.assert_allclose(study.state.heads["spleen"]["up.weight"], 2 + 3)
    np.testing.assert_allclose(study.state.heads["liver"]["up.weight"], 1 + 3)  # from north: 3 cases against 1
    assert set(study.state.heads) == {"liver", "spleen", "kidneys"}


def test_head_of_an_absent_site_survives_the_round(tmp_path):
    study = toy_study(tmp_path, mode="segviz-fedavg", rounds=2)
    sites = toy_sites(study)
    step_round(study, sites)
    step_round(study, sites)
    before = study.state.heads["spleen"]["up.weight"].copy()
    step_round(study, {node: site for node, site in sites.items() if node != "22"})
    np.testing.assert_array_equal(study.state.heads["spleen"]["up.weight"], before)
    assert study.stage == "evaluate"


def test_order_of_arrival_does_not_matter(tmp_path):
    results = []
    for name, order in (("a", ["11", "22", "33"]), ("b", ["33", "11", "22"])):
        study = toy_study(tmp_path / name)
        sites = toy_sites(study)
        run_study(study, {node: sites[node] for node in order})
        results.append(study.state.representation["w"])
    np.testing.assert_array_equal(*results)


def test_fedbn_keeps_norm_layers_at_their_sites(tmp_path):
    study = toy_study(tmp_path, mode="segviz-fedbn", rounds=2)
    sites = toy_sites(study)
    run_study(study, sites)
    for site in sites.values():
        last = [request for request in site.requests if request.stage == "train"][-1]
        np.testing.assert_allclose(last.arrays["representation"]["bn.weight"], 2)  # its own 1 + 1, nobody's mean
    assert set(study.state.norms) == {"north", "south", "west"}


def test_local_statistics_stay_at_their_sites_while_parameters_are_shared(tmp_path):
    study = toy_study(tmp_path, mode="segviz-fedavg", rounds=2, bn_stats="local")
    sites = toy_sites(study)
    for number in range(3):
        step_round(study, sites if number != 1 else {node: site for node, site in sites.items() if node != "22"})
    received = {n: [q for q in s.requests if q.stage == "train"][-1].arrays["representation"] for n, s in sites.items()}
    np.testing.assert_array_equal(received["11"]["bn.weight"], received["22"]["bn.weight"])
    np.testing.assert_allclose(received["11"]["bn.running_mean"], 1.0)  # what it sent itself after the first round
    np.testing.assert_array_equal(study.state.norms["north"]["bn.running_mean"], [2.0, 2.0])


def test_experts_go_once_and_only_to_sites_that_lack_their_organs(tmp_path):
    study = toy_study(tmp_path)
    sites = toy_sites(study)
    run_study(study, sites)
    for node, organs in {"11": {"spleen", "kidneys"}, "22": {"liver", "kidneys"}, "33": {"spleen"}}.items():
        (label,) = [request for request in sites[node].requests if request.stage == "label"]
        assert {name.split("/")[-1] for name in label.arrays if "/head/" in name} == organs


def test_killed_server_resumes_after_the_last_finished_round_with_the_same_result(tmp_path):
    straight = toy_study(tmp_path / "straight")
    run_study(straight, toy_sites(straight))
    study = toy_study(tmp_path / "killed")
    sites = toy_sites(study)
    numbers = []
    while not study.finished:
        list(study.requests(list(sites)))  # a kill here loses the requests, not the round
        study = Study(tmp_path / "killed")
        numbers.append(step_round(study, sites)["round"])
    assert numbers == list(range(1, len(study.rounds) + 1))
    np.testing.assert_array_equal(study.state.representation["w"], straight.state.representation["w"])


def test_rejected_site_changes_nothing_and_is_named(tmp_path):
    with_it, without = (
        toy_study(tmp_path / "with", mode="segviz-fedavg"),
        toy_study(tmp_path / "without", mode="segviz-fedavg"),
    )
    sites = toy_sites(with_it)
    sites["44"] = ToySite("hostile", "pancreas", step=float("nan"), contract=with_it.settings.contract.hash)
    rows = []
    run_study(with_it, sites, on_round=rows.append)
    run_study(without, toy_sites(without))
    np.testing.assert_allclose(with_it.state.representation["w"], without.state.representation["w"], atol=1e-6)
    assert all("NaN" in row["rejected"]["hostile"] for row in rows if row["stage"] == "train")


def test_outlier_update_is_left_out_of_the_mean(tmp_path):
    study = toy_study(tmp_path, mode="segviz-fedavg", rounds=1)
    sites = toy_sites(study)
    sites["44"] = ToySite("loud", "pancreas", step=3000.0, contract=study.settings.contract.hash)
    rows = []
    run_study(study, sites, on_round=rows.append)
    np.testing.assert_allclose(study.state.representation["w"], 3.0)
    assert "10 times the median" in rows[1]["rejected"]["loud"]
    assert "pancreas" not in study.state.heads


def test_required_round_waits_for_every_member_and_then_says_who_is_missing(tmp_path):
    study = toy_study(tmp_path)
    sites = toy_sites(study)
    step_round(study, sites)
    online = {node: site for node, site in sites.items() if node != "22"}
    assert study.missing(list(online)) == ["south"]
    step_round(study, online)
    step_round(study, online)
    with pytest.raises(SegVizError, match=r"Round 2 \(train-local\) had 3 attempts .* start the study again"):
        step_round(study, online)
    assert step_round(Study(tmp_path), sites)["complete"]


def test_repeated_round_asks_only_who_has_not_replied(tmp_path):
    study = toy_study(tmp_path)
    sites = toy_sites(study)
    step_round(study, sites)
    step_round(study, {node: site for node, site in sites.items() if node != "22"})
    assert [node for node, _ in study.requests(list(sites))] == ["22"]


def test_study_without_enough_sites_says_how_many_it_lacks(tmp_path):
    assert toy_study(tmp_path, min_sites=3).missing(["11"]) == ["2 more sites"]


def test_finished_model_is_delivered_to_whoever_is_online_and_waits_for_nobody(tmp_path):
    study = toy_study(tmp_path, mode="segviz-fedavg", rounds=1)
    sites = toy_sites(study)
    for _ in range(3):
        step_round(study, sites)
    assert study.stage == "deliver"
    assert study.missing([]) == []
    assert step_round(study, {})["complete"]
    assert study.finished


def test_site_is_held_to_the_name_and_organs_it_was_registered_with(tmp_path):
    study = toy_study(tmp_path)
    (tmp_path / "sites.json").write_text(
        json.dumps({"11": {"site": "north", "allow": ["spleen"]}, "22": {"site": "east", "allow": []}})
    )
    sites = toy_sites(study)
    row = step_round(study, sites)
    assert row["rejected"]["north"] == "this site may annotate spleen, but declared liver."
    assert row["rejected"]["east"] == "expected the site name 'east', found 'south'."


@pytest.mark.parametrize("name, words", [("north", "taken by another site"), ("../x", "letters, digits")])
def test_site_name_that_is_taken_or_no_name_is_refused(tmp_path, name, words):
    study = toy_study(tmp_path)
    sites = toy_sites(study)
    sites["22"].site = name
    assert words in step_round(study, sites)["rejected"]["node 22"]


def test_reply_that_nobody_asked_for_is_refused(tmp_path):
    study = toy_study(tmp_path)
    with pytest.raises(Rejected, match="nobody asked for"):
        study.accept("99", Packet({"stage": "declare", "round": 1}))


def test_site_cannot_send_a_head_it_did_not_declare(tmp_path):
    study = toy_study(tmp_path, mode="segviz-fedavg")
    sites = toy_sites(study)
    step_round(study, sites)
    sites["11"].organs = ["liver", "spleen"]
    assert "unexpected arrays head/spleen" in step_round(study, sites)["rejected"]["north"]


def test_metric_of_one_owner_is_not_divided_by_all_sites(tmp_path):
    study = toy_study(tmp_path)
    run_study(study, toy_sites(study))
    assert study.state.dice == {"liver": 0.5, "spleen": 0.5, "kidneys": 0.5}


def test_calibration_of_several_owners_is_their_weighted_mean(tmp_path):
    study = toy_study(tmp_path)
    run_study(study, toy_sites(study))
    assert study.state.calibration["liver"] == pytest.approx((2.0, 0.4))


def test_server_momentum_adds_up(tmp_path):
    study = toy_study(tmp_path, mode="segviz-fedavg", rounds=2, server_momentum=0.5)
    run_study(study, toy_sites(study))
    np.testing.assert_allclose(study.state.representation["w"], 3.0 + (0.5 * 3.0 + 3.0))


def test_history_records_bytes_seconds_and_metrics_and_survives_a_cut_line(tmp_path):
    study = toy_study(tmp_path)
    run_study(study, toy_sites(study))
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"round": 99, "sta')
    rows = study.history()
    assert [row["round"] for row in rows] == list(range(1, len(study.rounds) + 1))
    train = next(row for row in rows if row["stage"] == "train")
    assert train["sites"]["north"]["bytes_received"] > 0
    assert train["sites"]["north"]["metrics"]["loss"] == 1.0


@pytest.mark.parametrize("left", [0, 25])
def test_row_that_a_kill_kept_out_of_the_history_is_written_by_the_next_server(tmp_path, left):
    study = toy_study(tmp_path)
    run_study(study, toy_sites(study))
    path = tmp_path / "history.jsonl"
    whole, lines = study.history(), path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) + lines[-1][:left])
    assert len(study.history()) == len(whole) - 1
    for _ in range(2):
        Study(tmp_path).refresh()
        assert Study(tmp_path).history() == whole


def test_damaged_checkpoint_is_named_with_a_way_out(tmp_path):
    study = toy_study(tmp_path)
    run_study(study, toy_sites(study))
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=r"damaged file: .*Delete it to begin the study again"):
        Study(tmp_path)


def test_folder_that_is_no_study_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match=r"Expected the study file study.json .* coordinator create"):
        Study(tmp_path)
