"""Markers planted at a site are searched in all that leaves it and in every file of the coordinator: none is there.

What leaves is taken twice: of every kind of request where Flower takes it, the records that the ClientApp returns; and
of a real run on the wire, where TLS ends.
"""

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from federation_processes import Coordinator, states, wait_until
from flwr.app import Array, RecordDict
from memory_grid import as_in_a_run
from test_dicom_series import write_series
from tls_tap import TlsTap
from toy_cases import NETWORK

from segviz_core.cases import open_site
from segviz_core.contract import DataContract
from segviz_core.federation import client_app, coordinator, records, site, trainer_socket
from segviz_core.federation.child import free_port
from segviz_core.federation.guard import Rejected
from segviz_core.federation.kit import read_kit, write_kit
from segviz_core.federation.schema import DOING, LEAVES, is_one_of
from segviz_core.federation.session import SiteSession
from segviz_core.federation.settings import StudySettings
from segviz_core.federation.study import Study
from segviz_core.federation.weights import create_study
from segviz_core.labels import LABEL_SETS

TEXTS = ("ZQPATH", "ZQFILE", "ZQPATIENT", "ZQUSER", "ZQLABEL", "ZQERROR")
PATTERN = np.array([13, 77, -41, 150, 9, 121, -99, 60, 33, 201, -7, 88])  # HU of voxels in a row
SETTINGS = StudySettings(
    "toy",
    network=NETWORK,
    patch_size=(8, 8, 8),
    contract=DataContract((2.0, 2.0, 2.0)),  # the grid of the cases, so that the pattern stays as it is
    local_steps=2,
    local_chunks=1,
    rounds=2,
    steps_per_round=1,
    tune_steps=1,
    head_steps=1,
)
STAGES = set(DOING) - {"train-head", "heads"}  # a newcomer's, and of a study that takes heads at its end


def write_cases(folder: Path, organ: str) -> None:
    """A DICOM folder and a NRRD file, with labels, that hold every marker."""
    rng = np.random.default_rng(len(organ))
    for name in ("ZQFILE_DOE", "ZQFILE_ROE"):
        label = np.zeros((16, 16, 16), np.uint8)
        label[4:12, 4:12, 4:12] = LABEL_SETS[organ].values[organ][0]
        ct = (rng.normal(0, 20, label.shape) + 90 * (label > 0)).astype(np.int16)
        ct[5, 5, 2:14] = ct[2:14, 8, 8] = PATTERN  # along the last axis and the first
        image = folder / "images" / name
        image.parent.mkdir(parents=True, exist_ok=True)
        (folder / "labels").mkdir(exist_ok=True)
        if name.endswith("DOE"):
            write_series(image, ct, step=(0.0, 0.0, 2.0), spacing=(2.0, 2.0), tags={"0010|0010": "ZQPATIENT^JOHN"})
            affine_of = sitk.ImageSeriesReader()
            affine_of.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(image)))
            grid = affine_of.Execute()
        else:
            grid = sitk.GetImageFromArray(ct.T)
            grid.SetSpacing((2.0, 2.0, 2.0))
            grid.SetMetaData("PatientName", "ZQPATIENT^JANE")
            sitk.WriteImage(grid, str(image) + ".nrrd")
        annotation = sitk.GetImageFromArray(label.T)
        annotation.CopyInformation(grid)
        annotation.SetMetaData("Segment0_Name", "ZQLABEL tumour of Mr Doe")
        sitk.WriteImage(annotation, str(folder / "labels" / f"{name}.nrrd"))


class Captured:
    """A whole study of two sites with planted markers, and everything that left the sites."""

    def __init__(self, folder: Path) -> None:
        self.study_folder, self.leaving, self.replies = folder / "coordinator", [], []
        create_study(self.study_folder, SETTINGS)
        study, self.sites = Study(self.study_folder), {}
        for node, organ in (("1", "liver"), ("2", "spleen")):
            site = folder / f"ZQPATH-{organ}"
            write_cases(site / "cases", organ)
            (site / "folder").mkdir()
            contract = SETTINGS.contract
            cases = open_site(site / "cases", label_set=LABEL_SETS[organ], contract=contract)
            session = SiteSession(SETTINGS.for_site(f"site-{node}"), cases, site / "folder" / "work")
            self._serve(site / "folder", session)
            self.sites[node] = (site, session)
        while not study.finished:
            rejected = {}
            for node, request in study.requests(list(self.sites)):
                reply = client_app.answer(records.to_record(request), self.sites[node][0] / "folder")
                self._take(reply)
                try:
                    study.accept(node, records.from_record(reply))
                except Rejected as error:
                    rejected[node] = error.message
            study.close_round(seconds=0.0, rejected=rejected)
        assert not [row for row in study.history() if row["rejected"]]
        for site, session in self.sites.values():  # and an error, whose text names a patient
            session.handle = _fail
            self._take(client_app.answer(records.to_record(request), site / "folder"))

    def _serve(self, folder: Path, session: SiteSession) -> None:
        arguments = (trainer_socket.listen(folder), lambda request, _: session.handle(request))
        options = {"on_error": lambda _: None}
        threading.Thread(target=trainer_socket.serve, args=arguments, kwargs=options, daemon=True).start()

    def _take(self, record: RecordDict) -> None:
        for name, part in record.items():
            self.leaving.append(name.encode())
            for key, value in part.items():
                self.leaving += [key.encode(), value.data if isinstance(value, Array) else repr(value).encode()]
        if "settings" in record:
            self.replies.append(records.from_record(record))


