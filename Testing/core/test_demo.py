"""The whole of SegViz on the smallest phantoms: real Flower processes over TLS, interrupted once on the way."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from segviz_core.cases import open_site
from segviz_core.experiments.profiles import PROFILES
from segviz_core.experiments.runner import run_study
from segviz_core.federation.schedule import schedule
from segviz_core.federation.session import SiteSession
from segviz_core.federation.settings import StudySettings
from segviz_core.federation.study import Study
from segviz_core.federation.weights import create_study
from segviz_core.labels import LABEL_SETS
from segviz_core.meta_model import MetaModel

pytestmark = pytest.mark.timeout(400)


class Run:
    """What the demo left behind, and what was seen when it was interrupted after its second round."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        first = self._start()
        deadline = time.monotonic() + 200
        while _complete_rounds(folder) < 2 and time.monotonic() < deadline and first.poll() is None:
            time.sleep(0.2)
        first.send_signal(signal.SIGINT)
        self.interrupted_output = first.communicate(timeout=300)[0]
        self.interrupted_code = first.returncode
        self.left_over = _processes_of(folder)
        self.rounds_before = _complete_rounds(folder)
        second = self._start()
        self.output = second.communicate(timeout=600)[0]
        self.code = second.returncode
        self.left_over_at_the_end = _processes_of(folder)

    def _start(self) -> subprocess.Popen:
        command = [sys.executable, "-m", "segviz_core", "--json", "demo", str(self.folder), "--profile", "smoke"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("demo"))


def test_interrupted_demo_says_so_and_leaves_no_process(demo):
    assert demo.interrupted_code == 4, demo.interrupted_output
    assert '"kind": "cancelled"' in demo.interrupted_output
    assert "Traceback" not in demo.interrupted_output
    assert demo.left_over == []


def test_started_again_it_goes_on_after_the_last_finished_round(demo):
    assert demo.code == 0, demo.output
    assert demo.rounds_before >= 2
    rows = [
        json.loads(line) for line in (demo.folder / "study" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    complete = [row["round"] for row in rows if row["complete"]]
    assert complete == list(range(1, len(schedule(_settings(demo))) + 1))  # every round once, none lost or repeated
    assert demo.left_over_at_the_end == []


def test_real_federation_and_runner_give_identical_weights(demo, tmp_path):
    settings = _settings(demo)
    create_study(tmp_path / "study", settings)
    study = Study(tmp_path / "study")
    sites = {
        organ: SiteSession(
            settings.for_site(organ),
            open_site(demo.folder / "data" / organ, label_set=LABEL_SETS[organ], contract=settings.contract),
            tmp_path / organ,
        )
        for organ in PROFILES["smoke"].cases
    }
    run_study(study, {organ: site.handle for organ, site in sites.items()})
    real = Study(demo.folder / "study").state
    for key, array in study.state.representation.items():
        np.testing.assert_array_equal(real.representation[key], array, err_msg=key)
    for organ, head in study.state.heads.items():
        for key, array in head.items():
            np.testing.assert_array_equal(real.heads[organ][key], array, err_msg=f"{organ} {key}")


def test_result_is_a_meta_model_of_all_organs_and_labels_on_the_grid_of_the_ct(demo):
    model = MetaModel.load(demo.folder / "meta_model.safetensors")
    assert [organ.name for organ in model.organs] == ["liver", "spleen"]
    ct, organs = nib.load(demo.folder / "ct.nii.gz"), nib.load(demo.folder / "organs.nii.gz")
    assert organs.shape == ct.shape
    np.testing.assert_allclose(organs.affine, ct.affine, atol=1e-4)
    assert organs.get_data_dtype() == np.uint8


def test_every_site_has_the_same_meta_model_as_the_coordinator(demo):
    model = (demo.folder / "meta_model.safetensors").read_bytes()
    for organ in ("liver", "spleen"):
        assert (demo.folder / "sites" / organ / "work" / "meta_model.safetensors").read_bytes() == model


def test_sites_end_by_themselves_when_the_study_is_finished(demo):
    for organ in ("liver", "spleen"):
        rows = [
            json.loads(line)
            for line in (demo.folder / "sites" / organ / "status.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        assert [row["state"] for row in rows if row["event"] == "state"][-1] == "finished"


def test_summary_says_what_happened(demo):
    summary = json.loads((demo.folder / "summary.json").read_text(encoding="utf-8"))
    assert set(summary["dice"]) == {"liver", "spleen", "mean"}
    assert all(0 <= value <= 1 for value in summary["dice"].values())
    assert summary["rounds"] == len(schedule(_settings(demo)))
    assert set(summary["seconds"]) == {"phantoms", "federation", "segmentation"}
    assert all(traffic["sent"] > 0 and traffic["received"] > 0 for traffic in summary["bytes_per_site"].values())
    assert summary["versions"]["flwr"] == "1.41.0"


def test_report_is_one_file_that_needs_no_network(demo):
    text = (demo.folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']https?:""", text)
    assert "data:image/png;base64," in text
    assert (demo.folder / "report.png").stat().st_size > 10_000


def test_nothing_of_a_patient_or_a_path_is_in_the_coordinators_files(demo):
    """Case names and folders of a site must not reach the study folder (it stands for another computer)."""
    cases = [path.name.removesuffix(".nii.gz") for path in (demo.folder / "data" / "liver" / "images").iterdir()]
    assert cases
    for path in (demo.folder / "study").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for secret in (*cases, str(demo.folder / "data")):
                assert secret.encode() not in content, f"{secret} in {path.name}"


def _settings(demo: Run) -> StudySettings:
    return StudySettings.from_dict(json.loads((demo.folder / "study" / "study.json").read_text(encoding="utf-8")))


def _complete_rounds(folder: Path) -> int:
    path = folder / "study" / "history.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return sum('"complete": true' in line for line in lines)


def _processes_of(folder: Path) -> list[str]:
    """Command lines of all processes of this computer that name `folder`, this one left out."""
    deadline = time.monotonic() + 10
    while True:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in command and int(entry.name) != os.getpid():
                found.append(command)
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.5)
