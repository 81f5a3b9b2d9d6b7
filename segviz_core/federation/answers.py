"""What was asked and answered in one round; accepted replies lie on disk until the round is closed."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from segviz_core.atomic import replacing
from segviz_core.federation.guard import outliers, update_norm
from segviz_core.federation.packets import Packet


class Answers:
    """The round whose replies lie in `folder`; by node id what was asked, by site what was answered."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._asked: dict[str, Packet] = {}
        self._sent: dict[str, int] = {}
        self._received: dict[str, int] = {}
        self._files: dict[str, dict[str, Path]] = {}
        self._metrics: dict[str, dict[str, Mapping[str, float]]] = {}
        self._norms: dict[str, float] = {}

    @property
    def nodes(self) -> list[str]:
        """Node ids that were asked."""
        return list(self._asked)

    def clear(self) -> None:
        """Delete the replies of this and all earlier rounds."""
        shutil.rmtree(self._folder.parent, ignore_errors=True)

    def ask(self, node: str, request: Packet) -> None:
        """Note a request; its arrays are not kept."""
        self._asked[node] = Packet(request.settings)
        self._sent[node] = self._sent.get(node, 0) + request.nbytes

    def request_to(self, node: str) -> Packet | None:
        """The last request to a node, without arrays."""
        return self._asked.get(node)

    def keep(self, node: str, site: str, reply: Packet, *, size: int) -> None:
        """Keep a reply that the guard let through; `size` is what travelled."""
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"{site}.{reply.stage}.safetensors"
        with replacing(file) as temporary:
            temporary.write_bytes(reply.to_bytes())
        self._files.setdefault(site, {})[reply.stage] = file
        self._metrics.setdefault(site, {})[reply.stage] = reply.metrics
        self._received[node] = self._received.get(node, 0) + size
        if reply.stage == "train":
            self._norms[site] = update_norm(reply)

    def stages(self, site: str) -> list[str]:
        """Stages that a site has answered."""
        return list(self._files.get(site, {}))

    def of(self, stage: str) -> dict[str, Path]:
        """The files of all replies to one stage, by site."""
        return {site: files[stage] for site, files in self._files.items() if stage in files}

    def metrics(self, stage: str) -> dict[str, Mapping[str, float]]:
        """The numbers in all replies to one stage, by site."""
        return {site: self._metrics[site][stage] for site in self.of(stage)}

    def drop(self, site: str) -> None:
        """Use nothing of a site."""
        self._files.pop(site, None)
        self._norms.pop(site, None)

    def drop_outliers(self) -> dict[str, str]:
        """Leave out updates far above the others; gives the reason by site."""
        reasons = outliers(self._norms)
        for site in reasons:
            self.drop(site)
        return reasons

    def rows(self, stage: str, name: Callable[[str], str]) -> dict[str, Any]:
        """What history.jsonl tells of each site that was asked; `stage` is named where it was not the round's own."""
        rows: dict[str, Any] = {}
        for node, request in self._asked.items():
            site = name(node)
            row: dict[str, Any] = {"bytes_sent": self._sent[node], "bytes_received": self._received.get(node, 0)}
            if request.stage != stage:
                row["stage"] = request.stage
            if request.stage in self._files.get(site, {}):
                row["metrics"] = dict(self._metrics[site][request.stage])
            rows[site] = row
        return rows
