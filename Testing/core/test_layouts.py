"""Site folders: the public layouts are recognised from their file names, each with its own label values."""

import json
from pathlib import Path

import pytest

from segviz_core.errors import InputError
from segviz_core.labels import LabelSet
from segviz_core.layouts import SiteFolder, find_cases


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(root: Path) -> list[tuple[str, str, str | None]]:
    return [
        (case.name, str(case.image.relative_to(root)), case.label and str(case.label.relative_to(root)))
        for case in find_cases(root).cases
    ]


def write_msd(root: Path, name: str, labels: dict[str, str], training: int = 2) -> None:
    """A task of the Medical Segmentation Decathlon, with the hidden files that its archives hold."""
    stem = name.lower()
    entries = []
    for i in range(training):
        touch(root, f"imagesTr/{stem}_{i}.nii.gz", f"imagesTr/._{stem}_{i}.nii.gz", f"labelsTr/{stem}_{i}.nii.gz")
        entries.append({"image": f"./imagesTr/{stem}_{i}.nii.gz", "label": f"./labelsTr/{stem}_{i}.nii.gz"})
    touch(root, f"imagesTs/{stem}_9.nii.gz")
    content = {"name": name, "labels": labels, "training": entries, "test": [f"./imagesTs/{stem}_9.nii.gz"]}
    (root / "dataset.json").write_text(json.dumps(content))


def test_images_and_labels_pair_by_name_whatever_their_formats(tmp_path):
    touch(tmp_path, "images/b.nii.gz", "images/a.nrrd", "images/c/1.dcm", "images/d.mha", "images/notes.txt")
    touch(tmp_path, "labels/a.nii.gz", "labels/b.nii.gz", "labels/c.mha", "labels/other.nii.gz")
    assert listed(tmp_path) == [
        ("a", "images/a.nrrd", "labels/a.nii.gz"),
        ("b", "images/b.nii.gz", "labels/b.nii.gz"),
        ("c", "images/c", "labels/c.mha"),
        ("d", "images/d.mha", None),
    ]
    assert find_cases(tmp_path).label_set(["kidneys"]) == LabelSet({"kidneys": (3,)})


def test_images_and_labels_do_not_say_which_organs_they_are(tmp_path):
    touch(tmp_path, "images/a.nii.gz")
    with pytest.raises(InputError, match="expected the names of the annotated organs"):
        find_cases(tmp_path).label_set()


def test_two_images_of_one_name_are_refused(tmp_path):
    touch(tmp_path, "images/a.nii.gz", "images/a.nrrd")
    with pytest.raises(InputError, match=r"expected one image per name, found a\.nii\.gz and a\.nrrd"):
        find_cases(tmp_path)


@pytest.mark.parametrize(
    "name, labels, values",
    [
        ("Liver", {"0": "background", "1": "liver", "2": "cancer"}, {"liver": (1, 2)}),
        ("Pancreas", {"0": "background", "1": "pancreas", "2": "cancer"}, {"pancreas": (1, 2)}),
        ("Spleen", {"0": "background", "1": "spleen"}, {"spleen": (1,)}),
    ],
)
def test_msd_states_its_organ_and_the_tumour_belongs_to_it(tmp_path, name, labels, values):
    write_msd(tmp_path, name, labels)
    found = find_cases(tmp_path)
    assert found.layout == "MSD"
    assert found.label_set() == LabelSet(values)
    stem = name.lower()
    assert listed(tmp_path) == [
        (f"{stem}_{i}", f"imagesTr/{stem}_{i}.nii.gz", f"labelsTr/{stem}_{i}.nii.gz") for i in (0, 1)
    ]


def test_msd_folder_without_its_list_still_pairs(tmp_path):
    write_msd(tmp_path, "Spleen", {"1": "spleen"}, training=1)
    (tmp_path / "dataset.json").unlink()
    assert find_cases(tmp_path).layout == "MSD"
    assert listed(tmp_path) == [("spleen_0", "imagesTr/spleen_0.nii.gz", "labelsTr/spleen_0.nii.gz")]


@pytest.mark.parametrize("root", ["", "data"])
def test_kits19_tumour_is_kidney_and_its_unlabelled_test_cases_are_left_out(tmp_path, root):
    data = tmp_path / root
    touch(data, "case_00000/imaging.nii.gz", "case_00000/segmentation.nii.gz")
    touch(data, "case_00209/imaging.nii.gz", "case_00210/imaging.nii.gz")
    found = find_cases(tmp_path)
    assert found.layout == "KiTS19"
    assert found.label_set() == LabelSet({"kidneys": (1, 2)})
    assert [(case.name, case.label is None) for case in found.cases] == [("case_00000", False), ("case_00209", True)]


