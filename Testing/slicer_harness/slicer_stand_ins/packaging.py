"""Stand-in of slicer.packaging: reads requirements, notes requests, installs nothing, raises on wrong use."""

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

requests: list[dict[str, Any]] = []
"""Every installation asked for since the list was last cleared."""
answer: list[str] = ["install"]
"""What happens to the next requests: "install" (nothing happens), "decline" or "fail"."""

_FORBIDDEN = {"itk", "simpleitk", "opencv-python", "pyqt5", "pyside6", "torch"}


def load_requirements(path: str | Path) -> list[Requirement]:
    """Requirements of a file; raises on an option line and on a pin, which Slicer's guide forbids to modules."""
    found = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        text = line.split("#")[0].strip()
        if not text:
            continue
        if text.startswith("-"):
            raise ValueError(f"{path}: options are ignored by Slicer, found {text!r}")
        requirement = Requirement(text)
        if requirement.name.lower() in _FORBIDDEN:
            raise ValueError(f"{path}: {requirement.name} must not be installed with pip in Slicer")
        if any(specifier.operator == "==" for specifier in requirement.specifier):
            raise ValueError(f"{path}: a module must not pin a package, found {text!r}")
        found.append(requirement)
    return found


def pip_check(requirements: Any) -> bool:
    """Whether all requirements are installed in this Python."""
    for requirement in requirements if isinstance(requirements, list) else [requirements]:
        wanted = requirement if isinstance(requirement, Requirement) else Requirement(requirement)
        try:
            if importlib.metadata.version(wanted.name) not in wanted.specifier:
                return False
        except importlib.metadata.PackageNotFoundError:
            return False
    return True


def pip_ensure(requirements: Any, constraints: Any = None, *, requester: str | None = None, **options: Any) -> None:
    """Notes what is missing; raises as Slicer does when the user declines or pip fails."""
    import slicer

    if not requester:
        raise TypeError("pip_ensure: say who asks (requester=)")
    if options.keys() - {"skip_packages", "prompt_install", "prompt_restart", "skip_in_testing", "show_progress"}:
        raise TypeError(f"pip_ensure: unknown options {sorted(options)}")
    missing = [str(requirement) for requirement in requirements if not pip_check(requirement)]
    if missing and not slicer.app.testingEnabled():
        _request(missing, constraints=constraints, requester=requester)


def pip_install(
    requirements: str | list[str],
    constraints: str | Path | None = None,
    *,
    blocking: bool = True,
    show_progress: bool = True,
    requester: str | None = None,
    logCallback: Callable[[str], None] | None = None,
    completedCallback: Callable[[int], None] | None = None,
) -> None:
    """Notes the request; without blocking, the completed callback is called at once."""
    if not blocking and completedCallback is None:
        raise TypeError("pip_install: without blocking somebody has to hear the end (completedCallback=)")
    _request(requirements, constraints=constraints, requester=requester)
    if completedCallback is not None:
        completedCallback(0)


def _request(requirements: str | list[str], *, constraints: Any, requester: str | None) -> None:
    requests.append({"requirements": requirements, "constraints": constraints, "requester": requester})
    if answer[0] == "decline":
        raise RuntimeError("User declined package installation")
    if answer[0] == "fail":
        import subprocess

        raise subprocess.CalledProcessError(1, "pip install")
