"""The coordinator's study folder: create it, add sites, look at the status, stop. No process is started here.

study.json, template.json, initial.safetensors, checkpoint.safetensors, history.jsonl    the study (study.py)
ca.crt, server.crt, *.key, superexec.secret, server.json                                 who we are, where we listen
sites/NAME.json, sites/NAME.pub, sites.json                                               who may join
app/                                                                                      the two-file Flower app
flower/, logs/, status.json                                                               what serving.py writes
"""

import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segviz_core import __version__
from segviz_core.atomic import write_json
from segviz_core.errors import InputError, SegVizError
from segviz_core.federation import certificates
from segviz_core.federation.kit import FLWR_VERSION, Kit, write_kit
from segviz_core.federation.running import ask_to_stop, is_running
from segviz_core.federation.settings import StudySettings
from segviz_core.federation.study import HISTORY_FILE, SETTINGS_FILE

SERVER_FILE, STATUS_FILE, RUN_FILE = "server.json", "status.json", "run.json"
CA_FILE, CERTIFICATE_FILE, SERVER_KEY_FILE, SECRET_FILE = "ca.crt", "server.crt", "server.key", "superexec.secret"
HOST, PORT = "127.0.0.1", 9443

_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_ORGAN_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_STOP_WAIT_S = 60.0

_APP_PROJECT = f"""\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "segviz-study"
version = "{__version__}"
description = "The Flower app of a SegViz study"
license = "Apache-2.0"
dependencies = ["flwr=={FLWR_VERSION}"]

[tool.flwr.app]
publisher = "segviz"

[tool.flwr.app.components]
serverapp = "segviz_study.server_app:app"
clientapp = "segviz_study.client_app:app"

[tool.flwr.app.config]
study = ""
session = ""
"""


_APP_MODULE = '''\
"""The installed SegViz does the work."""

from segviz_core.federation.{name} import app

__all__ = ["app"]
'''


def create(folder: Path, settings: StudySettings, *, host: str = HOST, port: int = PORT) -> None:
    """Make a new study in `folder`: settings, initial weights, authority, server certificate, Flower app.

    Raises:
        InputError: the folder holds a study already, or another host than this computer is asked for.
    """
    _check_new(folder, host, port)
    from segviz_core.federation.weights import create_study  # torch

    folder.mkdir(parents=True, exist_ok=True)
    create_study(folder, settings)
    provision(folder, settings.name, host=host, port=port)


def provision(folder: Path, study: str, *, host: str = HOST, port: int = PORT) -> None:
    """Add everything to a study folder that the network needs: authority, server certificate, secrets, Flower app."""
    authority, authority_key = certificates.create_authority(study)
    certificate, key = certificates.create_server_certificate(authority, authority_key, host=host)
    secret = os.urandom(32)
    for name, content in (
        (CA_FILE, authority),
        ("ca.key", authority_key),
        (CERTIFICATE_FILE, certificate),
        (SERVER_KEY_FILE, key),
        (SECRET_FILE, secret),
    ):
        certificates.write_secret(folder / name, content)
    app = folder / "app" / "segviz_study"
    app.mkdir(parents=True, exist_ok=True)
    (folder / "sites").mkdir(exist_ok=True)
    (app.parent / "pyproject.toml").write_text(_APP_PROJECT, encoding="utf-8")
    for name in ("server_app", "client_app"):
        (app / f"{name}.py").write_text(_APP_MODULE.format(name=name), encoding="utf-8")
    write_json(folder / SERVER_FILE, {"host": host, "port": port})


