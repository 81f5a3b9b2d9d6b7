"""`make bench`: CPU seconds and peak memory of averaging 4 to 256 updates of the published network.

Ours reads the checked replies of a round from disk, tensor by tensor (federation/aggregation.py); beside it Flower's
own FedAvg averages the same updates as it gets them, all in memory. Each number is of a process of its own; medians go
into build/bench/aggregation.json as {averaging, updates, runs, cpu_s, peak_mb}; start-up and the making of the updates
are not counted in cpu_s.

    python Testing/benchmarks/aggregation.py                 all of it
    python Testing/benchmarks/aggregation.py ours 4 FOLDER   one run, as the first form starts it
"""

import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from measure import ROOT, machine

from segviz_core.atomic import write_json
from segviz_core.federation.aggregation import Replies, aggregate
from segviz_core.federation.packets import Packet
from segviz_core.federation.state import StudyState
from segviz_core.federation.study_folder import read_study

RESULTS = ROOT / "build" / "bench" / "aggregation.json"
UPDATES, RUNS = (4, 16, 64, 256), 3
STOCK_UPDATES = (4, 16, 64)
"""Flower's FedAvg keeps every update in memory, twice while it averages: 256 of them take more than 10 GB."""


def main() -> None:
    """Measure every number of updates and write the results."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        _write_study(Path(folder))
        for updates in UPDATES:
            _write_replies(Path(folder), updates)
            for averaging in ("ours", "flower") if updates in STOCK_UPDATES else ("ours",):
                command = [sys.executable, __file__, averaging, str(updates), folder]
                runs = [json.loads(subprocess.check_output(command, text=True, cwd=ROOT)) for _ in range(RUNS)]
                row = {"averaging": averaging, "updates": updates, "runs": RUNS}
                rows.append(row | {name: round(median(run[name] for run in runs), 3) for name in runs[0]})
                logging.info("%s", json.dumps(rows[-1]))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    write_json(RESULTS, rows)
    write_json(RESULTS.with_name("machine.json"), machine())


def _ours(folder: Path, updates: int) -> float:
    settings, template, initial = read_study(folder)
    state = StudyState(initial)
    files = {f"site{i:03d}": folder / f"site{i:03d}.safetensors" for i in range(updates)}
    started = time.process_time()
    aggregate("train", Replies(files), state, settings=settings, template=template)
    return time.process_time() - started


def _flower(folder: Path, updates: int) -> float:
    from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
    from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

    records = []
    for i in range(updates):
        packet = Packet.from_bytes((folder / f"site{i:03d}.safetensors").read_bytes())
        arrays = packet.arrays["update"] | packet.arrays["norm"]
        record = ArrayRecord({key: Array(np.asarray(value)) for key, value in arrays.items()})
        records.append(RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": 4})}))
    started = time.process_time()
    aggregate_arrayrecords(records, "num-examples")
    return time.process_time() - started


def _write_study(folder: Path) -> None:
    from segviz_core.federation.settings import StudySettings
    from segviz_core.federation.weights import create_study

    create_study(folder, StudySettings("bench", mode="segviz-fedavg", rounds=1))


def _write_replies(folder: Path, updates: int) -> None:
    _, template, _ = read_study(folder)
    random = np.random.default_rng(0)
    groups = {"update": template.shared(fedbn=False), "norm": template.own_norm(fedbn=False)}
    arrays = {
        group: {key: np.abs(random.standard_normal(shape)).astype(dtype) for key, (shape, dtype) in spec.items()}
        for group, spec in groups.items()
    }
    reply = Packet({"stage": "train", "round": 1, "mode": "segviz-fedavg"}, arrays, {"loss": 1.0})
    for i in range(updates):
        file = folder / f"site{i:03d}.safetensors"
        if not file.exists():
            file.write_bytes(reply.to_bytes())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if len(sys.argv) == 1:
        main()
    else:
        run = {"ours": _ours, "flower": _flower}[sys.argv[1]]
        cpu_s = run(Path(sys.argv[3]), int(sys.argv[2]))
        status = Path("/proc/self/status").read_text(encoding="utf-8")  # getrusage would count the parent's memory too
        peak_mb = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
        sys.stdout.write(json.dumps({"cpu_s": cpu_s, "peak_mb": peak_mb}) + "\n")
