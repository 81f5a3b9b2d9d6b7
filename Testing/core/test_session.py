"""A site's side of a study, with torch, in one process."""

import shutil

import numpy as np
import pytest
from toy_cases import toy_settings, toy_site
from toy_federation import run, sessions

from segviz_core.atomic import write_json
from segviz_core.errors import Cancelled, InputError
from segviz_core.experiments.runner import run_study
from segviz_core.federation import session
from segviz_core.federation.export import meta_model_of
from segviz_core.federation.packets import Packet
from segviz_core.federation.session import SiteSession
from segviz_core.federation.study import Study
from segviz_core.federation.transport import compact
from segviz_core.federation.weights import create_study
from segviz_core.meta_model import MetaModel
from segviz_core.openvino_graph import build_graph
from segviz_core.training import train


@pytest.fixture(scope="module")
def finished_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run(folder)
    return folder


@pytest.fixture
def finished(finished_folder, tmp_path):
    """A copy of a finished study, opened anew with other settings for what comes after its end."""

    def copy(**values) -> tuple[Study, dict]:
        shutil.copytree(finished_folder, tmp_path, dirs_exist_ok=True)
        write_json(tmp_path / "study" / "study.json", toy_settings(**values).to_dict())
        return Study(tmp_path / "study"), sessions(tmp_path, toy_settings(**values))

    return copy


def equal(a: Study, b: Study) -> bool:
    same = all(np.array_equal(a.state.representation[k], b.state.representation[k]) for k in a.state.representation)
    return same and all(
        np.array_equal(head[k], b.state.heads[organ][k]) for organ, head in a.state.heads.items() for k in head
    )


@pytest.mark.parametrize("mode", ["segviz+", "segviz-fedavg", "segviz-fedbn"])
def test_federation_in_one_process_ends_in_a_meta_model_file(tmp_path, mode):
    study, _ = run(tmp_path, mode=mode)
    meta_model_of(study.state, study.settings).save(tmp_path / "m.safetensors")
    model = MetaModel.load(tmp_path / "m.safetensors")
    assert [organ.name for organ in model.organs] == ["liver", "spleen", "kidneys"]
    assert model.provenance["steps_per_site"] == (8 if mode == "segviz+" else 4)
    assert [site["cases"] for site in model.provenance["sites"]] == [{"liver": 3}, {"spleen": 3}, {"kidneys": 3}]


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_federation_runs_on_other_norm_layers_whose_model_no_window_takes(tmp_path, norm):
    network = {**toy_settings().network, "channels": [8, 16, 32], "norm": norm}
    study, _ = run(tmp_path, network=network)
    assert study.finished
    with pytest.raises(InputError, match="do not fit its network settings"):
        build_graph(meta_model_of(study.state, study.settings))


def test_unknown_norm_is_refused():
    with pytest.raises(InputError, match="network norm: expected one of batch, instance, group, found 'layer'"):
        toy_settings(network={**toy_settings().network, "norm": "layer"})


def test_every_site_ends_up_with_the_coordinators_meta_model(finished):
    study, sites = finished()
    model = meta_model_of(study.state, study.settings)
    for site in sites.values():
        assert MetaModel.load(site.work / "meta_model.safetensors").hash == model.hash


def test_delivered_file_that_is_no_model_is_refused_and_the_old_one_stays(finished):
    _, sites = finished()
    file = sites["1"].work / "meta_model.safetensors"
    before = file.read_bytes()
    request = Packet(
        {"stage": "deliver", "round": 9, "mode": "segviz+"}, {"model": {"file": np.frombuffer(before[:-9], np.uint8)}}
    )
    with pytest.raises(InputError, match="is truncated"):
        sites["1"].handle(request)
    assert file.read_bytes() == before


def test_two_identical_runs_give_identical_weights(tmp_path):
    assert equal(run(tmp_path / "a")[0], run(tmp_path / "b")[0])


def test_segviz_without_steps_changes_nothing(tmp_path):
    study, _ = run(tmp_path, mode="segviz-fedavg", steps_per_round=0)
    for key, array in study.initial.items():
        np.testing.assert_array_equal(study.state.representation[key], array, err_msg=key)


