"""Writes Resources/Screenshots/*.png from the real module on the harness: `make screenshots`. Look at each one.

The CT is a synthetic phantom; the model, the organs that it finds and a site's rounds come from the last `make demo`.
"""

import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "SegVizSlicer")]
from harness_import import slicer_harness  # noqa: E402

application = slicer_harness.start()

import numpy as np  # noqa: E402
import qt  # noqa: E402
import slicer  # noqa: E402
from children import child_python, write_kit, write_launcher  # noqa: E402
from scenes import FakeProcess, NothingMissing, make_window  # noqa: E402
from slicer_harness.render import SliceView, ThreeDView  # noqa: E402

TARGET = ROOT / "Resources" / "Screenshots"
DEMO = ROOT / "demo"
DEMO_MODEL = DEMO / "meta_model.safetensors"
PANEL_WIDTH, VIEW = 480, 400
PHANTOM = """
import dataclasses, sys
import numpy as np
sys.path.insert(0, {root!r})
from segviz_core.experiments.phantoms import make_phantom
from segviz_core.experiments.profiles import PROFILES
profile = dataclasses.replace(PROFILES["small"], shape=(160, 120, 120), spacing_mm=(2.0, 2.0, 2.0))
ct, labels = make_phantom("test", 1, profile=profile)
np.savez_compressed({path!r}, hu=ct.voxels, labels=labels, affine=ct.affine)
"""


@dataclasses.dataclass
class Shots:
    """The pictures so far, and the window they are taken of."""

    window: object
    root: object
    written: list[str] = dataclasses.field(default_factory=list)

    def take(self, name: str, widget: object = None) -> None:
        """Grab `widget` (the panel at its natural height by default) into NAME.png."""
        settle()
        if widget is None:
            self.root.resize(PANEL_WIDTH, 10)
            settle()
            self.root.resize(PANEL_WIDTH, self.root.layout().totalHeightForWidth(PANEL_WIDTH) - 40)
            settle()
            widget = self.root
        widget.grab().save(str(TARGET / f"{name}.png"))
        self.written.append(name)


def main() -> int:
    """Write every picture and their names."""
    if not (DEMO / "summary.json").exists():
        sys.stderr.write("There is no finished demo to take pictures of: run `make demo` first.\n")
        return 3
    TARGET.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.gettempdir()) / "segviz-site"  # a name that may be seen in the pictures
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        shots = picture_everything(folder)
    finally:
        shutil.rmtree(folder)
    sys.stdout.write("".join(f"{TARGET.relative_to(ROOT)}/{name}.png\n" for name in shots.written))
    return 0


def picture_everything(folder: Path) -> Shots:
    """The journey of a user, with a picture at every stop."""
    qt.QSettings().clear()
    window = make_window(folder, dependencies=NothingMissing(folder))
    root = window.ui.segmentSection.parentWidget()
    root.setParent(None)
    root.show()
    shots = Shots(window, root)
    shots.take("empty")
    ct, truth = add_phantom(folder)
    (folder / "models").mkdir(exist_ok=True)
    shutil.copyfile(DEMO_MODEL, folder / "models" / "meta_model.safetensors")
    window.segment.refreshModels()
    window.ui.inputSelector.setCurrentNode(ct)
    shots.take("ready")
    window.ui.applyButton.click()
    process = FakeProcess.started[-1]
    process.onProgress("network", 37, 120)
    shots.take("running")
    process.finish(organs_of(folder, ct))
    shots.take("result")
    shots.take("views", views(ct, window.ui.outputSelector.currentNode(), truth))
    window.ui.applyButton.click()
    FakeProcess.started[-1].fail("There is not enough memory.", "Close other programs, or choose Fast.")
    shots.take("error")
    window.ui.logSection.collapsed = True
    window.ui.segmentSection.collapsed = True
    picture_federation(shots, folder)
    window.ui.federationSection.collapsed = True
    window.ui.advancedSection.collapsed = False
    window.advanced.showSetup()
    shots.take("advanced")
    return shots


