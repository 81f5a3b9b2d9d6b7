import hashlib
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from segviz_core.errors import Cancelled, InputError
from segviz_core.experiments import phantoms
from segviz_core.experiments.phantoms import draw_case, make_phantom, missing_organ, write_phantoms
from segviz_core.experiments.profiles import PROFILES
from segviz_core.labels import ORGANS
from segviz_core.volumes import Volume, read_ct, read_labels, same_grid

SMALL, SMOKE = PROFILES["small"], PROFILES["smoke"]
FOUR_SITES = replace(SMOKE, cases=dict.fromkeys(ORGANS, 1), test_cases=4)
PLAUSIBLE_ML = {"liver": (600, 2200), "spleen": (30, 350), "kidneys": (90, 450), "pancreas": (20, 200)}


@cache
def case(site: str, index: int) -> tuple[Volume, NDArray[np.uint8]]:
    return make_phantom(site, index, profile=SMALL)


def volumes_ml(ct: Volume, labels: NDArray[np.uint8]) -> Mapping[str, float]:
    voxel_ml = float(np.prod(ct.spacing_mm)) / 1000
    return {name: np.count_nonzero(labels == organ.value) * voxel_ml for name, organ in ORGANS.items()}


def test_the_same_case_comes_out_of_another_process() -> None:
    code = (
        "import hashlib; from segviz_core.experiments.phantoms import make_phantom;"
        "from segviz_core.experiments.profiles import PROFILES;"
        "ct, labels = make_phantom('spleen', 3, profile=PROFILES['smoke'], seed=5);"
        "print(hashlib.sha256(ct.voxels.tobytes() + ct.affine.tobytes() + labels.tobytes()).hexdigest())"
    )
    ct, labels = make_phantom("spleen", 3, profile=SMOKE, seed=5)
    here = hashlib.sha256(ct.voxels.tobytes() + ct.affine.tobytes() + labels.tobytes()).hexdigest()
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert here == there


def test_seed_site_and_index_each_give_another_case() -> None:
    cases = [("liver", 0, 0), ("liver", 0, 1), ("liver", 1, 0), ("test", 0, 0)]
    images = {make_phantom(s, i, profile=SMOKE, seed=seed)[0].voxels.tobytes() for s, i, seed in cases}
    assert len(images) == len(cases)


def test_ct_is_int16_in_ras_far_from_the_origin_of_the_world() -> None:
    ct, labels = case("test", 0)
    assert ct.voxels.dtype == np.int16
    assert labels.dtype == np.uint8
    assert labels.shape == ct.voxels.shape == SMALL.shape
    np.testing.assert_array_equal(ct.affine[:3, :3], np.diag([5.0, 5.0, 5.0]))
    assert (np.abs(ct.affine[:3, 3]) > 50).all()


def test_anatomy_is_the_same_at_5_and_2_5_and_4_mm() -> None:
    coarse = volumes_ml(*case("test", 1))
    for shape, mm in (((128, 96, 96), 2.5), ((80, 60, 60), 4.0)):
        fine = volumes_ml(*make_phantom("test", 1, profile=replace(SMALL, shape=shape, spacing_mm=(mm, mm, mm))))
        for organ, ml in coarse.items():
            assert fine[organ] == pytest.approx(ml, rel=0.06), organ


@pytest.mark.parametrize("site", ["liver", "test"])
def test_organs_have_plausible_volumes_at_full_field_of_view(site: str) -> None:
    for index in range(8):
        volumes = volumes_ml(*case(site, index))
        for organ, (low, high) in PLAUSIBLE_ML.items():
            assert organ == missing_organ(site, index) or low <= volumes[organ] <= high, (index, organ, volumes)


def test_patients_with_an_organ_below_the_limit_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = [draw_case("liver", index) for index in range(3)]
    monkeypatch.setattr(phantoms, "SMALLEST_ORGAN_ML", 70.0)
    volumes = [volumes_ml(*make_phantom("liver", index, profile=SMALL)) for index in range(3)]
    assert min(min(v.values()) for v in volumes) >= 70
    assert any(draw_case("liver", i).scale != first[i].scale for i in range(3))


def test_sites_cut_their_field_of_view_where_the_method_says() -> None:
    heights = {site: np.mean([case(site, i)[0].voxels.shape[2] * 5 for i in range(4)]) for site in (*ORGANS, "test")}
    assert heights["liver"] == heights["test"] == 240
    assert heights["spleen"] == pytest.approx(160, abs=15)
    assert heights["pancreas"] == pytest.approx(200, abs=15)
    assert heights["kidneys"] == pytest.approx(190, abs=15)


