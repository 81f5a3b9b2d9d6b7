"""What a study has reached is one meta-model, at the coordinator and at every site."""

import numpy as np
import pytest
from toy_sites import ToySite, toy_sites, toy_study

from segviz_core.errors import InputError
from segviz_core.experiments.runner import run_study
from segviz_core.federation.export import meta_model_of
from segviz_core.federation.study import Study
from segviz_core.meta_model import MetaModel


def exported(study: Study) -> MetaModel:
    return meta_model_of(study.state, study.settings)


def test_model_holds_all_heads_in_the_order_of_label_values_with_their_calibration(tmp_path):
    study = toy_study(tmp_path)
    run_study(study, toy_sites(study))
    model = exported(study)
    assert [(organ.name, organ.value) for organ in model.organs] == [("liver", 1), ("spleen", 2), ("kidneys", 3)]
    assert model.organs[0].temperature == pytest.approx(2.0)
    assert model.organs[0].threshold == pytest.approx(0.4)
    np.testing.assert_array_equal(model.weights["heads.spleen.up.weight"], study.state.heads["spleen"]["up.weight"])


def test_organ_that_segviz_does_not_know_gets_the_first_free_value(tmp_path):
    study = toy_study(tmp_path)
    sites = toy_sites(study)
    sites["44"] = ToySite("east", "gall_bladder", step=1.0, contract=study.settings.contract.hash)
    run_study(study, sites)
    new = exported(study).organs[-1]
    assert (new.name, new.value, new.title) == ("gall_bladder", 7, "Gall bladder")


def test_provenance_names_sites_steps_and_dice_and_nothing_else_of_them(tmp_path):
    study = toy_study(tmp_path)
    run_study(study, toy_sites(study))
    provenance = exported(study).provenance
    assert provenance["steps_per_site"] == 4 + 3 * 2
    assert provenance["sites"][0] == {"site": "north", "organs": ["liver"], "cases": {"liver": 3}}
    assert provenance["validation_dice"] == {"liver": 0.5, "spleen": 0.5, "kidneys": 0.5}
    assert provenance["rounds"] == provenance["rounds_planned"] == len(study.rounds) - 1


def test_norm_layers_of_fedbn_are_marked_as_averaged_at_export(tmp_path):
    study = toy_study(tmp_path, mode="segviz-fedbn")
    run_study(study, toy_sites(study))
    assert exported(study).provenance["norm"] == "averaged at export"


def test_what_the_sites_get_is_what_the_coordinator_exports(tmp_path):
    study = toy_study(tmp_path)
    sites = toy_sites(study)
    run_study(study, sites)
    (request,) = [request for request in sites["11"].requests if request.stage == "deliver"]
    assert request.arrays["model"]["file"].tobytes() == exported(study).to_bytes()


def test_study_without_a_trained_head_says_how_far_it_is(tmp_path):
    with pytest.raises(InputError, match="has no trained head after 0 of 10 rounds"):
        exported(toy_study(tmp_path))