def picture_federation(shots: Shots, folder: Path) -> None:
    """The section before, the consent dialog, and a site between two rounds."""
    from SegVizSlicerLib.ConsentDialog import ConsentDialog, storeConsent
    from SegVizSlicerLib.SiteRecord import SiteRecord

    window, ui = shots.window, shots.window.ui
    ui.federationSection.collapsed = False
    shots.take("federation-start")
    ui.kitPath.setCurrentPath(str(write_kit(folder / "north.zip")))
    ui.labelSetSelector.setCurrentIndex(1)
    (folder / "cases").mkdir()
    ui.casesPath.setCurrentPath(str(folder / "cases"))
    ui.checkCasesButton.click()
    why = "expected a label for this image, found none."
    cases = [
        {"name": f"ct_{i:02d}", "image": f"ct_{i:02d}.nrrd", "ok": i != 2, "why": why * (i == 2)} for i in (1, 2, 3)
    ]
    FakeProcess.started[-1].finish(cases=cases)
    shots.take("federation-cases")
    dialog = ConsentDialog(window.federation.kit, window.federation.labelSet.organs())
    dialog.show()
    shots.take("consent", dialog)
    dialog.close()
    storeConsent(window.federation.kit, window.federation.labelSet.organs())
    site = folder / "site"
    copy_record(site)
    status = SiteRecord(site).read()
    status.running = True
    window.federation.logic.joined = lambda: True
    window.federation.logic.status = lambda: status
    ui.connectionLabel.setText("The coordinator answers and its certificate is right.")
    ui.casesTable.setRowCount(0)
    window.updateGUI()
    window.federation.rounds.showStatus(status)
    shots.take("federation")
    window.federation.logic.joined = lambda: False


def copy_record(site: Path) -> None:
    """The record of the demo's liver site up to the middle of a shared round."""
    site.mkdir()
    rows = [
        json.loads(line)
        for line in (DEMO / "sites" / "liver" / "status.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    steps = [i for i, row in enumerate(rows) if row["event"] == "progress" and row["stage"] == "train"]
    middle = next(i for i in reversed(steps) if rows[i]["done"] < rows[i]["total"])
    (site / "status.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[: middle + 1]))
    sent = [
        json.loads(line) for line in (DEMO / "sites" / "liver" / "audit.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    sent = [row for row in sent if row.get("settings", {}).get("round", 0) < rows[middle]["round"]]
    (site / "audit.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sent))


def add_phantom(folder: Path) -> tuple[object, np.ndarray]:
    """A phantom CT in the scene and the labels of its organs (k, j, i)."""
    path = folder / "phantom.npz"
    program = PHANTOM.format(root=str(ROOT), path=str(path))
    subprocess.run([child_python(), "-c", program], check=True)
    data = np.load(path)
    hu = np.ascontiguousarray(data["hu"].transpose(2, 1, 0))
    node = slicer.util.addVolumeFromArray(hu, data["affine"], "Abdomen CT", "vtkMRMLScalarVolumeNode")
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevel(400, 40)
    return node, np.ascontiguousarray(data["labels"].transpose(2, 1, 0))


def organs_of(folder: Path, ct: object) -> np.ndarray:
    """What the demo's model finds."""
    from SegVizSlicerLib.SegmentationLogic import exportVolume

    exportVolume(ct, folder / "ct.nrrd")
    launcher = write_launcher(folder / "bin")
    command = [str(launcher), "-m", "segviz_core", "segment", str(folder / "ct.nrrd"), str(folder / "o.nrrd")]
    subprocess.run([*command, "--model", str(DEMO_MODEL)], check=True, cwd=ROOT)
    node = slicer.util.loadLabelVolume(str(folder / "o.nrrd"), {})
    labels = slicer.util.arrayFromVolume(node).copy()
    slicer.mrmlScene.RemoveNode(node)
    return labels


def views(ct: object, segmentation: object, truth: np.ndarray) -> object:
    """Axial, 3D, coronal and sagittal view of the organs over the CT, as one widget."""
    segmentation.CreateClosedSurfaceRepresentation()
    segmentation.GetDisplayNode().SetOpacity2DFill(0.35)
    matrix = slicer.vtkMRMLSliceNode().GetXYToRAS()
    ct.GetIJKToRASMatrix(matrix)
    middle = [float(np.median(axis)) for axis in np.nonzero(truth == 1)[::-1]]
    center = matrix.MultiplyPoint([*middle, 1.0])[:3]
    size = (VIEW, VIEW)
    logic = application.applicationLogic()
    pictures = [SliceView(logic, "Red", "Axial", size).pixels(ct, center), ThreeDView(logic, size).pixels()]
    pictures.append(SliceView(logic, "Green", "Coronal", size).pixels(ct, center))
    pictures.append(SliceView(logic, "Yellow", "Sagittal", size).pixels(ct, center))
    top, bottom = np.hstack(pictures[:2]), np.hstack(pictures[2:])
    pixels = np.ascontiguousarray(np.vstack([top, bottom])[..., :3])
    image = qt.QImage(pixels.data, pixels.shape[1], pixels.shape[0], 3 * pixels.shape[1], qt.QImage.Format_RGB888)
    label = qt.QLabel()
    label.setPixmap(qt.QPixmap.fromImage(image.copy()))
    label.resize(pixels.shape[1], pixels.shape[0])
    return label


def settle() -> None:
    """Let layouts and paint events happen."""
    for _ in range(5):
        application.processEvents()
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
