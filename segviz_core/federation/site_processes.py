"""The command lines of the processes that a site's supervisor owns."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segviz_core.federation.flower_process import command
from segviz_core.federation.site_folder import CA_FILE, KEY_FILE, SECRET_FILE

Settings = Mapping[str, Any]


def trainer(folder: Path, settings: Settings) -> list[str]:
    """The warm trainer."""
    return [*settings["trainer"], str(folder)]


def node(folder: Path, settings: Settings, *, port: int) -> list[str]:
    """Flower's SuperNode, which dials the coordinator and listens at a local port for its tasks."""
    arguments = ["--superlink", settings["address"], "--root-certificates", str(folder / CA_FILE)]
    arguments += ["--auth-supernode-private-key", str(folder / KEY_FILE), "--host", "127.0.0.1"]
    arguments += ["--port", str(port), "--isolation", "process"]
    arguments += ["--superexec-auth-secret-file", str(folder / SECRET_FILE)]
    arguments += ["--node-config", f"site={_toml(str(folder))}"]
    return command("supernode", _flwr_folder(settings), *arguments)


def superexec(folder: Path, settings: Settings, *, port: int) -> list[str]:
    """The gate, which starts the tasks of the SuperNode at `port`."""
    arguments = [str(folder), "--runtime-api-address", f"127.0.0.1:{port}", "--insecure"]
    arguments += ["--superexec-auth-secret-file", str(folder / SECRET_FILE)]
    return command("site-superexec", _flwr_folder(settings), *arguments)


def _flwr_folder(settings: Settings) -> Path | None:
    return Path(settings["flwr_folder"]) if settings["flwr_folder"] else None


def _toml(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
