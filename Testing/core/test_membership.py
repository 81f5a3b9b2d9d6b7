"""Sites that come late, leave, are erased or are slow, on toy weights: who is asked, what becomes of the heads."""

import json

import numpy as np
import pytest
from toy_sites import ToySite, step_round, toy_sites, toy_study, until

from segviz_core.errors import SegVizError
from segviz_core.experiments.runner import run_study
from segviz_core.federation.export import meta_model_of
from segviz_core.federation.study import Study


def newcomer(study: Study, site: str, organs: str, **values) -> ToySite:
    return ToySite(site, organs, contract=study.settings.contract.hash, **{"step": 4.0, **values})


def register(study: Study, sites: dict[str, ToySite], **removed: str) -> None:
    """What the coordinator writes: everybody is registered, some were removed."""
    entries = {node: {"site": site.site, "allow": []} for node, site in sites.items()}
    for node, site in sites.items():
        entries[node] |= {"removed": removed[site.site]} if site.site in removed else {}
    (study.folder / "sites.json").write_text(json.dumps(entries))


def without(sites: dict[str, ToySite], node: str) -> dict[str, ToySite]:
    return {other: site for other, site in sites.items() if other != node}


# -- late


def test_late_joiner_of_phase_1_catches_up_and_sends_an_expert_like_everybody(tmp_path):
    study = toy_study(tmp_path)
    sites = toy_sites(study)
    step_round(study, without(sites, "33"))
    step_round(study, sites)
    assert sites["33"].stages == ["declare", "train-local"]
    until(study, sites, "label")
    assert "kidneys" in study.state.heads


def test_late_joiner_with_a_known_organ_labels_with_the_kept_experts_and_trains_in_the_same_round(tmp_path):
    study = toy_study(tmp_path)
    sites = toy_sites(study)
    until(study, sites, "train")
    before = [len(site.requests) for site in sites.values()]
    late = newcomer(study, "east", "spleen")
    row = step_round(study, sites | {"44": late})
    assert late.stages == ["declare", "label", "train"]
    assert {name for name in late.requests[1].arrays if "/head/" in name} == {
        "expert/0/head/liver",  # north
        "expert/2/head/liver",  # west
        "expert/2/head/kidneys",
    }
    assert [len(site.requests) for site in sites.values()] == [n + 1 for n in before]  # nobody else begins anew
    assert row["sites"]["east"]["metrics"]["loss"] == 1.0
    np.testing.assert_allclose(study.state.representation["w"], 20 + (1 + 2 + 6 + 4) / 4)


def test_site_that_comes_between_phases_has_no_expert_and_nobody_waits_for_it(tmp_path):
    study = toy_study(tmp_path)
    sites = toy_sites(study)
    until(study, sites, "expert")
    late = newcomer(study, "east", "spleen")
    assert step_round(study, sites | {"44": late})["complete"]
    assert late.stages == ["declare"]
    step_round(study, sites | {"44": late})
    assert late.stages == ["declare", "label"]


@pytest.mark.parametrize("mode", ["segviz+", "segviz-fedavg"])
def test_new_organ_trains_its_head_alone_and_then_takes_part(tmp_path, mode):
    study = toy_study(tmp_path, mode=mode)
    sites = toy_sites(study)
    until(study, sites, "train")
    step_round(study, sites)
    late = newcomer(study, "east", "pancreas,liver")
    step_round(study, sites | {"44": late})
    assert late.stages == ["declare", "train-head"]
    assert late.requests[1].settings["organs"] == "pancreas"
    np.testing.assert_allclose(study.state.heads["pancreas"]["up.weight"], 4)
    step_round(study, sites | {"44": late})
    assert late.stages[2:] == (["label", "train"] if mode == "segviz+" else ["train"])
    np.testing.assert_allclose(study.state.heads["pancreas"]["up.weight"], 5)


