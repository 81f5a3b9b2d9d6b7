"""Make the Python environment of `make demo` and `make test`: pinned versions, and no gigabytes without asking.

    python3 Testing/setup_environment.py demo
    python3 Testing/setup_environment.py test-312 --python 3.12 --folder .venv312 --optional

Standard library only, and any Python from 3.8 runs it: it looks for the right interpreter by running candidates.
Environment variables: PYTHON (interpreter to use), TORCH_INDEX (package index with CPU wheels of torch), CUDA=1
(accept the CUDA packages). A second call compares a stamp inside the environment and returns at once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Callable, Iterable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
PREFERRED = ("3.11", "3.12", "3.13", "3.14")
"""Order of preference: the oldest first, because the pinned versions are tested with it."""

DISK_GB = {"demo": 4, "test": 5, "test-312": 1}
"""Free space an environment needs while it is built (measured with the CPU wheel of torch)."""

CUDA_GB = 8
"""What the CUDA packages of torch add to it."""

CUDA_PACKAGE = re.compile(r"(nvidia|cuda|triton|pytorch-triton)(-|$)")
PROBE = "import ensurepip, sys, venv; print('.'.join(map(str, sys.version_info[:2])))"


class SetupError(Exception):
    """One sentence for the person at the terminal."""


def main(arguments: Sequence[str]) -> int:
    """Exit status 0 when the environment is ready, 1 with one sentence on stderr when it is not."""
    parser = argparse.ArgumentParser(description="Create or update the environment of one extra of pyproject.toml.")
    parser.add_argument("extra", choices=sorted(DISK_GB))
    parser.add_argument("--folder", type=Path, default=ROOT / ".venv")
    parser.add_argument("--python", choices=PREFERRED, help="use only this version")
    parser.add_argument("--optional", action="store_true", help="without that version say so and succeed")
    options = parser.parse_args(arguments)
    try:
        set_up(options.extra, ROOT / options.folder, version=options.python, optional=options.optional)
    except SetupError as error:
        print(f"Set-up stopped: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Set-up interrupted; the next call goes on from here.", file=sys.stderr)
        return 130
    return 0


def set_up(extra: str, folder: Path, *, version: str | None, optional: bool) -> None:
    """Bring the environment in `folder` up to date with the pins for `extra`.

    Raises:
        SetupError: no usable Python, no disk space, no network, CUDA packages nobody asked for.
    """
    named = "" if version else os.environ.get("PYTHON", "")
    stamp = folder / "segviz-stamp.json"
    current = running_version(python_of(folder))
    if is_current(stamp, extra, named, current):
        return
    python = python_for(version, named, python_of(folder) if current else None)
    if python is None and optional:
        print(f"Python {version} was not found on this machine: its job is skipped.", file=sys.stderr)
        return
    if python is None:
        raise SetupError(
            f"no Python {version or ' or '.join(PREFERRED)} that runs and has venv and ensurepip was found; "
            "install one, or name it: make PYTHON=/path/to/python3.11 ..."
        )
    stamp.unlink(missing_ok=True)
    if current is None or current != running_version(python):
        require_space(folder, DISK_GB[extra] + CUDA_GB * (os.environ.get("CUDA") == "1"))
        print(f"Creating {folder.name} with {python}", file=sys.stderr)
        call([python, "-m", "venv", "--clear", str(folder)], f"{python} cannot create {folder}")
    install(extra, folder)
    content = {"inputs": inputs_hash(), "extra": extra, "python": running_version(python), "named": named}
    stamp.write_text(json.dumps(content) + "\n", encoding="utf-8")


def is_current(stamp: Path, extra: str, named: str, current: str | None) -> bool:
    """Whether the environment of `stamp` runs (`current` is its version), was made from today's pins, holds `extra`."""
    if current is None or not stamp.exists():
        return False
    content = json.loads(stamp.read_text(encoding="utf-8"))
    holds_extra = content["extra"] in (extra, "test" if extra == "demo" else extra)
    same_python = content["python"] == current and named in ("", content["named"])
    return holds_extra and same_python and content["inputs"] == inputs_hash()


def python_for(version: str | None, named: str, existing: str | None) -> str | None:
    """The interpreter to use: the one the user named, the one the environment has, or the best one found."""
    if named:
        return named_python(named)
    if existing and (running_version(existing) == version if version else is_new_enough(existing)):
        return existing
    return found_python([version] if version else PREFERRED, os.environ, Path.home())


def inputs_hash() -> str:
    """sha256 of the files that decide what gets installed."""
    content = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    return hashlib.sha256(content).hexdigest()


def python_of(folder: Path) -> str:
    """The interpreter inside an environment."""
    return str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def named_python(name: str) -> str:
    """The interpreter that the user named, if it is usable."""
    path = shutil.which(name) or name
    if running_version(path) is None:
        raise SetupError(f"PYTHON={name} does not run or lacks venv or ensurepip; name one that does.")
    if not is_new_enough(path):
        raise SetupError(f"PYTHON={name} is Python {running_version(path)}; expected {PREFERRED[0]} or newer.")
    return path


