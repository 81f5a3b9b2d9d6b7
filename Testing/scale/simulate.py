"""One study of N simulated sites in this process, for its memory and seconds: `python simulate.py N FOLDER`.

The server's own code runs: Study, strategy, guard, aggregation, records, checkpoint. Only Flower's Grid and the sites
are replaced: replies are made of random numbers when they are pulled, so that no more than one is in memory, as with
Flower, whose SuperLink holds them. Prints one JSON line.
"""

import ctypes
import gc
import json
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity

from segviz_core.federation import records, strategy
from segviz_core.federation.packets import Packet
from segviz_core.federation.settings import StudySettings
from segviz_core.federation.study import Study
from segviz_core.federation.synchronization import Template
from segviz_core.labels import ORGANS

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class SimulatedGrid:
    """Flower's Grid over `sites` node ids. `elsewhere` gathers the CPU seconds that are not the server's."""

    def __init__(self, study: Study, sites: int) -> None:
        self._nodes, self._study = list(range(1, sites + 1)), study
        self._asked: dict[str, tuple[int, dict[str, Any], Message]] = {}
        self._update = _noise(study.template)
        self.elsewhere, self.sent = 0.0, 0

    def get_node_ids(self) -> list[int]:
        return self._nodes

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            number = str(len(self._asked) + self.sent)
            settings = dict(message.content.config_records["settings"])
            node = message.metadata.dst_node_id
            message.metadata.__dict__["_message_id"] = number
            message.content.clear()  # Flower's Grid sends it on and keeps nothing
            self._asked[number] = (node, settings, message)
            ids.append(number)
        return ids

    def pull_messages(self, ids: Iterable[str]) -> list[Message]:
        with self._not_the_servers():
            replies = []
            for name in ids:
                node, settings, message = self._asked.pop(name)
                self.sent += 1
                replies.append(Message(records.to_record(self._reply(node, settings)), reply_to=message))
            return replies

    def _reply(self, node: int, request: dict[str, Any]) -> Packet:
        organ = list(ORGANS)[node % len(ORGANS)]
        settings = {name: request[name] for name in ("stage", "round", "mode")}
        cases, dice = {f"cases/{organ}": 4.0 + node % 7}, {f"dice/{organ}": 0.5}
        if settings["stage"] == "declare":
            contract = self._study.settings.contract.hash
            about = {"site": f"site{node}", "organs": organ, "contract": contract, "version": "1"}
            return Packet(settings | about, {}, cases)
        if settings["stage"] != "train":
            return Packet(settings, {}, dice if settings["stage"] == "evaluate" else {})
        scale = np.float32(1e-3 * (1 + node / 1000))  # sites differ, or a store that keeps equal arrays once would lie
        arrays = {group: {k: a * scale if a.dtype == np.float32 else a for k, a in arrays.items()}
                  for group, arrays in self._update.items()}  # fmt: skip
        arrays[f"head/{organ}"] = arrays.pop("head")
        return Packet(settings, arrays, {"loss": 1.0, "steps": 2.0, **cases, **dice})

    @contextmanager
    def _not_the_servers(self) -> Iterator[None]:
        started = time.process_time()
        yield
        self.elsewhere += time.process_time() - started


def _noise(template: Template) -> dict[str, dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    groups = {"update": template.shared(fedbn=False), "norm": template.own_norm(fedbn=False), "head": template.head}
    return {
        group: {key: np.abs(random.standard_normal(shape)).astype(dtype) for key, (shape, dtype) in spec.items()}
        for group, spec in groups.items()
    }


def megabytes(name: str) -> float:
    """VmHWM, RssAnon, ... of this process, from /proc/self/status (Linux)."""
    line = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(f"{name}:"))
    return round(int(line.split()[1]) / 1024, 1)


def simulate(folder: Path, sites: int) -> dict[str, Any]:
    """Play the study in `folder` and give peak memory (MB) and CPU seconds of the server, by stage."""
    for name in ("_run_id", "_node_id", "_task_id"):
        setattr(TaskIdentity, name, 1)
    strategy.POLL_S = 0.0
    study = Study(folder)
    grid = SimulatedGrid(study, sites)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    rows, close = [], study.close_round
    began = [time.process_time(), time.monotonic(), 0.0]
    start = megabytes("VmRSS")
    CLEAR.write_text("5", encoding="utf-8")  # the peak is counted anew from here

    def measured(**values: Any) -> dict[str, Any]:
        row = close(**values)
        cpu, wall = time.process_time(), time.monotonic()
        rows.append(
            {
                "stage": row["stage"],
                "cpu_seconds": round(cpu - began[0] - (grid.elsewhere - began[2]), 3),
                "wall_seconds": round(wall - began[1], 3),
                "peak_mb": megabytes("VmHWM"),
                "anonymous_mb": megabytes("RssAnon"),
                "mapped_mb": megabytes("RssFile"),
                "accepted": sum("metrics" in site for site in row["sites"].values()),
                "rejected": len(row["rejected"]),
            }
        )
        began[:] = cpu, wall, grid.elsewhere
        CLEAR.write_text("5", encoding="utf-8")
        return row

    study.close_round = measured  # type: ignore[method-assign]
    strategy.conduct(grid, study, publish=lambda _: None)  # type: ignore[arg-type]
    model = sum(array.nbytes for array in study.state.representation.values()) / 1e6
    return {"sites": sites, "start_mb": start, "model_mb": round(model, 1), "rounds": rows}


def new_study(folder: Path, sites: int, **settings: Any) -> None:
    """A study with the published network; torch is needed, so it is made by another process."""
    from segviz_core.federation.weights import create_study

    create_study(folder, StudySettings("scale", mode="segviz-fedavg", rounds=2, min_sites=sites, **settings))


if __name__ == "__main__":
    place, number = Path(sys.argv[2]), int(sys.argv[1])
    sys.stdout.write(json.dumps(simulate(place, number)) + "\n")
    shutil.rmtree(place)