def test_others_learn_to_protect_the_new_organ_from_the_present_model(tmp_path):
    study = toy_study(tmp_path)
    sites = toy_sites(study)
    until(study, sites, "train")
    step_round(study, sites | {"44": newcomer(study, "east", "pancreas")})
    theta = study.state.representation["w"].copy()
    step_round(study, sites)
    assert sites["11"].stages[-2:] == ["label", "train"]
    label = sites["11"].requests[-2]
    assert [name for name in label.arrays if "/head/" in name] == ["expert/3/head/pancreas"]
    np.testing.assert_array_equal(label.arrays["expert/3/representation"]["w"], theta)
    assert label.settings["organs"] == "kidneys,pancreas,spleen"  # its maps of the others stay
    step_round(study, sites)
    assert sites["11"].stages[-1] == "train"


def test_finished_study_takes_in_a_new_organ_with_no_other_site_online(tmp_path):
    study = toy_study(tmp_path, mode="segviz-fedavg")
    sites = toy_sites(study)
    run_study(study, sites)
    rounds, theta = study.state.finished, study.state.representation["w"].copy()
    spleen = study.state.heads["spleen"]["up.weight"].copy()
    late = {"44": newcomer(study, "east", "pancreas")}
    study = Study(tmp_path)
    run_study(study, late)
    assert late["44"].stages == ["declare", "train-head", "evaluate", "deliver"]
    assert study.finished
    assert study.state.finished == rounds + 4
    np.testing.assert_array_equal(study.state.representation["w"], theta)
    np.testing.assert_array_equal(study.state.heads["spleen"]["up.weight"], spleen)
    assert [organ.name for organ in meta_model_of(study.state, study.settings).organs][-1] == "pancreas"
    assert not study.extend(["44"])


def test_joint_rounds_after_a_new_organ_leave_the_heads_of_absent_owners_frozen_and_protected(tmp_path):
    study = toy_study(tmp_path, newcomer_rounds=2)
    sites = toy_sites(study)
    run_study(study, sites)
    before = {organ: head["up.weight"].copy() for organ, head in study.state.heads.items()}
    online = {"11": sites["11"], "44": newcomer(study, "east", "pancreas")}
    run_study(study, online)
    assert online["44"].stages == ["declare", "train-head", "label", "train", "train", "tune", "evaluate", "deliver"]
    label = online["44"].requests[2]
    assert {name.split("/")[1] for name in label.arrays} == {"3"}  # one teacher: the last meta-model
    assert {name.split("/")[-1] for name in label.arrays if "/head/" in name} == {"liver", "spleen", "kidneys"}
    for organ in ("spleen", "kidneys"):
        np.testing.assert_array_equal(study.state.heads[organ]["up.weight"], before[organ])
    np.testing.assert_allclose(study.state.heads["pancreas"]["up.weight"], 4 + 2)
    np.testing.assert_allclose(study.state.heads["liver"]["up.weight"], before["liver"] + 2)


def test_finished_study_stays_finished_when_the_newcomer_is_refused(tmp_path):
    study = toy_study(tmp_path, mode="segviz-fedavg", rounds=1)
    sites = toy_sites(study)
    run_study(study, sites)
    before = study.state.finished
    run_study(study, sites | {"44": newcomer(study, "north", "pancreas")})
    assert study.finished
    assert study.state.finished == before + 1
    assert "taken by another site" in study.history()[-1]["rejected"]["node 44"]


def test_registered_site_that_never_came_is_a_newcomer_and_a_removed_one_is_not(tmp_path):
    study = toy_study(tmp_path)
    sites = toy_sites(study)
    register(study, sites | {"44": newcomer(study, "east", "pancreas")}, south="left")
    step_round(study, {node: sites[node] for node in ("11", "33")})
    assert study.newcomers == ["east"]


# -- gone


def test_required_round_names_who_is_missing_and_goes_on_when_the_coordinator_removes_it(tmp_path):
    study = toy_study(tmp_path)
    sites = toy_sites(study)
    register(study, sites)
    step_round(study, sites)
    rest = without(sites, "22")
    assert study.missing(list(rest)) == ["south"]
    step_round(study, rest)
    step_round(study, rest)
    with pytest.raises(SegVizError, match=r"start the study again, or go on without a site: coordinator remove-site"):
        step_round(study, rest)
    register(study, sites, south="left")
    study = Study(tmp_path)
    assert study.missing(list(rest)) == []
    run_study(study, rest)
    assert set(study.state.heads) == {"liver", "kidneys"}


