"""The coordinator's study folder: create it, add and remove sites, status, export, stop. Starts no process.

study.json, template.json, initial.safetensors, checkpoint.safetensors, history.jsonl    the study (study.py)
ca.crt, server.crt, *.key, superexec.secret, server.json, nginx.conf                     who we are, where we listen
sites/NAME.json, sites/NAME.pub, sites.json                                               who may join (registry.py)
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

from segviz_core.atomic import write_json
from segviz_core.errors import InputError, SegVizError
from segviz_core.federation import certificates
from segviz_core.federation.export import meta_model_of
from segviz_core.federation.flower_app import write_app
from segviz_core.federation.kit import Kit, write_kit
from segviz_core.federation.nginx import write_configuration
from segviz_core.federation.registry import removed_sites, wait_until_removed
from segviz_core.federation.running import ask_to_stop, is_running
from segviz_core.federation.settings import StudySettings
from segviz_core.federation.state import StudyState
from segviz_core.federation.study import CHECKPOINT_FILE, HISTORY_FILE
from segviz_core.federation.study_folder import SETTINGS_FILE

SERVER_FILE, STATUS_FILE, RUN_FILE = "server.json", "status.json", "run.json"
CA_FILE, CA_KEY_FILE, SECRET_FILE = "ca.crt", "ca.key", "superexec.secret"
CERTIFICATE_FILE, SERVER_KEY_FILE = "server.crt", "server.key"
HOST, PORT, SUPERLINK_PORT = "127.0.0.1", 9443, 9442
FRONTS = ("built-in", "nginx")

_SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_ORGAN_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_STOP_WAIT_S, _RENEW_DAYS = 60.0, 60.0


def create(
    folder: Path, settings: StudySettings, *, host: str = HOST, port: int = PORT, bind: str | None = None
) -> None:
    """Make a new study in `folder`: settings, initial weights, authority, server certificate, Flower app.

    `host` is the name or IPv4 address by which sites reach this computer; `bind` the address to listen at, by default
    127.0.0.1 for a host of the same name and every address for any other.

    Raises:
        InputError: the folder holds a study already, or host or port cannot be used.
    """
    _check_new(folder, host, port)
    from segviz_core.federation.weights import create_study  # torch

    folder.mkdir(parents=True, exist_ok=True)
    create_study(folder, settings)
    provision(folder, settings.name, host=host, port=port, bind=bind)


def provision(folder: Path, study: str, *, host: str = HOST, port: int = PORT, bind: str | None = None) -> None:
    """Add everything to a study folder that the network needs: authority, server certificate, secrets, Flower app."""
    authority, authority_key = certificates.create_authority(study)
    for name, content in ((CA_FILE, authority), (CA_KEY_FILE, authority_key), (SECRET_FILE, os.urandom(32))):
        certificates.write_secret(folder / name, content)
    bind = bind or (HOST if host in (HOST, "localhost") else "0.0.0.0")
    write_json(folder / SERVER_FILE, {"host": host, "port": port, "bind": bind, "front": FRONTS[0]})
    _write_server_certificate(folder)
    (folder / "sites").mkdir(exist_ok=True)
    write_app(folder / "app")


def renew_certificate(folder: Path) -> None:
    """Make a new server certificate where the old one ends soon; sites trust it through the same authority."""
    if certificates.days_left((folder / CERTIFICATE_FILE).read_bytes()) < _RENEW_DAYS:
        _write_server_certificate(folder)


def choose_front(folder: Path, front: str, *, superlink_port: int = SUPERLINK_PORT) -> Path | None:
    """Say what stands before Flower's server from the next start on: the built-in front, or nginx.

    Gives the path of the configuration written for nginx, which the administrator has to put in place; it passes on to
    `superlink_port` of this computer.

    Raises:
        InputError: `folder` holds no study, or its coordinator is running.
    """
    read_settings(folder)
    if is_running(folder):
        raise InputError("The front of a running coordinator cannot be changed.", hint="Stop it first.")
    server = read_server(folder) | {"front": front, "superlink_port": superlink_port}
    if superlink_port == server["port"]:
        raise InputError(f"Port {superlink_port} is the one that sites connect to.", hint="Name another one.")
    write_json(folder / SERVER_FILE, server)
    if front != "nginx":
        return None
    where = {name: server[name] for name in ("host", "bind", "port", "superlink_port")}
    return write_configuration(folder, **where)


def add_site(
    folder: Path,
    name: str,
    *,
    allow: Sequence[str] = (),
    public_key: Path | None = None,
    kit_file: Path | None = None,
) -> Path:
    """Write the kit of a new site to `kit_file` or kits/NAME.zip; gives the kit's path.

    The kit holds the site's private key, unless the site made it itself and sent its `public_key`. A running
    coordinator registers the key by itself; `allow` restricts the organs (default: any).

    Raises:
        InputError: the name or the key is taken or not allowed, or `folder` holds no study.
    """
    settings, server = read_settings(folder), read_server(folder)
    if not _SITE_NAME.fullmatch(name):
        raise InputError(f"Expected a site name of letters, digits, - and _, found {name[:64]!r}.")
    if wrong := [organ for organ in allow if not _ORGAN_NAME.fullmatch(organ)]:
        raise InputError(
            f"Expected organ names in small letters, found {wrong[0]!r}.", hint="Example: --allow liver,spleen"
        )
    if (folder / "sites" / f"{name}.json").exists():
        raise InputError(f"This study has or had a site {name!r} already.", hint="Choose another name.")
    private, public = (None, _read_public_key(folder, public_key)) if public_key else certificates.create_node_key()
    path = kit_file or folder / "kits" / f"{name}.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    kit = Kit(
        site=settings.for_site(name),
        address=f"{server['host']}:{server['port']}",
        allow=tuple(allow),
        certificate=(folder / CA_FILE).read_bytes(),
        key=private,
        public_key=public,
    )
    write_kit(path, kit)
    certificates.write_secret(folder / "sites" / f"{name}.pub", public)
    write_json(folder / "sites" / f"{name}.json", {"site": name, "allow": list(allow)})
    return path


def remove_site(folder: Path, name: str, *, erase: bool = False) -> bool:
    """Take a site out of the study for good: its key is worthless from now on.

    Its heads stay in the model as they are; with `erase` they, and what it left for others, are dropped. Gives whether
    a running coordinator has done it already; else it happens at the next start.

    Raises:
        InputError: there is no such site, or `folder` holds no study.
        SegVizError: the running coordinator did not take it up in time.
    """
    read_settings(folder)
    file = folder / "sites" / f"{name}.json"
    if not _SITE_NAME.fullmatch(name) or not file.exists():
        known = ", ".join(sorted(path.stem for path in (folder / "sites").glob("*.json")))
        raise InputError(f"This study has no site {name[:64]!r}.", hint=f"It has: {known or 'none'}")
    values = _read_json(file)
    if values.get("removed") == "erased" or (values.get("removed") and not erase):
        raise InputError(f"The site {name!r} is removed already ({values['removed']}).")
    write_json(file, values | {"removed": "erased" if erase else "left"})
    return wait_until_removed(folder, name) if is_running(folder) else False


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
        "sites": sorted({file.stem for file in (folder / "sites").glob("*.json")} - set(removed_sites(folder))),
        "removed": removed_sites(folder),
        "certificate_days_left": round(certificates.days_left(certificate), 1),
        "authority_days_left": round(certificates.days_left((folder / CA_FILE).read_bytes()), 1),
    }


def export(folder: Path, out: Path) -> StudyState:
    """Write the meta-model reached so far to `out`, also while the study runs; gives the state it came from.

    Raises:
        InputError: `folder` holds no study, or no site has sent a head yet.
    """
    settings = read_settings(folder)
    checkpoint = folder / CHECKPOINT_FILE
    state = StudyState.load(checkpoint) if checkpoint.exists() else StudyState({})
    meta_model_of(state, settings).save(out)
    return state


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
    """Where sites connect to (`host`, `port`), where the front listens (`bind`, `port`), and which `front` it is."""
    return _read_json(folder / SERVER_FILE)


def _check_new(folder: Path, host: str, port: int) -> None:
    if (folder / SETTINGS_FILE).exists():
        raise InputError(f"There is a study in {folder} already.", hint="Start it, or choose another folder.")
    if not _HOST.fullmatch(host) or host == "0.0.0.0":
        raise InputError(
            f"Expected the name or IPv4 address by which sites reach this computer, found {host[:80]!r}.",
            hint="Example: --host trial.example.org",
        )
    if not 0 < port < 65_536:
        raise InputError(f"Expected a port from 1 to 65535, found {port}.")


def _write_server_certificate(folder: Path) -> None:
    authority, key = (folder / CA_FILE).read_bytes(), (folder / CA_KEY_FILE).read_bytes()
    certificate, server_key = certificates.create_server_certificate(authority, key, host=read_server(folder)["host"])
    certificates.write_secret(folder / SERVER_KEY_FILE, server_key)
    certificates.write_secret(folder / CERTIFICATE_FILE, certificate)


def _read_public_key(folder: Path, path: Path) -> bytes:
    try:
        public = certificates.read_public_key(path.read_bytes())
    except OSError as error:
        raise InputError(f"There is no public key at {path}.", hint="The site makes it: site key") from error
    for file in (folder / "sites").glob("*.pub"):
        if file.read_bytes() == public:
            raise InputError(f"The site {file.stem!r} has this key already.", hint="Each site makes its own.")
    return public


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
