"""Miniatures of the public layouts and of btcv18: who reads which labels, and who trains on what."""

import json
from dataclasses import replace

import numpy as np
import pytest
from toy_btcv18 import SHAPE, VALUES, site_names, write_btcv18, write_case

from segviz_core.contract import DataContract
from segviz_core.errors import InputError
from segviz_core.experiments.datasets import load_data
from segviz_core.experiments.plan import CONFIGS, ORDER, read_plan
from segviz_core.labels import ORGANS

BTCV = {organ: VALUES[organ] for organ in ORDER}


def nothing(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def write_msd(root, task: str, labels: dict[str, int]) -> None:
    entries = []
    for i in range(2):
        name = f"{task.lower()}_{i}.nii.gz"
        write_case(root / "imagesTr" / name, root / "labelsTr" / name, labels, seed=i)
        entries.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    names = {"0": "background", **{str(value): name for name, value in labels.items()}}
    (root / "dataset.json").write_text(json.dumps({"labels": names, "training": entries}))


def small(run):
    return replace(run, setup=replace(run.setup, contract=DataContract((10.0, 10.0, 10.0), (-125, 275))))


def test_public_sets_in_their_own_layouts_make_four_sites_and_a_test_site(tmp_path, monkeypatch) -> None:
    write_msd(tmp_path / "msd" / "Task03_Liver", "liver", {"liver": 1, "cancer": 2})
    write_msd(tmp_path / "msd" / "Task09_Spleen", "spleen", {"spleen": 1})
    write_msd(tmp_path / "msd" / "Task07_Pancreas", "pancreas", {"pancreas": 1, "cancer": 2})
    for i in range(2):
        folder = tmp_path / "kits" / "data" / f"case_0000{i}"
        write_case(folder / "imaging.nii.gz", folder / "segmentation.nii.gz", {"kidney": 1, "tumour": 2})
    training = tmp_path / "btcv" / "RawData" / "Training"
    write_case(training / "img" / "img0001.nii.gz", training / "label" / "label0001.nii.gz", {**BTCV, "right": 3})
    for name, folder in (("MSD", "msd"), ("KITS19", "kits"), ("BTCV", "btcv")):
        monkeypatch.setenv(f"SEGVIZ_{name}", str(tmp_path / folder))
    run = next(run for run in read_plan(CONFIGS / "full.toml") if run.row == "segviz+" and run.nodes == 4)
    data = load_data(small(run), tmp_path, on_progress=nothing)
    assert tuple(data.sites) == ORDER
    for organ, site in data.sites.items():
        assert [set(case.masks) for case in site.training_cases] == [{organ}] * 2
    liver, spleen = (data.sites[organ].training_cases[0].masks[organ] for organ in ("liver", "spleen"))
    assert liver.sum() > 1.5 * spleen.sum()  # the tumour belongs to the organ
    (test,) = data.tests
    assert set(np.unique(test.truth)) == {0, *(organ.value for organ in ORGANS.values())}
    assert test.truth.shape == SHAPE
    kidneys = np.count_nonzero(test.truth == ORGANS["kidneys"].value)
    assert kidneys > 1.5 * np.count_nonzero(test.truth == 1)  # left and right


@pytest.fixture
def btcv18(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGVIZ_BTCV18", str(write_btcv18(tmp_path)))
    return site_names()


def test_no_fold_trains_on_a_case_that_it_is_tested_on(btcv18, tmp_path) -> None:
    for run in (run for run in read_plan(CONFIGS / "btcv18.toml") if run.row == "single" and run.repeat in "AB"):
        data = load_data(small(run), tmp_path, on_progress=nothing)
        trained = {case.name for site in data.sites.values() for case in site.training_cases}
        tested = {test.name for test in data.tests}
        assert len(trained) == len(tested) == 4
        assert not trained & tested
        for organ, site in data.sites.items():
            assert {case.name.removeprefix("img") for case in site.training_cases} < set(btcv18[organ])
            assert all(set(case.masks) == {organ} for case in site.training_cases)
        assert {len(np.unique(test.truth)) for test in data.tests} == {5}


def test_folder_that_is_no_btcv18_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SEGVIZ_BTCV18", str(tmp_path))
    run = read_plan(CONFIGS / "btcv18.toml")[0]
    with pytest.raises(InputError, match=r"expected sites.json with sites, label values and test folds"):
        load_data(run, tmp_path, on_progress=nothing)
