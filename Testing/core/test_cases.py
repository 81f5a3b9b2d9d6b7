"""Sites: checked cases on the network's grid; one bad case is a row of the table, or the error of the site by name."""

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from segviz_core.cases import Case, check_cases, open_site
from segviz_core.contract import DataContract
from segviz_core.errors import Cancelled, InputError
from segviz_core.labels import LABEL_SETS, LabelSet
from segviz_core.preprocessing import prepare, prepare_mask
from segviz_core.volumes import Volume, read_ct

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
AFFINE = np.diag([-5.0, -5.0, 6.0, 1.0])
SHAPE = (16, 14, 10)
CONTRACT = DataContract((8, 8, 8))
LIVER = LABEL_SETS["liver"]


def ct_voxels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 800, SHAPE).astype(np.int16)


def label_voxels(*values: int) -> np.ndarray:
    """One box per value, side by side along the last axis."""
    labels = np.zeros(SHAPE, np.uint8)
    for i, value in enumerate(values):
        labels[3:9, 4:10, 2 + i : 3 + i] = value
    return labels


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)


def write_site(root: Path, cases: int, *values: int) -> Path:
    for i in range(cases):
        save(root / "images" / f"case{i:02d}.nii.gz", ct_voxels(i))
        save(root / "labels" / f"case{i:02d}.nii.gz", label_voxels(*values or (1,)))
    return root


def test_case_holds_the_prepared_ct_in_8_bits_and_the_mask_on_the_same_grid(tmp_path):
    site = open_site(write_site(tmp_path, 1, 4, 1, 1), label_set=LIVER, contract=CONTRACT)
    (case,) = site.training_cases
    prepared = prepare(Volume(ct_voxels(), AFFINE), CONTRACT)
    assert case.voxels.dtype == np.uint8
    np.testing.assert_allclose(case.voxels / 255, prepared.voxels, atol=0.5 / 255 + 1e-6)
    assert list(case.masks) == ["liver"]
    assert np.array_equal(case.masks["liver"], prepare_mask(label_voxels(4, 1, 1) == 1, prepared.grid))
    assert case.targets == {}
    assert site.validation_cases == []


def test_values_of_one_organ_merge_and_foreign_organs_are_not_read(tmp_path):
    label_set = LabelSet({"kidneys": (2, 3)})
    site = open_site(write_site(tmp_path, 1, 2, 3, 1), label_set=label_set, contract=DataContract((5, 5, 6)))
    (case,) = site.training_cases
    assert list(case.masks) == ["kidneys"]
    assert case.masks["kidneys"].sum() == 2 * 36


def test_organ_that_a_label_does_not_show_counts_as_not_annotated(tmp_path):
    write_site(tmp_path, 1, 1)
    save(tmp_path / "images" / "both.nii.gz", ct_voxels())
    save(tmp_path / "labels" / "both.nii.gz", label_voxels(1, 2))
    site = open_site(tmp_path, label_set=LabelSet({"liver": (1,), "spleen": (2,)}), contract=CONTRACT)
    assert {case.name: list(case.masks) for case in site.training_cases} == {
        "both": ["liver", "spleen"],
        "case00": ["liver"],
    }


def test_data_list_can_say_that_an_absent_organ_is_annotated(tmp_path):
    write_site(tmp_path, 1, 4)
    entry = {"image": "images/case00.nii.gz", "label": "labels/case00.nii.gz"}
    data_list = tmp_path / "list.json"
    data_list.write_text(json.dumps({"training": [entry]}))
    with pytest.raises(InputError, match=r"Case case00: .*expected the label values of liver \(1\), found 0, 4"):
        open_site(data_list, label_set=LIVER, contract=CONTRACT)
    data_list.write_text(json.dumps({"training": [entry | {"annotated": ["liver"]}]}))
    (case,) = open_site(data_list, label_set=LIVER, contract=CONTRACT).training_cases
    assert not case.masks["liver"].any()


