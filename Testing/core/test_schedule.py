"""The rounds of a study follow from its settings alone (method.md section 4)."""

import pytest

from segviz_core.errors import InputError
from segviz_core.federation.schedule import schedule, steps_per_site
from segviz_core.federation.settings import PUBLISHED_NETWORK, SiteSettings, StudySettings
from segviz_core.head_stages import head_stages


def stages(**settings):
    return [r.stage for r in schedule(StudySettings("s", **settings))]


def test_segviz_plus_trains_alone_then_labels_once_then_together():
    assert stages(local_chunks=2, rounds=3, tune_steps=5) == [
        "declare", "train-local", "train-local", "expert", "label", "train", "train", "train", "tune", "evaluate",
        "deliver",
    ]  # fmt: skip


def test_faithful_segviz_only_trains_together():
    assert stages(mode="segviz-fedbn", rounds=2) == ["declare", "train", "train", "evaluate", "deliver"]


def test_heads_are_refitted_before_the_distillation_when_asked():
    names = stages(local_chunks=1, rounds=1, head_steps=4)
    assert names.index("tune") == names.index("label") + 1


@pytest.mark.parametrize("mode, fixed", [("segviz+", [False, False, True, True]), ("segviz-fedavg", [False] * 4)])
def test_norm_statistics_are_fixed_in_the_last_share_of_the_shared_rounds_of_segviz_plus_alone(mode, fixed):
    rounds = schedule(StudySettings("s", mode=mode, rounds=4, fixed_norm=0.5))
    assert [bool(r.settings.get("fixed_norm")) for r in rounds if r.stage == "train"] == fixed
    with pytest.raises(InputError, match="fixed_norm: expected 0 to 1, found 2"):
        StudySettings("s", fixed_norm=2)


def test_chunks_cover_every_local_step_once():
    rounds = [r for r in schedule(StudySettings("s", local_steps=17, local_chunks=5)) if r.stage == "train-local"]
    covered = [
        step for r in rounds for step in range(r.settings["first_step"], r.settings["first_step"] + r.settings["steps"])
    ]
    assert covered == list(range(17))


def test_every_site_makes_the_same_number_of_steps_whatever_its_cases():
    assert all("steps" in r.settings for r in schedule(StudySettings("s")) if r.stage.startswith("train"))


@pytest.mark.parametrize("steps, given, expected", [(50, None, 0.0), (51, None, 1e-3), (51, 0.5, 0.5)])
def test_long_rounds_are_held_by_the_proximal_term_unless_told_otherwise(steps, given, expected):
    rounds = schedule(StudySettings("s", steps_per_round=steps, proximal=given))
    assert {r.settings["proximal"] for r in rounds if r.stage == "train"} == {expected}


def test_settings_survive_json():
    settings = StudySettings(
        "s", network={"channels": [4, 8], "strides": [2], "num_res_units": 1}, patch_size=(8, 8, 8)
    )
    assert StudySettings.from_dict(settings.to_dict()) == settings
    site = settings.for_site("north")
    assert SiteSettings.from_dict(site.to_dict()) == site


def test_unknown_setting_is_refused_by_name():
    with pytest.raises(InputError, match="Unknown study setting 'epochs'"):
        StudySettings.from_dict({"name": "s", "epochs": 3})


def test_patch_that_the_network_cannot_halve_is_refused():
    with pytest.raises(InputError, match="patch_size: expected three multiples of 16, found"):
        StudySettings("s", patch_size=(40, 48, 48))


def test_teacher_shift_out_of_range_is_refused():
    with pytest.raises(InputError, match="teacher_shift: expected -10 to 10, found 11"):
        StudySettings("s", teacher_shift=11)
    with pytest.raises(InputError, match="teacher_pieces: expected 0 to 1, found 2"):
        StudySettings("s", teacher_pieces=2)
    with pytest.raises(InputError, match=r"teacher_norm: expected 0 to 1, found 1\.5"):
        StudySettings("s", teacher_norm=1.5)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"contrast": 0.5}, "contrast: expected 0 to less than 0.5, found 0.5"),
        ({"loss": "focal"}, "loss: expected one of supervised, published, found 'focal'"),
    ],
)
def test_contrast_or_loss_that_training_does_not_know_is_refused(values, words):
    with pytest.raises(InputError, match=words):
        StudySettings("s", **values)


