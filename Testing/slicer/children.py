"""Real child processes as Slicer starts them: a stand-in for PythonSlicer's launcher, and a model to segment with.

The launcher stays as the parent of Python and puts Slicer's own site-packages before everything else on the path
(slicer.md section 3). Here those are copies of the three packages on which Flower and Slicer disagree; Flower's
processes refuse to start when they get them instead of the ones of the private folder (flower_process.py).
"""

import base64
import functools
import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from scenes import ROOT

SHADOWS = ("cryptography", "packaging", "typing_extensions.py")


@functools.cache
def child_python() -> str:
    """A Python that has the packages of segmenting: this one, or the project's environment."""
    if importlib.util.find_spec("torch") is not None:
        return sys.executable
    python = ROOT / ".venv" / "bin" / "python"
    if not python.exists():
        pytest.skip("real processes need torch: run `make test` once")
    return str(python)


def write_launcher(folder: Path, *, shadows: tuple[str, ...] = (), program: Path | None = None) -> Path:
    """Write PythonSlicer into `folder`; the packages `shadows` come first on its path, from a folder of Slicer's.

    `program` gets the arguments in place of Python.
    """
    packages = folder / "slicer-packages"
    packages.mkdir(parents=True)
    for name in shadows:
        source = site_packages() / name
        if source.is_dir():
            shutil.copytree(source, packages / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, packages / name)
    python = f'"{child_python()}" "{program}"' if program else f'"{child_python()}"'
    launcher = folder / "PythonSlicer"
    launcher.write_text(f'#!/bin/sh\nPYTHONPATH="{packages}:$PYTHONPATH"\nexport PYTHONPATH\n{python} "$@"\nexit $?\n')
    launcher.chmod(0o755)
    return launcher


@functools.cache
def site_packages() -> Path:
    """Where the child's Python has its packages, Flower among them."""
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    run = subprocess.run([child_python(), "-c", program], capture_output=True, text=True, check=True)
    return Path(run.stdout.strip())


@functools.cache
def demo_model() -> Path:
    """The model of `make demo` where it has been made."""
    path = ROOT / "demo" / "meta_model.safetensors"
    if not path.exists():
        pytest.skip("no demo/meta_model.safetensors: run `make demo` once")
    return path


def make_random_model(path: Path) -> Path:
    """A small model with random weights: right in form, and no cleverer than that."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_random_model())
    return path


@functools.cache
def _random_model() -> bytes:
    program = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'Testing' / 'core')!r}, {str(ROOT)!r}]\n"
        "from random_model import random_model\nsys.stdout.buffer.write(random_model().to_bytes())\n"
    )
    return subprocess.run([child_python(), "-c", program], check=True, capture_output=True, timeout=120).stdout


@functools.cache
def kit_parts() -> dict[str, bytes]:
    """kit.json, ca.crt and site_key of a kit made by the core, with a server certificate of the same authority."""
    program = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import base64, json, tempfile, zipfile
from pathlib import Path
from segviz_core.contract import DataContract
from segviz_core.federation import certificates
from segviz_core.federation.kit import Kit, write_kit
from segviz_core.federation.settings import StudySettings
ca, ca_key = certificates.create_authority("demo")
server, server_key = certificates.create_server_certificate(ca, ca_key, host="127.0.0.1")
site = StudySettings(name="demo").for_site("north")
path = Path(tempfile.mkdtemp()) / "kit.zip"
write_kit(path, Kit(site, "127.0.0.1:9443", (), ca, certificates.create_node_key()[0]))
with zipfile.ZipFile(path) as file:
    parts = {{name: file.read(name) for name in file.namelist()}}
parts |= {{"server.crt": server, "server.key": server_key}}
print(json.dumps({{name: base64.b64encode(content).decode() for name, content in parts.items()}}))
"""
    run = subprocess.run([child_python(), "-c", program], check=True, capture_output=True, text=True, timeout=120)
    return {name: base64.b64decode(text) for name, text in json.loads(run.stdout).items()}


def write_kit(path: Path, *, key: bool = True, **changes: object) -> Path:
    """A site kit as the coordinator sends it, without a `key` where the site made it; `changes` go into kit.json."""
    parts = kit_parts()
    values = json.loads(parts["kit.json"]) | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("kit.json", json.dumps(values))
        file.writestr("ca.crt", parts["ca.crt"])
        if key:
            file.writestr("site_key", parts["site_key"])
    return path


def descendants(word: str) -> list[int]:
    """Process ids of all processes whose command line contains `word` (Linux)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
                state = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            except OSError:
                continue
            if word in line and state != "Z":
                found.append(int(entry.name))
    return found
