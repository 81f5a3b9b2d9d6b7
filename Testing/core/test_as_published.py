"""Variants of the published rows: site windows, equal epochs, L_sup, heads of one stage."""

import json
from dataclasses import replace

import numpy as np
import pytest

from segviz_core.cases import Case, Site
from segviz_core.contract import DataContract
from segviz_core.experiments import segviz_rows
from segviz_core.experiments.as_published import (
    narrowed,
    seen_through,
    steps_in_equal_epochs,
    unit_windows,
    with_steps,
)
from segviz_core.experiments.experiment import run_one
from segviz_core.experiments.plan import CONFIGS, read_plan
from segviz_core.federation.packets import Packet
from segviz_core.labels import LabelSet

SMOKE = {run.row: run for run in read_plan(CONFIGS / "smoke.toml")}


def site(*voxels: np.ndarray) -> Site:
    cases = [Case(str(i), v.astype(np.uint8), {}) for i, v in enumerate(voxels)]
    return Site(LabelSet({"liver": (1,)}), cases[1:], cases[:1])


def result_of(run, folder):
    (folder / run.name).mkdir()
    result = run_one(run, folder / run.name, folder / "data", on_progress=lambda *_: None)
    return json.loads(json.dumps(result))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return result_of(SMOKE["segviz-fedavg"], tmp_path_factory.mktemp("plain"))


def test_a_site_window_shows_what_preparing_with_it_would_show():
    setup = replace(
        SMOKE["single"].setup,
        contract=DataContract((10, 10, 10), (-200.0, 300.0)),
        site_windows={"liver": (-100.0, 150.0)},
    )
    hu = np.linspace(-200, 300, 256)
    ramp = np.arange(256).reshape(4, 8, 8)
    sites = narrowed({"liver": site(ramp, ramp), "spleen": site(ramp, ramp)}, unit_windows(setup))
    expected = np.clip((hu + 100) / 250, 0, 1)
    for case in (*sites["liver"].training_cases, *sites["liver"].validation_cases):
        np.testing.assert_allclose(case.intensities.ravel(), expected, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(sites["spleen"].training_cases[0].voxels, ramp)
    narrow = seen_through((hu / 500 + 0.4).astype(np.float32), unit_windows(setup)["liver"])
    np.testing.assert_allclose(narrow, expected, atol=1e-5)


def test_in_equal_epochs_a_site_with_more_cases_makes_more_steps():
    ramp = np.zeros((2, 2, 2))
    factors = steps_in_equal_epochs({"liver": site(*[ramp] * 7), "spleen": site(*[ramp] * 3)})
    assert factors == {"liver": 1.5, "spleen": 0.5}
    asked = []
    answer = with_steps(lambda request: asked.append(request.settings) or request, 0.5)
    for first in range(0, 12, 3):
        answer(Packet({"stage": "train", "first_step": first, "steps": 3, "total_steps": 12}, {}, {}))
    assert [settings["first_step"] for settings in asked] == [0, 2, 3, 4]
    assert sum(settings["steps"] for settings in asked) == 6 == asked[-1]["total_steps"]


@pytest.mark.parametrize(
    "changes, options",
    [
        ({"site_windows": {"liver": (-150.0, 200.0), "spleen": (-100.0, 250.0)}}, {}),
        ({"equal_epochs": True}, {}),
        ({}, {"loss": "supervised"}),
        ({}, {"rounds": 1, "steps_per_round": 4}),
    ],
    ids=["site windows", "equal epochs", "L_sup", "no synchronisation"],
)
def test_a_variant_of_the_published_row_runs_and_differs_from_it(changes, options, plain, tmp_path, monkeypatch):
    factors = {"liver": 1.5, "spleen": 0.5}  # the sites of smoke have as many cases each
    monkeypatch.setattr(segviz_rows, "steps_in_equal_epochs", lambda sites: factors)
    run = SMOKE["segviz-fedavg"]
    variant = replace(run, variant="other", setup=replace(run.setup, **changes), options=options)
    other = result_of(variant, tmp_path)
    assert other["curve"] != plain["curve"]
    assert set(other["scores"]) == set(plain["scores"])
    recorded = {name: other["setup"].get(name) for name in changes}
    assert recorded == {name: json.loads(json.dumps(value)) for name, value in changes.items()}
    assert not set(plain["setup"]) & {"site_windows", "equal_epochs"}


def test_heads_of_one_stage_train_in_every_phase(tmp_path):
    run = SMOKE["segviz+"]
    assert run.setup.network["head_stages"] == 2
    network = {**run.setup.network, "head_stages": 1}
    result = result_of(replace(run, variant="one-stage", setup=replace(run.setup, network=network)), tmp_path)
    assert set(result["scores"]) == {"personal", "assembled", "assembled+recal", "experts"}
    assert result["setup"]["network"]["head_stages"] == 1
