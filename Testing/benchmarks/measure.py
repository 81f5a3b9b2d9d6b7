"""What a whole process costs: start to end, imports and all, as a user pays for it."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Cost:
    """Wall and CPU seconds of one process, and the most memory it had resident (MB of 10^6 bytes)."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def run(command: Sequence[str]) -> Cost:
    """Run `command` to its end.

    Raises:
        RuntimeError: it failed; its last words are in the message.
    """
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _LAUNCHER, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise RuntimeError(
            f"{' '.join(command)} ended with {ended.returncode}: {(ended.stdout + ended.stderr)[-2000:]}"
        )
    return Cost(*json.loads(ended.stdout.splitlines()[-1]))


_LAUNCHER = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
status = subprocess.call(sys.argv[1:])
wall, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
print()
print(json.dumps([wall, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6]))
sys.exit(status)
"""
"""A small process in between: the peak memory of a child counts what its parent held when it was started."""


def medians(costs: Sequence[Cost]) -> dict[str, float]:
    """The medians of several runs, as the records of the benchmarks hold them."""
    return {
        "runs": len(costs),
        "wall_s": round(median(cost.wall_s for cost in costs), 3),
        "cpu_s": round(median(cost.cpu_s for cost in costs), 3),
        "peak_mb": round(median(cost.peak_mb for cost in costs)),
    }


def machine() -> dict[str, object]:
    """Which computer this is: its processor, the cores that may be used, its memory."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    names = [line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    flags = {flag for flag in ("avx512f", "avx512_bf16", "amx_bf16", "amx_int8") if f" {flag}" in cpuinfo}
    return {
        "processor": names[0] if names else "unknown",
        "units": sorted(flags),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory),
    }