def damage(root: Path, what: str) -> str:
    """Damage case01 and return the words that must explain it."""
    image, label = root / "images" / "case01.nii.gz", root / "labels" / "case01.nii.gz"
    if what == "no label":
        label.unlink()
        return r"case01\.nii\.gz: expected a label for this image, found none"
    if what == "other grid":
        moved = AFFINE.copy()
        moved[0, 3] += 4
        save(label, label_voxels(1), moved)
        return r"expected the grid of the image \(16x14x10, .*origin 0\.0, .*found another \(16x14x10, .*origin 4\.0"
    if what == "other shape":
        save(label, label_voxels(1)[:-1])
        return r"expected the grid of the image \(16x14x10.*found another \(15x14x10"
    if what == "other organ":
        save(label, label_voxels(2, 4))
        return r"expected the label values of liver \(1\), found 0, 2, 4"
    if what == "empty label":
        save(label, label_voxels())
        return r"expected the label values of liver \(1\), found 0\."
    if what == "fractions":
        save(label, label_voxels(1) * np.float32(0.5))
        return "expected whole numbers as label values"
    if what == "truncated":
        image.write_bytes(image.read_bytes()[:1500])
        return "expected an image, but it cannot be read to its end"
    if what == "constant":
        save(image, np.zeros(SHAPE, np.int16))
        return "expected a CT, found 0 in every voxel"
    if what == "4D":
        save(image, np.stack([ct_voxels()] * 2, axis=-1))
        return "expected one 3D image, found size 16x14x10x2"
    raise AssertionError(what)


BAD = ["no label", "other grid", "other shape", "other organ", "empty label"]
BAD += ["fractions", "truncated", "constant", "4D"]


@pytest.mark.parametrize("what", BAD)
def test_bad_case_is_one_row_of_the_table_and_the_error_of_the_site(tmp_path, what):
    write_site(tmp_path, 3)
    words = damage(tmp_path, what)
    rows = check_cases(tmp_path, LIVER)
    assert [(row.name, row.ok) for row in rows] == [("case00", True), ("case01", False), ("case02", True)]
    assert re.search(words, rows[1].why)
    assert rows[0].why == rows[2].why == ""
    with pytest.raises(InputError, match=f"Case case01: .*{words}"):
        open_site(tmp_path, label_set=LIVER, contract=CONTRACT)


def test_missing_label_is_found_before_any_case_is_read(tmp_path):
    write_site(tmp_path, 3)
    damage(tmp_path, "constant")
    (tmp_path / "labels" / "case02.nii.gz").unlink()
    with pytest.raises(InputError, match="Case case02"):
        open_site(tmp_path, label_set=LIVER, contract=CONTRACT)


@pytest.mark.parametrize("cases, validation", [(7, 0), (8, 2), (10, 2), (13, 3)])
def test_a_fifth_of_eight_or_more_cases_validates(tmp_path, cases, validation):
    site = open_site(write_site(tmp_path, cases), label_set=LIVER, contract=CONTRACT)
    assert len(site.validation_cases) == validation
    names = [case.name for case in site.training_cases + site.validation_cases]
    assert sorted(names) == [f"case{i:02d}" for i in range(cases)]


def test_seed_alone_decides_which_cases_validate(tmp_path):
    write_site(tmp_path, 10)

    def drawn(seed: int) -> set[str]:
        site = open_site(tmp_path, label_set=LIVER, contract=CONTRACT, seed=seed)
        return {case.name for case in site.validation_cases}

    assert drawn(0) == drawn(0)
    assert len({frozenset(drawn(seed)) for seed in range(5)}) > 1


def test_only_the_named_cases_are_read(tmp_path):
    write_site(tmp_path, 3)
    damage(tmp_path, "constant")
    site = open_site(tmp_path, label_set=LIVER, contract=CONTRACT, only=["case02", "case00"])
    assert [case.name for case in site.training_cases] == ["case00", "case02"]
    with pytest.raises(InputError, match="Expected cases of the folder, found case77"):
        open_site(tmp_path, label_set=LIVER, contract=CONTRACT, only=["case00", "case77"])
    with pytest.raises(InputError, match="Expected cases of the folder, found no name"):
        open_site(tmp_path, label_set=LIVER, contract=CONTRACT, only=[])