def test_kidney_site_shows_bright_kidneys_and_a_dark_liver() -> None:
    def mean_hu(site: str, organ: str) -> float:
        scans = [case(site, index) for index in range(4)]
        return float(np.mean([ct.voxels[labels == ORGANS[organ].value].mean() for ct, labels in scans]))

    assert mean_hu("kidneys", "liver") < mean_hu("test", "liver") - 15
    assert mean_hu("kidneys", "kidneys") > mean_hu("kidneys", "liver") + 40


def test_every_fourth_test_case_lacks_one_organ_and_no_training_case_does() -> None:
    lacking = {index: missing_organ("test", index) for index in range(16)}
    assert {i: organ for i, organ in lacking.items() if organ} == {
        3: "spleen",
        7: "pancreas",
        11: "kidneys",
        15: "spleen",
    }
    assert not any(missing_organ(site, index) for site in ORGANS for index in range(300))
    for index in (3, 7, 2):
        assert {organ for organ, ml in volumes_ml(*case("test", index)).items() if ml == 0} == {lacking[index]} - {None}


def test_written_sites_hold_their_own_organ_and_the_test_site_all(tmp_path: Path) -> None:
    write_phantoms(FOUR_SITES, tmp_path)
    for site in ORGANS:
        ct, labels = read_ct(tmp_path / site / "images" / f"{site}_000.nii.gz"), tmp_path / site / "labels"
        written = read_labels(labels / f"{site}_000.nii.gz")
        assert set(np.unique(written.voxels)) == {0, ORGANS[site].value}
        assert same_grid(ct, written)
        made, _ = make_phantom(site, 0, profile=FOUR_SITES)
        np.testing.assert_array_equal(ct.voxels, made.voxels)
        np.testing.assert_allclose(ct.affine, made.affine, atol=1e-4)
    assert len(list((tmp_path / "test" / "images").iterdir())) == 4
    values = np.unique(read_labels(tmp_path / "test" / "labels" / "test_000.nii.gz").voxels)
    assert list(values) == [0, 1, 2, 3, 4]
    stored = nibabel.load(tmp_path / "test" / "images" / "test_000.nii.gz")
    assert nibabel.aff2axcodes(stored.affine) == ("R", "A", "S")
    assert stored.get_data_dtype() == np.int16


def test_a_second_call_writes_only_what_is_missing_and_the_same_bytes(tmp_path: Path) -> None:
    write_phantoms(SMOKE, tmp_path)
    files = sorted(tmp_path.rglob("*.nii.gz"))
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}
    files[0].unlink()
    calls: list[tuple[str, int, int]] = []
    write_phantoms(SMOKE, tmp_path, on_progress=lambda *call: calls.append(call))
    assert calls == [("phantoms", 4, 5), ("phantoms", 5, 5)]
    assert files[0].read_bytes() == before[files[0]][1]
    untouched = [f for f in files if f.name != files[0].name]
    assert all(file.stat().st_mtime_ns == before[file][0] for file in untouched)
    assert sorted(tmp_path.rglob("*.nii.gz")) == files


def test_a_cancelled_call_leaves_whole_files_and_the_next_one_goes_on(tmp_path: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if done == 1:
            raise Cancelled

    with pytest.raises(Cancelled, match="Cancelled"):
        write_phantoms(FOUR_SITES, tmp_path, on_progress=stop)
    written = list(tmp_path.rglob("*.nii.gz"))
    assert 2 <= len(written) < 16
    assert not [file for file in written if file.name.startswith(".")]
    write_phantoms(FOUR_SITES, tmp_path)
    assert len(list(tmp_path.rglob("*.nii.gz"))) == 16


def test_phantoms_of_two_seeds_or_profiles_never_share_a_folder(tmp_path: Path) -> None:
    write_phantoms(replace(SMOKE, cases={"liver": 1}), tmp_path, seed=1)
    with pytest.raises(InputError, match=r"holds phantoms of profile smoke, seed 1, not of smoke, seed 2\."):
        write_phantoms(SMOKE, tmp_path, seed=2)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"Cannot write .*file: .*Choose another folder"):
        write_phantoms(SMOKE, tmp_path / "file")