def add_site(folder: Path, name: str, *, allow: Sequence[str] = (), kit_file: Path | None = None) -> Path:
    """Make the key of a site and write its kit, to `kit_file` or kits/NAME.zip; gives the kit's path.

    A running coordinator registers the key by itself; `allow` restricts the organs (default: any).

    Raises:
        InputError: the name is taken or not allowed, or `folder` holds no study.
    """
    settings, server = read_settings(folder), read_server(folder)
    if not _SITE_NAME.fullmatch(name):
        raise InputError(f"Expected a site name of letters, digits, - and _, found {name[:64]!r}.")
    if wrong := [organ for organ in allow if not _ORGAN_NAME.fullmatch(organ)]:
        raise InputError(
            f"Expected organ names in small letters, found {wrong[0]!r}.", hint="Example: --allow liver,spleen"
        )
    if (folder / "sites" / f"{name}.json").exists():
        raise InputError(f"This study has a site {name!r} already.", hint="Choose another name.")
    private, public = certificates.create_node_key()
    path = kit_file or folder / "kits" / f"{name}.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    kit = Kit(
        site=settings.for_site(name),
        address=f"{server['host']}:{server['port']}",
        allow=tuple(allow),
        certificate=(folder / CA_FILE).read_bytes(),
        key=private,
    )
    write_kit(path, kit)
    certificates.write_secret(folder / "sites" / f"{name}.pub", public)
    write_json(folder / "sites" / f"{name}.json", {"site": name, "allow": list(allow)})
    return path


def status(folder: Path) -> dict[str, Any]:
    """What the study is doing: its status file, made true where the coordinator is gone, and its finished rounds."""
    read_settings(folder)
    path = folder / STATUS_FILE
    values = _read_json(path) if path.exists() else {"state": "new", "message": "Not started yet."}
    running = is_running(folder)
    if not running and values["state"] in ("starting", "waiting", "running"):
        values |= {"state": "stopped", "message": "The coordinator is not running; start it to go on."}
    certificate = (folder / CERTIFICATE_FILE).read_bytes()
    return {
        **values,
        "running": running,
        "finished_rounds": _finished_rounds(folder),
        "sites": sorted(file.stem for file in (folder / "sites").glob("*.json")),
        "certificate_days_left": round(certificates.days_left(certificate), 1),
    }


def write_status(folder: Path, *, state: str, **values: Any) -> None:
    """Replace the status file: by the ServerApp while a run lasts, before and after by the coordinator."""
    write_json(folder / STATUS_FILE, {"state": state, "time": round(time.time(), 3), "pid": os.getpid(), **values})


def stop(folder: Path) -> None:
    """Ask the running coordinator of `folder` to stop, and wait until all its processes have ended.

    Raises:
        InputError: it is not running.
        SegVizError: it did not end in time.
    """
    read_settings(folder)
    if not is_running(folder):
        raise InputError(f"No coordinator is running in {folder}.", hint="See its status: coordinator status")
    if not ask_to_stop(folder, wait_s=_STOP_WAIT_S):
        raise SegVizError(f"The coordinator did not end within {_STOP_WAIT_S:.0f} s.", hint="Try again in a minute.")


def read_settings(folder: Path) -> StudySettings:
    """The settings of the study in `folder`.

    Raises:
        InputError: there is none.
    """
    if not (folder / SETTINGS_FILE).exists() or not (folder / SERVER_FILE).exists():
        raise InputError(f"There is no study in {folder}.", hint="Create one: coordinator create STUDY")
    return StudySettings.from_dict(_read_json(folder / SETTINGS_FILE))


def read_server(folder: Path) -> dict[str, Any]:
    """Host and port that the study's server listens on."""
    return _read_json(folder / SERVER_FILE)


def _check_new(folder: Path, host: str, port: int) -> None:
    if (folder / SETTINGS_FILE).exists():
        raise InputError(f"There is a study in {folder} already.", hint="Start it, or choose another folder.")
    if host != HOST:
        raise InputError(
            f"This version serves studies at {HOST} only, found {host}.",
            hint="Flower's server must not be open to a network without a front that guards it.",
        )
    if not 0 < port < 65_536:
        raise InputError(f"Expected a port from 1 to 65535, found {port}.")


def _finished_rounds(folder: Path) -> int:
    path = folder / HISTORY_FILE
    finished = 0
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        finished = max(finished, row["round"] if row["complete"] else 0)
    return finished


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"Expected a JSON file, found none that can be read: {path}.") from error
    assert isinstance(values, dict)
    return values