def test_head_of_a_site_that_left_stays_frozen_and_protected_in_the_model(tmp_path):
    study = toy_study(tmp_path)
    sites = toy_sites(study)
    until(study, sites, "train")
    step_round(study, sites)
    before = study.state.heads["spleen"]["up.weight"].copy()
    register(study, sites, south="left")
    run_study(study, without(sites, "22"))
    np.testing.assert_array_equal(study.state.heads["spleen"]["up.weight"], before)
    assert "head/spleen" in sites["11"].requests[-3].arrays  # the others go on distilling from it
    assert "spleen" in [organ.name for organ in meta_model_of(study.state, study.settings).organs]


def test_study_goes_on_with_fewer_sites_than_it_began_with_when_the_coordinator_says_so(tmp_path):
    study = toy_study(tmp_path, mode="segviz-fedavg", min_sites=3)
    sites = toy_sites(study)
    register(study, sites)
    step_round(study, sites)
    rest = {"11": sites["11"]}
    assert study.missing(list(rest)) == ["2 more sites"]
    register(study, sites, south="left", west="erased")
    assert study.missing(list(rest)) == []


def test_site_that_left_may_come_back_with_a_new_key(tmp_path):
    study = toy_study(tmp_path, mode="segviz-fedavg")
    sites = toy_sites(study)
    step_round(study, sites)
    back = newcomer(study, "south", "spleen")
    register(study, {**sites, "55": back}, south="left")
    entries = json.loads((tmp_path / "sites.json").read_text(encoding="utf-8"))
    del entries["55"]["removed"]
    (tmp_path / "sites.json").write_text(json.dumps(entries))
    row = step_round(study, without(sites, "22") | {"55": back})
    assert not row["rejected"]
    assert [member.site for member in study.state.members.values()].count("south") == 1


def test_erased_site_leaves_no_trace_in_the_weights(tmp_path):
    """South's expert started phase 2. Without it the study ends as if south had never sent one."""
    study = toy_study(tmp_path / "erased")
    sites = toy_sites(study)
    register(study, sites)
    until(study, sites, "train")
    step_round(study, sites)
    register(study, sites, south="erased")
    rest = without(sites, "22")
    run_study(study, rest)

    never = toy_study(tmp_path / "never")
    run_study(never, without(toy_sites(never), "22"))
    for key, array in never.state.representation.items():
        np.testing.assert_array_equal(study.state.representation[key], array, err_msg=key)
    assert set(study.state.heads) == {"liver", "kidneys"}
    assert not (study.folder / "experts" / "south.safetensors").exists()
    numbers = [row["round"] for row in study.history() if row["complete"]]
    assert numbers == list(range(1, len(study.rounds) + 1))  # rounds never go back
    assert [site["site"] for site in meta_model_of(study.state, study.settings).provenance["sites"]] == [
        "north",
        "west",
    ]
    steps = meta_model_of(study.state, study.settings).provenance["steps_per_site"]
    assert steps == meta_model_of(never.state, never.settings).provenance["steps_per_site"]


def test_erased_site_of_a_finished_study_and_of_a_mode_without_experts(tmp_path):
    study = toy_study(tmp_path / "erased", mode="segviz-fedavg")
    sites = toy_sites(study)
    register(study, sites)
    run_study(study, sites)
    register(study, sites, south="erased")
    study = Study(study.folder)
    study.refresh()
    assert not study.finished
    run_study(study, without(sites, "22"))
    never = toy_study(tmp_path / "never", mode="segviz-fedavg")
    run_study(never, without(toy_sites(never), "22"))
    np.testing.assert_array_equal(study.state.representation["w"], never.state.representation["w"])
    assert set(study.state.heads) == {"liver", "kidneys"}


def test_organ_of_an_erased_site_stays_where_another_site_owns_it(tmp_path):
    study = toy_study(tmp_path)
    sites = toy_sites(study)
    until(study, sites, "train")
    register(study, sites, north="erased")
    run_study(study, without(sites, "11"))
    np.testing.assert_allclose(study.state.heads["liver"]["up.weight"], 6 + 3)  # west's expert, three rounds


