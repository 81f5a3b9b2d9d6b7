"""A real run with several site processes on this computer: what Flower's own server takes in memory and on disk."""

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "core"))
from federation_processes import Coordinator, join, new_study, processes_of

from segviz_core.federation import coordinator, site
from segviz_core.labels import ORGANS

_NAMES = {" superlink ": "superlink", " server-superexec ": "server_superexec", " server-app ": "server_app"}
_NAMES |= {"federation.front ": "front", " coordinator start": "coordinator", " supernode ": "supernodes"}


def run_on_loopback(folder: Path, *, sites: int, rounds: int) -> dict[str, Any]:
    """Play a toy study with `sites` real sites; gives seconds per round, peak memory by program, bytes of the database.

    Peaks are VmHWM in MB; `supernodes` is the largest.
    """
    study = new_study(folder / "study", rounds=rounds, min_sites=sites, wait_seconds=300.0, round_timeout=120.0)
    leader = Coordinator(study)
    names = [f"site{number}" for number in range(sites)]
    peaks: dict[str, float] = {}
    try:
        for number, name in enumerate(names):
            kit = coordinator.add_site(study, name)
            join(kit, folder / name, list(ORGANS)[number % len(ORGANS)])
        deadline = time.monotonic() + 1800
        while leader.process.poll() is None:
            assert time.monotonic() < deadline, leader.output()
            for pid, line in processes_of(folder).items():
                for words, program in _NAMES.items():
                    if words in line:
                        peaks[program] = max(peaks.get(program, 0.0), _peak_mb(pid))
            time.sleep(0.5)
        assert leader.process.returncode == 0, leader.output()
    finally:
        leader.end(signal.SIGINT)
        for name in names:
            if (folder / name / "site.json").exists() and site.is_running(folder / name):
                site.leave(folder / name)
    rows = [json.loads(line) for line in (study / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "sites": sites,
        "rounds": len(rows),
        "seconds_per_round": [row["seconds"] for row in rows],
        "rejected": sum(len(row["rejected"]) for row in rows),
        "peak_mb": dict(sorted(peaks.items())),
        "database_mb": round(sum(file.stat().st_size for file in (study / "flower").glob("state.db*")) / 1e6, 2),
    }


def _peak_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return max((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), default=0.0)
