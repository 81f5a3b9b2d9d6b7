"""Packages: each button asks for what it needs, once, and nothing is installed without a yes (slicer.md section 3).

Segmenting: requirements.txt into Slicer's Python. Training, or an NVIDIA GPU: PyTorch through its extension and
requirements-torch.txt. Flower: into a private folder that only child processes see, because no release fits Slicer's
own packages; so OpenVINO on Intel Macs.
"""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SegVizSlicerLib.CoreProcess import OPENVINO_FOLDER

FLWR_VERSION = "1.41.0"
"""The release of `segviz_core`; a site kit that names another one is refused."""

TORCH_REQUIREMENT = ">=2.8,!=2.13.*"
"""The 2.13 wheel exceeds the 260 characters that a path may have on Windows (Slicer/light-the-torch #176)."""

OPENVINO_INTEL_MAC = "2025.4.1"
"""The last release with a package for Intel Macs, which Slicer for macOS is made for. It asks for numpy < 2.4 and runs
with Slicer's 2.4.6 all the same (tried on Linux): hence its folder of its own, without dependencies."""

SIZES = {"segment": _("180 MB"), "federation": _("over 1 GB"), "flwr": _("275 MB")}


class Dependencies:
    """What is there and what is not. `ask(question) -> bool` gets a person's consent; tests hand in their own."""

    def __init__(self, resources: Path, folder: Path, *, ask: Callable[[str], bool] | None = None) -> None:
        self._resources, self._folder = resources, folder
        self._ask = ask or askUser

    @property
    def flwrFolder(self) -> Path:
        """The private folder of Flower."""
        return self._folder / f"flwr-{FLWR_VERSION}"

    @property
    def openvinoFolder(self) -> Path:
        """The private folder of OpenVINO on an Intel Mac."""
        return self._folder / OPENVINO_FOLDER

    def ensureSegment(self, device: str = "auto") -> None:
        """What `segment` and `check` need; PyTorch too where the user chose the GPU (`device` cuda).

        Raises:
            RuntimeError: declined, not possible, or failed; the sentence says what to do.
        """
        self._install("requirements.txt")
        if onIntelMac() and not _distribution("openvino", self.openvinoFolder):
            self._installOpenvino()
        if device == "cuda":
            self._ensureTorch(_("segmenting on the GPU"))

    def ensureFederation(self) -> None:
        """What a site needs: PyTorch to train, and Flower in its private folder."""
        self.ensureSegment()
        self._ensureTorch(_("training"))
        if self.flwrVersion() == FLWR_VERSION:
            return
        question = _("Joining a federation needs Flower {version} ({size}). Install it into {folder}?")
        if not self._ask(question.format(version=FLWR_VERSION, size=SIZES["flwr"], folder=self.flwrFolder)):
            raise RuntimeError(_("Flower was not installed: joining needs it."))
        self._installInto(self.flwrFolder, f"flwr=={FLWR_VERSION}", constraints=self._constraints())

    def removeFederation(self) -> None:
        """Delete Flower's private folder; nothing of Slicer's own is touched."""
        shutil.rmtree(self.flwrFolder, ignore_errors=True)

    def flwrVersion(self) -> str:
        """Version in the private folder, or an empty string."""
        return _distribution("flwr", self.flwrFolder)

    def missingSegment(self) -> list[str]:
        """Names of packages that `ensureSegment` would install."""
        own = ["openvino"] if onIntelMac() and not _distribution("openvino", self.openvinoFolder) else []
        return [*self._missing("requirements.txt"), *own]

    def missingFederation(self) -> list[str]:
        """Names of packages that `ensureFederation` would install beyond those of segmenting."""
        torch = [] if _version("torch") else ["torch"]
        flower = [] if self.flwrVersion() == FLWR_VERSION else [f"Flower {FLWR_VERSION}"]
        return [*torch, *self._missing("requirements-torch.txt"), *flower]

    def _requirements(self, name: str) -> list[Any]:
        import slicer.packaging

        requirements = slicer.packaging.load_requirements(self._resources / name)
        return [entry for entry in requirements if not (onIntelMac() and entry.name == "openvino")]

    def _missing(self, name: str) -> list[str]:
        import slicer.packaging

        return [entry.name for entry in self._requirements(name) if not slicer.packaging.pip_check(entry)]

    def _install(self, name: str) -> None:
        import slicer.packaging

        with _offline(offlineFolder()):
            slicer.packaging.pip_ensure(self._requirements(name), requester="SegViz")

    def _installInto(self, folder: Path, *arguments: str, constraints: Path | None = None) -> None:
        import slicer.packaging

        folder.mkdir(parents=True, exist_ok=True)
        with _offline(offlineFolder()):
            slicer.packaging.pip_install(
                ["--target", str(folder), *arguments], constraints=constraints, requester="SegViz"
            )

    def _installOpenvino(self) -> None:
        question = _("Segmenting needs OpenVINO {version} (about {size}). Install it into {folder}?")
        size = SIZES["segment"]
        if not self._ask(question.format(version=OPENVINO_INTEL_MAC, size=size, folder=self.openvinoFolder)):
            raise RuntimeError(_("OpenVINO was not installed: segmenting needs it."))
        try:
            self._installInto(self.openvinoFolder, "--no-deps", f"openvino=={OPENVINO_INTEL_MAC}")
        except Exception as error:
            shutil.rmtree(self.openvinoFolder, ignore_errors=True)
            reason = _("Segmenting is not available on this Mac: OpenVINO for Intel processors cannot be installed.")
            raise RuntimeError(reason) from error

    def _ensureTorch(self, purpose: str) -> None:
        """`purpose` says in the sentences what PyTorch is for."""
        if not _version("torch"):
            try:
                import PyTorchUtils
            except ImportError:
                self._offerExtension(purpose)
            logic = PyTorchUtils.PyTorchUtilsLogic()
            if logic.installTorch(askConfirmation=True, torchVersionRequirement=TORCH_REQUIREMENT) is None:
                raise RuntimeError(_("PyTorch was not installed: {purpose} needs it.").format(purpose=purpose))
        self._install("requirements-torch.txt")

    def _offerExtension(self, purpose: str) -> None:
        model = slicer.app.extensionsManagerModel()
        question = _("Slicer's PyTorch extension is needed for {purpose}. Install it now? Slicer restarts afterwards.")
        if model is not None and self._ask(question.format(purpose=purpose)):
            model.installExtensionFromServer("PyTorch")
        text = _("The PyTorch extension is needed for {purpose}: install it in the Extensions Manager, restart Slicer.")
        raise RuntimeError(text.format(purpose=purpose)) from None

    def _constraints(self) -> Path:
        """Keeps numpy and torch as they are while Flower is installed."""
        path = self._folder / "constraints.txt"
        pins = [f"{name}=={version}" for name in ("numpy", "torch") if (version := _version(name))]
        path.write_text("\n".join(pins) + "\n", encoding="utf-8")
        return path


def onIntelMac() -> bool:
    """Whether this is Slicer for macOS, which runs as a program for Intel processors on every Mac."""
    return sys.platform == "darwin" and platform.machine() == "x86_64"


def offlineFolder() -> str:
    """The folder of wheels that installs take packages from, or an empty string."""
    return str(qt.QSettings().value("SegViz/offlineFolder", "") or "")


def askUser(question: str) -> bool:
    """Yes or no, from a person: unlike slicer.util's questions it does not answer itself under --testing."""
    box = qt.QMessageBox(slicer.util.mainWindow())
    box.setWindowTitle("SegViz")
    box.setText(question)
    box.setStandardButtons(qt.QMessageBox.Yes | qt.QMessageBox.No)
    return bool(box.exec_() == qt.QMessageBox.Yes)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _distribution(name: str, folder: Path) -> str:
    """Version of a package in a private folder, or an empty string."""
    found = importlib.metadata.distributions(name=name, path=[str(folder)])
    return next((entry.version for entry in found), "")


@contextmanager
def _offline(folder: str) -> Iterator[None]:
    """pip takes packages from `folder` only, when there is one."""
    values: dict[str, Any] = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": folder} if folder else {}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
