"""The warm worker as Slicer uses it: one process, one click after the other."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

from measure import ROOT, Cost

_TICKS = os.sysconf("SC_CLK_TCK")


class WarmWorker:
    """Starts `python -m segviz_core worker` in `folder` and connects to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.stages: list[dict[str, float]] = []

    def __enter__(self) -> "WarmWorker":
        command = [sys.executable, "-m", "segviz_core", "worker", str(self._folder)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self._hear("ready")
        address = json.loads((self._folder / "worker.json").read_text(encoding="utf-8"))
        self._connection = Client(address["address"], authkey=bytes.fromhex(address["key"]))
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.wait(60)

    def segment(self, arguments: Sequence[str]) -> Cost:
        """Wall and CPU seconds of one click and the most memory that the worker ever had; `stages` grows by one."""
        started, before = time.perf_counter(), self._cpu_s()
        self._connection.send_bytes(json.dumps([*arguments, "--json"]).encode())
        self.stages.append(self._hear("result")["stages"])
        ended = self._hear("finished")
        if ended["exit_code"]:
            raise RuntimeError(f"the worker ended a click with {ended}")
        return Cost(time.perf_counter() - started, self._cpu_s() - before, self._peak_mb())

    def _hear(self, event: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            if said["event"] == event:
                return said
            if said["event"] == "finished":
                break
        raise RuntimeError(f"the worker, or a click, ended before it said {event!r}")

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def _peak_mb(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