def test_statistics_of_the_representation_stay_in_the_last_rounds_when_asked(tmp_path):
    moving, fixed = (run(tmp_path / str(share), fixed_norm=share)[0].state for share in (0.0, 1.0))
    expert = Packet.from_bytes((tmp_path / "1.0" / "study" / "experts" / "north.safetensors").read_bytes())
    for key, value in expert.arrays["representation"].items():
        if key.endswith(("running_mean", "running_var")):
            np.testing.assert_allclose(fixed.representation[key], value, rtol=1e-5)
            assert not np.allclose(moving.representation[key], value, rtol=1e-5)


def test_killed_site_and_server_resume_to_the_same_weights(tmp_path):
    straight, _ = run(tmp_path / "straight")
    settings = toy_settings()
    create_study(tmp_path / "study", settings)
    while not (study := Study(tmp_path / "study")).finished:
        sites = sessions(tmp_path, settings)  # fresh processes for every round
        requests = dict(study.requests(list(sites)))
        for node, request in requests.items():
            sites[node].handle(request)  # answered, but the answer got lost with the server
        study = Study(tmp_path / "study")
        for node, request in study.requests(list(sites)):
            study.accept(node, sites[node].handle(request))
        study.close_round(seconds=0.0, rejected={})
    assert equal(study, straight)


def test_foreign_heads_stay_as_the_server_sent_them(tmp_path):
    _, sites = run(tmp_path)
    _, network, _ = sites["1"]._training._shared
    for organ in ("spleen", "kidneys"):
        assert not network.head(organ).training
        assert not any(p.requires_grad for p in network.head(organ).parameters())


def test_order_in_which_heads_arrive_does_not_change_the_result(finished, tmp_path):
    study, sites = finished()
    heads = {f"head/{organ}": head for organ, head in study.state.heads.items()}
    settings = {"stage": "train", "round": 50, "mode": "segviz+", "first_step": 0, "steps": 2, "total_steps": 2}
    settings |= {"learning_rate": 0.01, "foreign_weight": 0.5, "foreign_ramp": 0.0, "proximal": 0.0}
    updates = []
    for names in (sorted(heads), sorted(heads, reverse=True)):
        arrays = {"representation": study.state.representation, **{name: heads[name] for name in names}}
        session = SiteSession(
            toy_settings().for_site("north"), sites["1"].site, tmp_path / "-".join(names).replace("/", "")
        )
        updates.append(session.handle(Packet(settings, arrays)).arrays["update"])
    assert all(np.array_equal(updates[0][key], updates[1][key]) for key in updates[0])


def test_sites_train_with_the_contrast_and_the_loss_of_the_study(tmp_path, monkeypatch):
    seen = []

    def recorded(network, cases, config, **options):
        seen.append((config.contrast, config.loss))
        return train(network, cases, config, **options)

    monkeypatch.setattr(session, "train", recorded)
    run(tmp_path, contrast=0.2, loss="published")
    assert set(seen) == {(0.2, "published")}


def test_cancelled_training_loses_nothing_and_can_be_repeated(tmp_path):
    settings = toy_settings()
    create_study(tmp_path / "study", settings)
    session = sessions(tmp_path, settings)["1"]
    study = Study(tmp_path / "study")
    session.handle(dict(study.requests(["1"]))["1"])
    request = Packet(
        {
            "stage": "train-local",
            "round": 2,
            "mode": "segviz+",
            "first_step": 0,
            "steps": 3,
            "total_steps": 3,
            "learning_rate": 0.01,
        }
    )

    def stop(stage, done, total):
        raise Cancelled

    with pytest.raises(Cancelled):
        session.handle(request, on_progress=stop)
    assert session.handle(request).metrics["steps"] == 3


def test_site_that_never_declared_says_so(tmp_path):
    session = sessions(tmp_path, toy_settings())["1"]
    request = Packet(
        {
            "stage": "train-local",
            "round": 2,
            "mode": "segviz+",
            "first_step": 0,
            "steps": 1,
            "total_steps": 1,
            "learning_rate": 0.01,
        }
    )
    with pytest.raises(InputError, match=r"has not declared itself in this study yet. Leave and join again"):
        session.handle(request)


