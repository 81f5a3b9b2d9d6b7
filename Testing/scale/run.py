"""`make scale`: the server against the number of sites; writes scale.json and scale.png into a folder.

Linux only: memory is read from /proc. 256 sites need 6 GB of free disk for a moment.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

HERE = Path(__file__).parent
SITES, REAL_SITES, REAL_ROUNDS = (4, 16, 64, 256), 8, 4
COLOR, OTHER = "#0072b2", "#d55e00"


def main(out: Path) -> int:
    """Exit status 1 where memory grows with the sites or time grows faster than they do."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as place:
        simulated = [_simulate(Path(place) / f"study{sites}", sites) for sites in SITES]
        for row in simulated:
            last = _training(row)
            print(
                f"{row['sites']:4d} sites: {last['cpu_seconds']:7.2f} s per round, peak {_peak(row):6.1f} MB",
                flush=True,
            )
        from loopback import run_on_loopback

        real = run_on_loopback(Path(place), sites=REAL_SITES, rounds=REAL_ROUNDS)
    print(f"real run, {REAL_SITES} sites: peak MB {real['peak_mb']}, database {real['database_mb']} MB")
    first, last = simulated[1], simulated[-1]
    verdict = {
        "memory_factor": round(_peak(last) / _peak(first), 2),
        "seconds_per_site_factor": round(
            _training(last)["cpu_seconds"] / last["sites"] / (_training(first)["cpu_seconds"] / first["sites"]), 2
        ),
        "of": f"{last['sites']} sites against {first['sites']}",
    }
    (out / "scale.json").write_text(json.dumps({"simulated": simulated, "real": real, "verdict": verdict}, indent=2))
    _plot(simulated, out / "scale.png")
    factors = f"memory x {verdict['memory_factor']}, seconds per site x {verdict['seconds_per_site_factor']}"
    print(f"{factors} ({verdict['of']})")
    flat, linear = verdict["memory_factor"] < 1.3, verdict["seconds_per_site_factor"] < 1.5
    return 0 if flat and linear else 1


def _simulate(folder: Path, sites: int) -> dict[str, Any]:
    """In processes of their own: one makes the study (torch), another is measured."""
    make = f"import sys; sys.path.insert(0, {str(HERE)!r}); from pathlib import Path; from simulate import new_study; "
    make += f"new_study(Path({str(folder)!r}), {sites})"
    subprocess.run([sys.executable, "-c", make], check=True)
    command = [sys.executable, str(HERE / "simulate.py"), str(sites), str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def _training(row: dict[str, Any]) -> dict[str, Any]:
    return [r for r in row["rounds"] if r["stage"] == "train"][-1]


def _peak(row: dict[str, Any]) -> float:
    return max(r["peak_mb"] for r in row["rounds"])


def _plot(rows: list[dict[str, Any]], path: Path) -> None:
    figure = Figure(figsize=(10, 4), facecolor="white", layout="constrained")
    time_panel, memory_panel = figure.subplots(1, 2)
    sites = [row["sites"] for row in rows]
    seconds = [_training(row)["cpu_seconds"] for row in rows]
    time_panel.loglog(sites, seconds, "o-", color=COLOR)
    time_panel.loglog(sites, [seconds[0] * n / sites[0] for n in sites], ":", color="#808080", label="linear")
    time_panel.set_title("Server, CPU seconds per training round")
    time_panel.legend(frameon=False)
    memory_panel.semilogx(sites, [_peak(row) for row in rows], "o-", color=COLOR, label="ServerApp, peak")
    replies = [row["sites"] * row["model_mb"] for row in rows]
    memory_panel.semilogx(sites, replies, "s--", color=OTHER, label="all replies together")
    memory_panel.set_ylim(0, 3 * max(_peak(row) for row in rows))
    memory_panel.set_title("Memory, MB")
    memory_panel.legend(frameon=False)
    for panel in (time_panel, memory_panel):
        panel.set_xlabel("Sites")
        panel.set_xticks(sites, [str(n) for n in sites])
        panel.minorticks_off()
        panel.grid(color="#d5dbe1")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