def found_python(versions: Iterable[str], environ: Mapping[str, str], home: Path) -> str | None:
    """The first candidate of the preferred versions that really runs.

    Being on PATH proves nothing: pyenv leaves a `python3.12` there that only prints an error.
    """
    for version in versions:
        for candidate in candidates(version, environ, home):
            if running_version(candidate) == version:
                return candidate
    return None


def candidates(version: str, environ: Mapping[str, str], home: Path) -> Iterator[str]:
    """Executables that may be Python `version`: by name on PATH, pyenv's versions, then any python on PATH."""
    folders = [Path(folder) for folder in environ.get("PATH", "").split(os.pathsep) if folder]
    pyenv = Path(environ.get("PYENV_ROOT") or home / ".pyenv") / "versions"
    names = [folder / f"python{version}" for folder in folders]
    names += sorted(pyenv.glob(f"{version}*/bin/python{version}"), reverse=True)
    names += [folder / name for folder in folders for name in ("python3", "python")]
    return (str(name) for name in names if name.is_file() and os.access(str(name), os.X_OK))


def running_version(python: str) -> str | None:
    """'3.11' when `python` runs and can make environments, else None."""
    try:
        answer = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def is_new_enough(python: str) -> bool:
    """Whether `python` is at least the oldest version that SegViz supports; 3.9 is older than 3.11."""
    version = running_version(python) or "0"
    return [int(part) for part in version.split(".")] >= [int(part) for part in PREFERRED[0].split(".")]


def require_space(folder: Path, needed_gb: int) -> None:
    """Raises SetupError when the disk has less than `needed_gb` (10^9 bytes) left."""
    free_gb = shutil.disk_usage(str(folder.parent)).free / 1e9
    if free_gb < needed_gb:
        raise SetupError(f"{folder} needs {needed_gb} GB of free disk, {free_gb:.1f} GB are left; free some space.")


def install(extra: str, folder: Path) -> None:
    """Ask pip what it would take, refuse CUDA unless accepted, then install it."""
    target = ["--editable", f"{ROOT}[{extra}]", "--constraint", str(ROOT / "constraints.txt")]
    if os.environ.get("TORCH_INDEX"):
        target += ["--extra-index-url", os.environ["TORCH_INDEX"]]
    pip = [python_of(folder), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    print(f"Asking pip what {folder.name} needs ...", file=sys.stderr)
    report = json.loads(call([*pip, "--dry-run", "--report", "-", *target], "pip cannot resolve the packages"))
    if os.environ.get("CUDA") != "1":
        refuse_cuda(report, download_bytes)
    print(f"Installing {len(report['install'])} packages into {folder.name} (some minutes) ...", file=sys.stderr)
    call([*pip, *target], "pip cannot install the packages")


def refuse_cuda(report: Mapping[str, list], size_of: Callable[[str], int]) -> None:
    """Raises SetupError when pip's `report` holds CUDA packages; `size_of(url)` gives bytes, 0 when unknown."""
    wheels = {item["metadata"]["name"].lower(): item for item in report["install"]}
    local = wheels["torch"]["metadata"]["version"].partition("+")[2] if "torch" in wheels else ""
    cuda = [name for name in wheels if CUDA_PACKAGE.match(name)] + ["torch"] * local.startswith("cu")
    if not cuda:
        return
    urls = [wheels[name]["download_info"]["url"] for name in {*cuda, "torch"} if name in wheels]
    size = sum(size_of(url) for url in urls) / 1e9
    raise SetupError(
        f"pip would download torch for NVIDIA GPUs (CUDA packages: {len(cuda)}, "
        f"{f'{size:.1f} GB' if size else 'several GB'}); give TORCH_INDEX=<URL of a package index with CPU wheels of "
        "torch> to avoid that, or CUDA=1 to accept it."
    )


def download_bytes(url: str) -> int:
    """Size of the file at `url` without downloading it; 0 when the server does not say."""
    certificates = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    try:
        context = ssl.create_default_context(cafile=certificates)
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return int(answer.headers["Content-Length"] or 0)
    except (OSError, ValueError):
        return 0


def call(command: Sequence[str], failure: str) -> str:
    """Standard output of `command`; its own words and a likely cause when it fails."""
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SetupError(f"{failure}: {cause(answer.stderr + answer.stdout)}")
    return answer.stdout


def cause(text: str) -> str:
    """One sentence out of pip's output: what to check, and its last error line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if line.startswith("ERROR:")), lines[-1] if lines else "no output")
    if re.search(r"No space left on device|Errno 28", text):
        return f"the disk is full ({last})"
    if re.search(r"NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|Max retries exceeded", text):
        return f"the package index cannot be reached; check the network or pip's proxy settings ({last})"
    return last


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