def test_site_with_two_organs_trains_both_heads(tmp_path):
    settings = toy_settings(min_sites=2)
    create_study(tmp_path / "study", settings)
    study = Study(tmp_path / "study")
    sites = {
        "1": SiteSession(settings.for_site("north"), toy_site("liver", "spleen"), tmp_path / "n"),
        "2": SiteSession(settings.for_site("south"), toy_site("kidneys"), tmp_path / "s"),
    }
    run_study(study, {node: site.handle for node, site in sites.items()})
    assert set(study.state.heads) == {"liver", "spleen", "kidneys"}
    assert set(sites["1"].site.training_cases[0].targets) == {"kidneys"}


def test_request_that_comes_twice_is_answered_from_memory(tmp_path):
    settings = toy_settings()
    create_study(tmp_path / "study", settings)
    session = sessions(tmp_path, settings)["1"]
    request = dict(Study(tmp_path / "study").requests(["1"]))["1"]
    reply = session.handle(request)
    other_news = Packet({**request.settings, "online": 9}, request.arrays)
    assert session.handle(other_news) is reply
    assert session.handle(Packet({**request.settings, "round": 2}, request.arrays)) is not reply


def test_request_that_does_not_fit_this_sites_network_is_refused_before_it_is_used(tmp_path):
    session = sessions(tmp_path, toy_settings())["1"]
    request = Packet({"stage": "declare", "round": 1, "mode": "segviz+"}, {"representation": {"w": np.ones(1)}})
    with pytest.raises(InputError, match=r"representation: expected \d+ keys, found 1"):
        session.handle(request)
    assert not list(session.work.iterdir())


def test_half_precision_rounds_what_travels_and_nothing_else(tmp_path):
    """The same round with both transports, from weights that fp16 holds exactly: the reply is the rounded reply."""
    settings = toy_settings()
    create_study(tmp_path / "study", settings)
    study = Study(tmp_path / "study")
    theta = {
        key: array.astype(np.float16).astype(np.float32) if array.dtype == np.float32 else array
        for key, array in study.initial.items()
    }
    values = {"stage": "train", "round": 2, "mode": "segviz-fedavg", "first_step": 0, "steps": 2, "total_steps": 2}
    values |= {"learning_rate": 0.01, "foreign_weight": 0.0, "foreign_ramp": 0.0, "proximal": 0.0}
    full = Packet(values, {"representation": theta})
    half = compact(Packet({**values, "transport": "fp16"}, full.arrays), norm=study.template.norm)
    assert half.nbytes < 0.6 * full.nbytes
    exact, rounded = (
        SiteSession(settings.for_site("north"), toy_site("liver"), tmp_path / name).handle(request).arrays
        for name, request in (("full", full), ("half", half))
    )
    for group, arrays in exact.items():
        for key, array in arrays.items():
            small = group == "update" and key not in study.template.norm
            assert rounded[group][key].dtype == (np.float16 if small else array.dtype)
            np.testing.assert_array_equal(
                rounded[group][key], array.astype(np.float16) if small else array, err_msg=key
            )


def test_new_organ_gets_a_head_on_the_frozen_representation_with_nobody_else_online(finished, tmp_path):
    study, _ = finished(new_head_steps=3)
    theta = {key: array.copy() for key, array in study.state.representation.items()}
    old = {organ: {key: array.copy() for key, array in head.items()} for organ, head in study.state.heads.items()}
    late = SiteSession(study.settings.for_site("east"), toy_site("pancreas", cases=3), tmp_path / "sites" / "east")
    run_study(study, {"4": late.handle})
    for key, array in theta.items():
        np.testing.assert_array_equal(study.state.representation[key], array, err_msg=key)
    for organ, head in old.items():
        for key, array in head.items():
            np.testing.assert_array_equal(study.state.heads[organ][key], array, err_msg=f"{organ} {key}")
    model = MetaModel.load(late.work / "meta_model.safetensors")
    assert [organ.name for organ in model.organs] == ["liver", "spleen", "kidneys", "pancreas"]


