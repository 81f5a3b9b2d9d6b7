"""Packages: each button asks for what it needs, once, and nothing is installed without a yes (slicer.md section 3).

Segmenting and training: packages of requirements*.txt into Slicer's Python, torch through the PyTorch extension.
Flower: into a private folder that only child processes see, because no release fits Slicer's own packages.
"""

import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

FLWR_VERSION = "1.41.0"
"""The release of `segviz_core`; a site kit that names another one is refused."""

TORCH_REQUIREMENT = ">=2.8,!=2.13.*"
"""The 2.13 wheel exceeds the 260 characters that a path may have on Windows (Slicer/light-the-torch #176)."""

SIZES = {"segment": _("about 1 GB with PyTorch"), "federation": _("275 MB")}


class Dependencies:
    """The two package sets. `ask(question) -> bool` gets a person's consent; tests hand in their own."""

    def __init__(self, resources: Path, folder: Path, *, ask: Callable[[str], bool] | None = None) -> None:
        self._resources, self._folder = resources, folder
        self._ask = ask or askUser

    @property
    def flwrFolder(self) -> Path:
        """The private folder of Flower."""
        return self._folder / f"flwr-{FLWR_VERSION}"

    def ensureSegment(self) -> None:
        """What `segment` and training need.

        Raises:
            RuntimeError: declined, not possible, or failed; the sentence says what to do.
        """
        self._ensureTorch()
        self._install("requirements.txt")

    def ensureFederation(self) -> None:
        """What a site needs: the segment set and Flower in its private folder."""
        self.ensureSegment()
        self._install("requirements-federation.txt")
        if self.flwrVersion() == FLWR_VERSION:
            return
        import slicer.packaging

        question = _("Joining a federation needs Flower {version} ({size}). Install it into {folder}?")
        if not self._ask(question.format(version=FLWR_VERSION, size=SIZES["federation"], folder=self.flwrFolder)):
            raise RuntimeError(_("Flower was not installed: joining needs it."))
        self.flwrFolder.mkdir(parents=True, exist_ok=True)
        arguments = ["--target", str(self.flwrFolder), f"flwr=={FLWR_VERSION}"]
        with _offline(offlineFolder()):
            slicer.packaging.pip_install(arguments, constraints=self._constraints(), requester="SegViz")

    def removeFederation(self) -> None:
        """Delete Flower's private folder; nothing of Slicer's own is touched."""
        shutil.rmtree(self.flwrFolder, ignore_errors=True)

    def flwrVersion(self) -> str:
        """Version in the private folder, or an empty string."""
        found = importlib.metadata.distributions(name="flwr", path=[str(self.flwrFolder)])
        return next((entry.version for entry in found), "")

    def missingSegment(self) -> list[str]:
        """Names of packages that `ensureSegment` would install."""
        import slicer.packaging

        requirements = slicer.packaging.load_requirements(self._resources / "requirements.txt")
        missing = [entry.name for entry in requirements if not slicer.packaging.pip_check(entry)]
        return missing if _version("torch") else ["torch", *missing]

    def _install(self, name: str) -> None:
        import slicer.packaging

        requirements = slicer.packaging.load_requirements(self._resources / name)
        with _offline(offlineFolder()):
            slicer.packaging.pip_ensure(requirements, requester="SegViz")

    def _ensureTorch(self) -> None:
        if _version("torch"):
            return
        try:
            import PyTorchUtils
        except ImportError:
            model = slicer.app.extensionsManagerModel()
            question = _(
                "SegViz needs Slicer's PyTorch extension. Install it now? Slicer has to be restarted afterwards."
            )
            if model is not None and self._ask(question):
                model.installExtensionFromServer("PyTorch")
            raise RuntimeError(
                _("SegViz needs the PyTorch extension: install it in the Extensions Manager and restart Slicer.")
            ) from None
        if (
            PyTorchUtils.PyTorchUtilsLogic().installTorch(
                askConfirmation=True, torchVersionRequirement=TORCH_REQUIREMENT
            )
            is None
        ):
            raise RuntimeError(_("PyTorch was not installed: segmenting and training need it."))

    def _constraints(self) -> Path:
        """Keeps numpy and torch as they are while Flower is installed."""
        path = self._folder / "constraints.txt"
        pins = [f"{name}=={version}" for name in ("numpy", "torch") if (version := _version(name))]
        path.write_text("\n".join(pins) + "\n", encoding="utf-8")
        return path


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
