"""Check setup: one line for each thing that segmenting and joining need, in words."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SegVizSlicerLib.CoreProcess import pythonExecutable
from SegVizSlicerLib.Dependencies import SIZES

FLOOR = (5, 12)
LEAST_DISK_GB = 5
LEAST_MEMORY_GB = 8


def checkSetup(window: Any) -> list[tuple[str, str]]:
    """(what, state) for each line; a state that needs something says what to do."""
    model = window.segment.model()
    return [
        (_("Slicer"), slicerVersion()),
        (_("Python"), f"{sys.version.split()[0]}, {Path(pythonExecutable()).name}"),
        (_("SegViz"), _coreVersion()),
        (_("Segmenting"), _segmenting(window.dependencies.missingSegment())),
        (_("Federation"), _federation(window.dependencies.missingFederation())),
        (_("Device"), deviceName()),
        (_("Memory"), _memory()),
        (_("Disk"), _disk(window.folder)),
        (_("Work path"), _workPath()),
        (_("Model"), model.hash[:12] if model else _("none: import one")),
        (_("Coordinator"), window.federation.coordinator.address or _("none: choose a site kit")),
        (_("Certificate"), window.federation.coordinator.certificateText or _("none: choose a site kit")),
        (_("Policy"), window.policy.problem or (_("in force") if window.policy.inForce else _("none"))),
    ]


def checkFloor() -> None:
    """Raise RuntimeError in a Slicer that is too old."""
    if (slicer.app.majorVersion, slicer.app.minorVersion) < FLOOR:
        raise RuntimeError(_("SegViz needs Slicer 5.12 or later."))


def slicerVersion() -> str:
    """The version, and what to do below the floor."""
    found = (slicer.app.majorVersion, slicer.app.minorVersion)
    if found >= FLOOR:
        return str(slicer.app.applicationVersion)
    return _("{found} is too old: install Slicer 5.12 or later.").format(found=slicer.app.applicationVersion)


def deviceName() -> str:
    """The NVIDIA GPU when its driver is there; what it is called is the child's business."""
    if shutil.which("nvidia-smi"):
        return _("NVIDIA GPU found; segmenting on it needs PyTorch")
    return _("{count} processor cores, no NVIDIA GPU").format(count=os.cpu_count())


def _coreVersion() -> str:
    import segviz_core

    return str(segviz_core.__version__)


def _segmenting(missing: list[str]) -> str:
    text = _("Apply asks for {names} ({size})")
    return text.format(names=", ".join(missing), size=SIZES["segment"]) if missing else _("ready")


def _federation(missing: list[str]) -> str:
    if sys.platform == "darwin":
        return _("not possible in Slicer for macOS: Flower has no packages for Intel Macs")
    text = _("Join asks for {names} ({size})")
    return text.format(names=", ".join(missing), size=SIZES["federation"]) if missing else _("ready")


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return _("unknown")
    text = f"{total:.0f} GB"
    return text if total >= LEAST_MEMORY_GB else _("{text}: choose Fast").format(text=text)


def _disk(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free / 2**30
    text = _("{free:.0f} GB free").format(free=free)
    return (
        text
        if free >= LEAST_DISK_GB
        else _("{text}: at least {least} GB are needed").format(text=text, least=LEAST_DISK_GB)
    )


def _workPath() -> str:
    path = str(slicer.app.temporaryPath)
    if not os.access(path, os.W_OK):
        return _("{path} cannot be written to: choose another temporary folder in the application settings").format(
            path=path
        )
    if os.name == "nt" and (not path.isascii() or len(path) > 150):
        return _("{path} is long or not ASCII: choose another temporary folder").format(path=path)
    return path