def test_joint_rounds_for_a_newcomer_distil_the_last_model_at_every_site_that_is_online(finished, tmp_path):
    study, sites = finished(newcomer_rounds=1, new_head_steps=2, teacher_shift=2.0)
    spleen = {key: array.copy() for key, array in study.state.heads["spleen"].items()}
    late = SiteSession(study.settings.for_site("east"), toy_site("pancreas"), tmp_path / "sites" / "east")
    asked = []

    def recorded(request):
        asked.append(request)
        return sites["1"].handle(request)

    run_study(study, {"1": recorded, "4": late.handle})
    (labelling,) = [request.settings for request in asked if request.stage == "label"]
    assert labelling["teacher_norm"] == labelling["teacher_shift"] == 0  # that model knows the CTs of all sites
    assert set(late.site.training_cases[0].targets) == {"liver", "spleen", "kidneys"}
    assert set(sites["1"].site.training_cases[0].targets) == {"spleen", "kidneys", "pancreas"}
    for key, array in spleen.items():  # its owner was away
        np.testing.assert_array_equal(study.state.heads["spleen"][key], array, err_msg=key)


def test_organ_of_two_sites_with_masks_in_some_cases_only(tmp_path):
    """The first case shows both organs, the second one of them, and the other site owns one of them too."""
    settings = toy_settings()
    create_study(tmp_path / "study", settings)
    study, both = Study(tmp_path / "study"), toy_site("liver", "spleen", cases=2)
    del both.training_cases[1].masks["spleen"]
    sites = {
        "1": SiteSession(settings.for_site("north"), both, tmp_path / "n"),
        "2": SiteSession(settings.for_site("south"), toy_site("liver", "kidneys"), tmp_path / "s"),
    }
    run_study(study, {node: site.handle for node, site in sites.items()})
    assert set(study.state.heads) == {"liver", "spleen", "kidneys"}
    assert [member.cases for member in study.state.members.values()] == [
        {"liver": 2, "spleen": 1},
        {"liver": 3, "kidneys": 3},
    ]
    assert all(set(case.targets) == {"kidneys"} for case in both.training_cases)


def test_phase_2_that_begins_anew_uses_nothing_of_the_first_one(finished, tmp_path):
    """After a site was erased: the same weights as if the first phase 2 had never been."""
    study, sites = finished()
    heads = {f"head/{organ}": head for organ, head in study.state.heads.items()}
    settings = {"stage": "train", "round": 50, "mode": "segviz+", "first_step": 0, "steps": 2, "total_steps": 2}
    settings |= {"learning_rate": 0.01, "foreign_weight": 0.5, "foreign_ramp": 0.0, "proximal": 0.0}
    request = Packet(settings, {"representation": study.state.representation, **heads})
    fresh = SiteSession(toy_settings().for_site("north"), sites["1"].site, tmp_path / "fresh")
    updates = [session.handle(request).arrays["update"] for session in (sites["1"], fresh)]
    assert all(np.array_equal(updates[0][key], updates[1][key]) for key in updates[0])


def test_heads_that_leave_once_at_the_end_are_the_same_as_those_of_every_round(tmp_path):
    every, once = (run(tmp_path / str(end), mode="segviz-fedavg", heads_at_end=end)[0] for end in (False, True))
    assert equal(every, once)
    assert [r.stage for r in once.rounds] == ["declare", "train", "train", "heads", "evaluate", "deliver"]
    assert all(row["sites"]["north"]["bytes_received"] for row in once.history()[1:4])
    again = sessions(tmp_path / "True", toy_settings())["1"]  # the site was started anew meanwhile
    request = Packet({"stage": "heads", "round": 4, "mode": "segviz-fedavg"})
    assert equal_heads(again.handle(request).heads()["liver"], once.state.heads["liver"])


def equal_heads(a: dict, b: dict) -> bool:
    return set(a) == set(b) and all(np.array_equal(a[key], b[key]) for key in a)
