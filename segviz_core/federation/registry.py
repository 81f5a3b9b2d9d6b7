"""Who may take part, as Flower's server knows it: registers keys of sites, ends those that were removed.

sites/NAME.json is what the coordinator wants: {"site", "allow", "removed": "left" | "erased", absent for a member}.
sites.json is what Flower's server has done, by node id; the study reads it (study.py), and only this file writes it.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segviz_core.atomic import write_json
from segviz_core.errors import SegVizError
from segviz_core.federation.database import known_nodes, set_node_id
from segviz_core.federation.study import SITES_FILE

_PATIENCE_S = 60.0

Flwr = Callable[..., dict[str, Any]]


class Registry:
    """The registered sites of the study in `folder`; `flwr` calls Flower's command line and gives its JSON answer."""

    def __init__(self, folder: Path, flwr: Flwr) -> None:
        self._folder, self._flwr, self._seen = folder, flwr, 0

    def restore(self, database: Path) -> None:
        """Register again, under their old ids, the sites that Flower's `database` has lost; sites do not notice."""
        sites = {node: v["site"] for node, v in _read(self._folder / SITES_FILE).items() if not v.get("removed")}
        known = known_nodes(database) if sites else {}
        for node, name in sites.items():
            if name not in known:
                known[name] = self._register(name)
            if known[name] != node:
                set_node_id(database, name, node)

    def update(self) -> None:
        """Do what the files in sites/ ask for, if they have changed since the last call."""
        changed = (self._folder / "sites").stat().st_mtime_ns
        if changed == self._seen:
            return
        known = _read(self._folder / SITES_FILE)
        nodes = {values["site"]: node for node, values in known.items()}
        for file in sorted((self._folder / "sites").glob("*.json")):
            values = _read(file)
            if values.get("removed"):
                node = nodes.get(file.stem)
                if node and known[node] != values:
                    self._unregister(node)
                    known[node] = values
                    write_json(self._folder / SITES_FILE, known)
            elif file.stem not in nodes:
                known[self._register(file.stem)] = values
                write_json(self._folder / SITES_FILE, known)
        self._seen = changed

    def _register(self, name: str) -> str:
        key = self._folder / "sites" / f"{name}.pub"
        return str(self._flwr("supernode", "register", str(key), "--name", name)["node-id"])

    def _unregister(self, node: str) -> None:
        try:
            self._flwr("supernode", "unregister", node)
        except SegVizError as error:
            if "not found" not in error.message:  # we were killed after it was done
                raise


def removed_sites(folder: Path) -> dict[str, str]:
    """Name and kind of removal ("left" or "erased") of the sites that the coordinator has removed."""
    files = {file.stem: _read(file) for file in sorted((folder / "sites").glob("*.json"))}
    return {name: str(values["removed"]) for name, values in files.items() if values.get("removed")}


def wait_until_removed(folder: Path, name: str) -> bool:
    """Wait until the running coordinator has taken up the removal of the site `name`.

    Raises:
        SegVizError: it has not within a minute.
    """
    wanted = removed_sites(folder).get(name)
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        entries = [values for values in _read(folder / SITES_FILE).values() if values["site"] == name]
        if not entries or entries[-1].get("removed") == wanted:
            return True
        time.sleep(0.1)
    raise SegVizError(
        f"The coordinator has not removed {name!r} within {_PATIENCE_S:.0f} s.",
        hint="It will at its next start; see its status: coordinator status",
    )


def _read(path: Path) -> dict[str, Any]:
    values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    assert isinstance(values, dict)
    return values