def test_site_erased_while_its_reply_waits_is_left_out_of_the_round(tmp_path):
    study = toy_study(tmp_path, mode="segviz-fedavg")
    sites = toy_sites(study)
    register(study, sites)
    step_round(study, sites)
    for node, request in study.requests(list(sites)):
        study.accept(node, sites[node](request))
    register(study, sites, south="erased")
    study.close_round(seconds=0.0, rejected={})
    assert "spleen" not in study.state.heads


def test_removed_site_is_not_let_in_again_by_its_old_key(tmp_path):
    study = toy_study(tmp_path)
    sites = toy_sites(study)
    register(study, sites, south="erased")
    row = step_round(study, sites)
    assert row["rejected"] == {"south": "this site was removed from the study."}


def test_opening_a_study_to_read_changes_nothing_on_disk(tmp_path):
    study = toy_study(tmp_path)
    sites = toy_sites(study)
    step_round(study, sites)
    for node, request in study.requests(["11"]):
        study.accept(node, sites[node](request))
    register(study, sites, south="erased")
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    Study(tmp_path)
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


# -- slow


def timed(site: ToySite, seconds: float):
    def answer(request):
        reply = site(request)
        reply.metrics["seconds"] = seconds  # type: ignore[index]
        reply.metrics["steps"] = float(request.settings.get("steps", 2))
        return reply

    return answer


def test_late_site_makes_half_the_steps_in_the_next_round_with_the_same_weight_in_the_mean(tmp_path):
    study = toy_study(tmp_path, mode="segviz-fedavg", rounds=4, steps_per_round=8)
    sites = toy_sites(study)
    step_round(study, sites)
    for node, request in study.requests(list(without(sites, "22"))):
        study.accept(node, sites[node](request))
    study.close_round(seconds=0.0, rejected={"22": "no reply within 3600 s"}, late=["22"])
    study = Study(tmp_path)  # a restart remembers
    theta = study.state.representation["w"].copy()
    step_round(study, sites)
    assert [sites[node].requests[-1].settings["steps"] for node in sites] == [8, 4, 8]
    np.testing.assert_allclose(study.state.representation["w"], theta + 3.0)


def test_site_slower_than_the_pace_of_the_study_is_told_to_make_fewer_steps_until_it_is_faster(tmp_path):
    study = toy_study(tmp_path, mode="segviz-fedavg", rounds=4, steps_per_round=8, pace=2.0)
    sites = toy_sites(study)
    answers = {"11": timed(sites["11"], 10.0), "22": timed(sites["22"], 80.0), "33": timed(sites["33"], 10.0)}
    step_round(study, sites)
    step_round(study, answers)
    step_round(study, {**answers, "22": timed(sites["22"], 5.0)})
    assert sites["22"].requests[-1].settings["steps"] == 2  # 20 of the 80 seconds
    step_round(study, answers)
    assert sites["22"].requests[-1].settings["steps"] == 8


def test_without_a_pace_only_a_missed_deadline_changes_the_steps(tmp_path):
    study = toy_study(tmp_path, mode="segviz-fedavg", rounds=2, steps_per_round=8)
    sites = toy_sites(study)
    step_round(study, sites)
    step_round(study, {node: timed(site, 10.0 if node == "11" else 1000.0) for node, site in sites.items()})
    step_round(study, sites)
    assert {site.requests[-1].settings["steps"] for site in sites.values()} == {8}


# -- what the people at a site are told


def test_every_request_tells_the_round_of_how_many_and_who_takes_part(tmp_path):
    study = toy_study(tmp_path)
    sites = toy_sites(study)
    step_round(study, sites)
    list(study.requests(["11", "22"]))
    step_round(study, without(sites, "33"))
    news = sites["11"].requests[-1].settings
    assert (news["round"], news["rounds"]) == (2, len(study.rounds))
    assert (news["sites"], news["online"], news["members"]) == ("north,south", 2, 3)
