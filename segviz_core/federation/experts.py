"""The sites' networks after phase 1, kept by the server: they start phase 2 and label for newcomers."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from segviz_core.federation.packets import Packet


class Experts:
    """One file per site in `folder`: its `expert` reply."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, replies: Mapping[str, Path]) -> None:
        """Keep accepted replies, by site."""
        self._folder.mkdir(exist_ok=True)
        for site, path in replies.items():
            shutil.copyfile(path, self._file(site))

    def files(self, sites: Iterable[str]) -> dict[str, Path]:
        """The files of those `sites` that have an expert."""
        return {site: self._file(site) for site in sites if self._file(site).exists()}

    def of(self, site: str) -> Packet | None:
        """The expert of a site, None where it came too late to have one."""
        file = self._file(site)
        return Packet.from_bytes(file.read_bytes()) if file.exists() else None

    def erase(self, site: str) -> None:
        """Drop the expert of a site."""
        self._file(site).unlink(missing_ok=True)

    def _file(self, site: str) -> Path:
        return self._folder / f"{site}.safetensors"
