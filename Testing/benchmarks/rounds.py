"""Seconds of a round beyond training: warm trainers beside torch in the ClientApp, four sites on this computer.

Both run the same study over TLS with the same phantoms, one after the other; a round's seconds beyond training are its
seconds at the coordinator less those of its slowest site's training. Writes build/bench/rounds.json.
"""

import logging
import os
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "core"))
from federation_processes import Coordinator
from measure import ROOT, machine

from segviz_core.atomic import write_json
from segviz_core.experiments.demo import settings_of
from segviz_core.experiments.phantoms import write_phantoms
from segviz_core.experiments.profiles import PROFILES
from segviz_core.federation import coordinator, journal, site
from segviz_core.federation.child import free_port
from segviz_core.federation.site import CLIENT_APP, TRAINER, SiteOptions

HERE = Path(__file__).resolve().parent
ROUNDS, STEPS = 8, 4
_WAYS: dict[str, dict[str, Any]] = {
    "warm trainer": {"client_app": CLIENT_APP, "trainer": TRAINER},
    "torch in the ClientApp": {
        "client_app": "stock_client_app:app",
        "trainer": (sys.executable, str(HERE / "stock_client_app.py")),
    },
}
_log = logging.getLogger(__name__)


def main() -> None:
    """Measure both ways and write the record."""
    os.environ |= {"PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}  # for the processes of the sites
    with TemporaryDirectory(prefix="bench-rounds-") as folder:
        data = Path(folder) / "data"
        write_phantoms(PROFILES["small"], data, on_progress=lambda *_: None)
        ways = {name: _measure(Path(folder) / f"way{i}", data, way) for i, (name, way) in enumerate(_WAYS.items())}
    record = {"machine": machine(), "sites": 4, "rounds": ROUNDS, "steps_per_round": STEPS, "ways": ways}
    write_json(ROOT / "build" / "bench" / "rounds.json", record)


def _measure(folder: Path, data: Path, way: dict[str, Any]) -> dict[str, Any]:
    study = folder / "study"
    changes: dict[str, Any] = {
        "mode": "segviz-fedavg",
        "local_steps": 0,
        "tune_steps": 0,
        "rounds": ROUNDS,
        "steps_per_round": STEPS,
    }
    coordinator.create(study, replace(settings_of(PROFILES["small"], seed=0), **changes), port=free_port())
    organs = sorted(PROFILES["small"].cases)
    with Coordinator(study) as leader:
        for organ in organs:
            options = SiteOptions(cases=data / organ, organs=(organ,), label_values={}, cores=1, **way)
            site.join(coordinator.add_site(study, organ), options, folder=folder / organ, consent=True)
        assert leader.process.wait(1200) == 0, leader.output()
    for organ in organs:
        if site.is_running(folder / organ):
            site.leave(folder / organ)
    rows = [row for row in journal.read(study / "history.jsonl") if row["stage"] == "train"]
    beyond = [row["seconds"] - max(entry["metrics"]["seconds"] for entry in row["sites"].values()) for row in rows]
    between = [later["time"] - row["time"] - later["seconds"] for row, later in pairwise(rows)]
    result = {
        "beyond_training_s": round(median(beyond), 2),
        "between_rounds_s": round(median(between), 2),
        "each_s": [round(seconds, 2) for seconds in beyond],
    }
    _log.info("%s: %s", way["client_app"], result)
    return result


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main()