@pytest.mark.parametrize(
    "values, loss",
    [
        ({}, "supervised"),
        ({"mode": "segviz-fedavg"}, "published"),
        ({"mode": "segviz-fedbn", "loss": "supervised"}, "supervised"),
    ],
)
def test_the_loss_is_that_of_the_mode_unless_the_study_names_one(values, loss):
    assert StudySettings("s", **values).for_site("north").loss == loss


def test_incomplete_network_is_refused_by_its_names():
    with pytest.raises(InputError, match="network: expected channels, strides, num_res_units, found strides"):
        StudySettings("s", network={"strides": [2]})


@pytest.mark.parametrize("mode, stages", [("segviz+", 2), ("segviz-fedavg", 1), ("segviz-fedbn", 1)])
def test_a_head_has_two_decoder_stages_in_segviz_plus_and_one_as_published(mode, stages):
    network = StudySettings("s", mode=mode).network
    assert head_stages(network) == stages
    assert {name: network[name] for name in PUBLISHED_NETWORK} == PUBLISHED_NETWORK


def test_a_study_that_was_made_before_keeps_its_heads_of_one_stage():
    network = StudySettings.from_dict({"name": "s", "network": PUBLISHED_NETWORK}).network
    assert head_stages(network) == 1


@pytest.mark.parametrize("stages, channels", [(3, [4, 8, 16]), (0, [4, 8, 16]), ("2", [4, 8, 16]), (2, [4, 8])])
def test_heads_that_the_network_has_not_are_refused(stages, channels):
    network = {"channels": channels, "strides": [2] * (len(channels) - 1), "num_res_units": 1, "head_stages": stages}
    words = f"head_stages: expected 1, or 2 with three channels or more, found {stages!r} with {len(channels)}"
    with pytest.raises(InputError, match=words):
        StudySettings("s", network=network, patch_size=(8, 8, 8))


def test_unknown_mode_is_refused():
    with pytest.raises(InputError, match="expected one of segviz\\+, segviz-fedavg, segviz-fedbn, found 'fedprox'"):
        StudySettings("s", mode="fedprox")


def test_heads_can_be_taken_at_the_end_only_where_no_site_needs_them_before():
    assert stages(mode="segviz-fedbn", rounds=1, heads_at_end=True) == [
        "declare", "train", "heads", "evaluate", "deliver",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"segviz\+ trains with the heads of all sites .* Choose the mode"):
        StudySettings("s", heads_at_end=True)


def test_round_numbers_never_go_back_when_the_plan_is_amended():
    settings = StudySettings("s", local_chunks=1, rounds=2, newcomer_rounds=1)
    plan = [r.stage for r in schedule(settings)]
    assert plan == ["declare", "train-local", "expert", "label", "train", "train", "tune", "evaluate", "deliver"]
    again = [r.stage for r in schedule(settings, [(5, "phase 2")])]
    assert again == [*plan[:5], *plan[3:]]
    late = [r.stage for r in schedule(settings, [(9, "newcomers")])]
    assert late == [*plan, "declare", "train-head", "train", "tune", "evaluate", "deliver"]
    assert [r.stage for r in schedule(settings, [(9, "newcomers"), (10, "end")])] == [*plan, "declare"]


def test_steps_behind_the_weights_leave_out_what_a_restart_dropped():
    settings = StudySettings("s", local_steps=100, local_chunks=1, rounds=2, steps_per_round=10)
    assert steps_per_site(settings, [], 9) == 100 + 20
    assert steps_per_site(settings, [(5, "phase 2")], 5) == 100 + 10
    assert steps_per_site(settings, [(5, "phase 2")], 7) == 100 + 10
    assert steps_per_site(settings, [(5, "everything")], 7) == 100