MSD = {"labels": {"0": "background", "1": "liver", "2": "cancer"}}
MSD["training"] = [{"image": "./imagesTr/liver_0.nii.gz", "label": "./labelsTr/liver_0.nii.gz"}]
LAYOUTS = {
    "MSD": (("imagesTr/liver_0", "labelsTr/liver_0"), (1, 2), {"liver": 2}),
    "KiTS19": (("case_00000/imaging", "case_00000/segmentation"), (1, 2), {"kidneys": 2}),
    "BTCV": (
        ("img/img0001", "label/label0001"),
        (1, 2, 3, 6, 11),
        {"liver": 1, "spleen": 1, "kidneys": 2, "pancreas": 1},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_miniature_of_a_public_layout_opens_with_its_own_label_values(tmp_path, layout):
    (image, label), values, slices = LAYOUTS[layout]
    save(tmp_path / f"{image}.nii.gz", ct_voxels())
    save(tmp_path / f"{label}.nii.gz", label_voxels(*values))
    if layout == "MSD":
        (tmp_path / "dataset.json").write_text(json.dumps(MSD))
    site = open_site(tmp_path, label_set=None, contract=DataContract((5, 5, 6)))
    assert {organ: mask.sum() / 36 for organ, mask in site.training_cases[0].masks.items()} == slices
    assert [row.ok for row in check_cases(tmp_path)] == [True]


def test_progress_counts_cases_and_can_cancel(tmp_path):
    write_site(tmp_path, 3)
    seen = []
    open_site(tmp_path, label_set=LIVER, contract=CONTRACT, on_progress=lambda *event: seen.append(event))
    check_cases(tmp_path, LIVER, on_progress=lambda *event: seen.append(event))
    assert seen == [
        ("cases", 1, 3),
        ("cases", 2, 3),
        ("cases", 3, 3),
        ("check", 1, 3),
        ("check", 2, 3),
        ("check", 3, 3),
    ]

    def stop(*_: object) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        open_site(tmp_path, label_set=LIVER, contract=CONTRACT, on_progress=stop)


def test_real_btcv_case_opens_with_four_organs(tmp_path):
    if not (SHARED / "btcv18").exists():
        pytest.skip("btcv18 is not on this machine")
    site = open_site(SHARED / "btcv18", label_set=None, contract=DataContract((3, 3, 3), (-125, 275)), only=["img0005"])
    (case,) = site.training_cases
    volumes = {organ: mask.sum() * 0.027 for organ, mask in case.masks.items()}
    assert 800 < volumes["liver"] < 3000
    assert 50 < volumes["spleen"] < 800
    assert 150 < volumes["kidneys"] < 800
    assert 30 < volumes["pancreas"] < 200
    liver, kidneys = (np.argwhere(case.masks[organ]).mean(axis=0) for organ in ("liver", "kidneys"))
    assert liver[0] > case.voxels.shape[0] / 2 - 5  # the first network axis runs to the patient's right
    assert liver[2] > kidneys[2]


def test_real_ct_with_a_label_made_for_it_is_a_site(tmp_path):
    ct, label = (SHARED / f"totalsegmentator_example_{kind}.nii.gz" for kind in ("ct", "label"))
    if not ct.exists():
        pytest.skip("the example CT is not on this machine")
    for kind, path in (("images", ct), ("labels", label)):
        (tmp_path / kind).mkdir()
        shutil.copy(path, tmp_path / kind / "a.nii.gz")
    organs = LabelSet({"liver": (1,), "spleen": (2,), "kidneys": (3,), "pancreas": (4,)})
    (case,) = open_site(tmp_path, label_set=organs, contract=DataContract((3, 3, 3))).training_cases
    assert case.voxels.shape == read_ct(ct).voxels.shape
    native = np.asarray(nib.load(label).dataobj)
    for organ, (value,) in organs.values.items():
        assert case.masks[organ].sum() == (native == value).sum()


def cached(root: Path, cache: Path, **choices) -> tuple[list, list[Path]]:
    """The cases of a site opened with a cache, and the cache's files."""
    options = {"label_set": LIVER, "contract": CONTRACT} | choices
    return open_site(root, cache=cache, **options).training_cases, sorted(cache.iterdir())


def test_prepared_cases_come_back_from_the_cache_as_they_were(tmp_path, monkeypatch):
    root, cache = write_site(tmp_path / "site", 2), tmp_path / "work" / "cases"
    plain = open_site(root, label_set=LIVER, contract=CONTRACT).training_cases
    _, files = cached(root, cache)
    monkeypatch.setattr("segviz_core.cases.prepare", None)  # nothing is prepared again
    again, same = cached(root, cache)
    assert same == files
    for a, b in zip(plain, again, strict=True):
        np.testing.assert_array_equal(a.voxels, b.voxels)
        assert isinstance(b.voxels, np.memmap)
        assert not b.voxels.flags.writeable
        assert a.masks.keys() == b.masks.keys()
        assert all(np.array_equal(a.masks[organ], b.masks[organ]) for organ in a.masks)
        np.testing.assert_array_equal(a.places("liver"), b.places("liver"))


@pytest.mark.parametrize("change", ["image", "label", "label set", "contract", "code"])
def test_cache_follows_everything_a_case_depends_on(tmp_path, monkeypatch, change):
    root, cache = write_site(tmp_path / "site", 1, 1, 2), tmp_path / "cases"
    _, before = cached(root, cache)
    choices = {}
    if change == "image":
        save(root / "images" / "case00.nii.gz", ct_voxels(7))
    elif change == "label":
        save(root / "labels" / "case00.nii.gz", label_voxels(2, 1))
    elif change == "label set":
        choices = {"label_set": LabelSet({"liver": (2,)})}
    elif change == "contract":
        choices = {"contract": DataContract((9, 9, 9))}
    else:
        monkeypatch.setattr("segviz_core.cases._code", lambda: "another")
    _, after = cached(root, cache, **choices)
    assert len(after) == 1  # the old one is gone
    assert after != before


def test_case_that_left_the_site_leaves_the_cache(tmp_path):
    root, cache = write_site(tmp_path / "site", 2), tmp_path / "cases"
    cached(root, cache)
    (root / "images" / "case00.nii.gz").unlink()
    (root / "labels" / "case00.nii.gz").unlink()
    cases, files = cached(root, cache)
    assert [case.name for case in cases] == ["case01"]
    assert [file.name.partition("-")[0] for file in files] == ["case01"]


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "no header"])
def test_damaged_entry_of_the_cache_is_made_again(tmp_path, damage):
    root, cache = write_site(tmp_path / "site", 1), tmp_path / "cases"
    (case,), (file,) = cached(root, cache)
    expected, data = np.array(case.voxels), bytearray(file.read_bytes())
    del case
    data[-1] ^= 1
    file.write_bytes({"truncated": data[:-9], "changed": data, "empty": b"", "no header": b"\xff" * 64}[damage])
    ((case,), _) = cached(root, cache)
    np.testing.assert_array_equal(case.voxels, expected)


def test_places_of_a_large_organ_are_thinned_evenly():
    mask = np.zeros((40, 40, 40), bool)
    mask[4:36, 4:36, 4:36] = True
    places = Case("c", mask.astype(np.uint8), {"liver": mask}).places("liver")
    assert 2048 <= places.size <= 4097
    assert mask.ravel()[places].all()
    np.testing.assert_allclose(np.mean(np.unravel_index(places, mask.shape), axis=1), 19.5, atol=0.6)