@pytest.mark.parametrize("root", ["", "Training", "RawData/Training"])
def test_btcv_has_both_kidneys_and_four_organs(tmp_path, root):
    touch(tmp_path / root, "img/img0001.nii.gz", "label/label0001.nii.gz", "img/img0002.nii.gz")
    found = find_cases(tmp_path)
    assert found.layout == "BTCV"
    assert found.label_set() == LabelSet({"liver": (6,), "spleen": (1,), "kidneys": (2, 3), "pancreas": (11,)})
    assert found.label_set(["spleen"]) == LabelSet({"spleen": (1,)})
    assert [(case.name, case.label and case.label.name) for case in found.cases] == [
        ("img0001", "label0001.nii.gz"),
        ("img0002", None),
    ]


def test_stated_values_win_over_those_of_the_layout(tmp_path):
    found = SiteFolder("BTCV", (), {"liver": (6,), "spleen": (1,)})
    assert found.label_set(["liver", "spleen"], stated={"liver": (9,)}) == LabelSet({"liver": (9,), "spleen": (1,)})
    assert found.label_set(stated={"duodenum": (13,)}) == LabelSet({"duodenum": (13,)})
    with pytest.raises(InputError, match="label value 1 stands for both spleen and liver"):
        found.label_set(["spleen", "liver"], stated={"liver": (1,)})


def test_data_list_names_files_anywhere_and_what_is_annotated(tmp_path):
    content = {
        "labels": {"0": "background", "3": "Left kidney", "4": "right kidney", "5": "kidney tumour", "7": "liver"},
        "training": [
            {"image": "scans/x/imaging.nii.gz", "label": "scans/x/seg.nii.gz", "annotated": ["liver", "kidneys"]},
            {"image": "scans/y/imaging.nii.gz"},
            {"image": str(tmp_path / "elsewhere.nrrd"), "label": "far.nrrd"},
        ],
    }
    path = tmp_path / "my_list.json"
    path.write_text(json.dumps(content))
    found = find_cases(path)
    assert found.layout == "data list"
    assert found.label_set() == LabelSet({"kidneys": (3, 4, 5), "liver": (7,)})
    assert [(case.name, case.label) for case in found.cases] == [
        ("elsewhere", tmp_path / "far.nrrd"),
        ("scans_x_imaging", tmp_path / "scans/x/seg.nii.gz"),
        ("scans_y_imaging", None),
    ]
    assert found.cases[0].image == tmp_path / "elsewhere.nrrd"
    assert found.cases[1].annotated == ("liver", "kidneys")


def test_lesion_of_no_named_organ_is_left_out_where_organs_are_many(tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text(
        json.dumps({"training": [{"image": "a.nii"}], "labels": {"1": "liver", "2": "spleen", "3": "tumor"}})
    )
    assert find_cases(tmp_path).label_set() == LabelSet({"liver": (1,), "spleen": (2,)})


@pytest.mark.parametrize("content", ["{", "[]", '{"test": []}', '{"training": ["a.nii"]}', '{"training": [{}]}'])
def test_broken_data_list_is_refused(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(InputError, match=r"dataset\.json: expected a data list .*, found another content"):
        find_cases(tmp_path)


def test_organ_of_no_known_value_is_refused(tmp_path):
    touch(tmp_path, "case_00001/imaging.nii.gz")
    with pytest.raises(InputError, match="Layout KiTS19: expected an organ of kidneys, found liver"):
        find_cases(tmp_path).label_set(["liver"])


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="expected a site folder or a data list, found nothing there"):
        find_cases(tmp_path / "nowhere")


def test_folder_of_another_kind_is_refused(tmp_path):
    touch(tmp_path, "scan.nii.gz")
    with pytest.raises(
        InputError, match="expected images/ and labels/, a data list or the layout of MSD, KiTS19 or BTCV"
    ):
        find_cases(tmp_path)


def test_folder_without_cases_is_refused(tmp_path):
    touch(tmp_path, "images/.hidden.nii.gz", "images/readme.txt")
    with pytest.raises(InputError, match="expected cases in the layout images/labels, found none"):
        find_cases(tmp_path)