@contextmanager
def someone_at_the_site() -> Iterator[pytest.MonkeyPatch]:
    """Processes that start meanwhile belong to a user with a name of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("USER", "LOGNAME", "USERNAME"):
            patch.setenv(name, "ZQUSER")
        yield patch


def _fail(*_: object) -> None:
    raise RuntimeError("/ZQPATH/ZQFILE: ZQERROR")


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Captured]:
    folder = tmp_path_factory.mktemp("privacy")
    with someone_at_the_site() as patch:
        as_in_a_run(patch)
        yield Captured(folder)


class Tapped:
    """A real study over TLS of one site with planted markers; all that it sent, and the coordinator's folder."""

    def __init__(self, folder: Path) -> None:
        settings = dataclasses.replace(SETTINGS, mode="segviz-fedavg", rounds=1, min_sites=1, wait_seconds=300.0)
        self.study = folder / "coordinator"
        coordinator.create(self.study, settings, port=free_port())
        tap = TlsTap(self.study, front=coordinator.read_server(self.study)["port"])
        kit = coordinator.add_site(self.study, "north")
        write_kit(kit, dataclasses.replace(read_kit(kit), address=f"127.0.0.1:{tap.port}"))
        place = folder / "ZQPATH-liver"
        write_cases(place / "cases", "liver")
        options = site.SiteOptions(place / "cases", ("liver",), LABEL_SETS["liver"].values, cores=1)
        with Coordinator(self.study) as leader:
            with someone_at_the_site():
                assert site.join(kit, options, folder=place / "folder", consent=True)["state"] == "online"
            wait_until(lambda: states(place / "folder")[-1] == "finished", 300, leader.output)
            assert leader.process.wait(60) == 0, leader.output()
        tap.close()
        self.sent = [bytes(buffer) for buffer in tap.sent]


@pytest.fixture(scope="module")
def tapped(tmp_path_factory: pytest.TempPathFactory, unmeasured_children: None) -> Tapped:
    return Tapped(tmp_path_factory.mktemp("wire"))


def hits(content: bytes) -> list[str]:
    """The markers in some bytes: texts in three encodings, the voxels in every form that they take at a site."""
    found = [text for text in TEXTS for code in ("utf-8", "utf-16-le", "utf-16-be") if text.encode(code) in content]
    byte = np.rint(255 * (PATTERN + 175) / 425)  # the contract's window
    voxels = {f"HU as {kind}": PATTERN.astype(kind) for kind in ("<i2", "<i4", "<f4", "<f8", ">i2")}
    voxels |= {"byte": byte.astype(np.uint8)}
    voxels |= {f"intensity as {kind}": (byte / 255).astype(kind) for kind in ("<f2", "<f4", "<f8")}
    lines = [(name, line) for name, array in voxels.items() for line in (array, array[::-1])]  # axes may be flipped
    return found + [name for name, line in lines if line.tobytes() in content]


def test_search_finds_the_markers_where_they_are(captured: Captured) -> None:
    site, session = captured.sites["1"]
    voxels = session.site.training_cases[0].voxels
    assert hits(voxels.tobytes()) == hits(voxels.tobytes(order="F")) == ["byte"]
    assert "intensity as <f4" in hits(session.site.training_cases[0].intensities.tobytes())
    at_the_site = b"".join(path.read_bytes() for path in sorted(site.rglob("*")) if path.is_file())
    assert {"ZQPATIENT", "ZQLABEL", "HU as <i2"} <= set(hits(at_the_site))


def test_no_marker_leaves_the_site(captured: Captured) -> None:
    assert {reply.stage for reply in captured.replies} == STAGES
    assert len(captured.leaving) > 50
    assert [found for content in captured.leaving for found in hits(content)] == []


def test_no_marker_is_in_any_file_of_the_coordinator(captured: Captured) -> None:
    files = [path for path in captured.study_folder.rglob("*") if path.is_file()]
    assert {"history.jsonl", "checkpoint.safetensors"} <= {path.name for path in files}
    assert {path.name: hits(path.read_bytes()) for path in files if hits(path.read_bytes())} == {}


def test_no_marker_is_on_the_wire_of_a_real_run_nor_in_the_coordinators_files_and_logs(tapped: Tapped) -> None:
    sent = b"".join(tapped.sent)
    assert b"safetensors" in sent  # TLS ends here: weights are seen
    assert b"cases/liver" in sent
    assert len(sent) > 10_000
    assert [found for content in tapped.sent for found in hits(content)] == []
    files = [path for path in tapped.study.rglob("*") if path.is_file()]
    assert {"superlink.log", "front.log", "state.db", "meta_model.safetensors"} <= {path.name for path in files}
    assert {path.name: hits(path.read_bytes()) for path in files if hits(path.read_bytes())} == {}


def test_only_what_the_consent_names_leaves(captured: Captured) -> None:
    for reply in captured.replies:
        names = {*reply.settings, *reply.metrics, *reply.arrays}
        assert not [name for name in names if not is_one_of(name, tuple(LEAVES))]
        assert all(len(str(value)) <= 64 for value in reply.settings.values())
