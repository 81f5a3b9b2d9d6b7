"""How long a study still takes, from its finished rounds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from segviz_core.federation.schedule import Round

_PER_ROUND_S, _PER_STEP_S = 5.0, 0.3
"""First guesses on two cores (measured with four sites); the price per step is then taken from the finished rounds."""


def seconds_left(rounds: Sequence[Round], rows: Iterable[Mapping[str, Any]]) -> float:
    """Seconds until the last round, from the finished `rows` of history.jsonl: a fixed share per round and one price
    per step."""
    rows = list(rows)
    done = {row["round"] for row in rows}
    finished = [(_work(rounds[row["round"] - 1]), row["seconds"]) for row in rows]
    worked = sum(work for work, _ in finished)
    price = max(0.0, sum(s for _, s in finished) - _PER_ROUND_S * len(finished)) / worked if worked else _PER_STEP_S
    return sum(_PER_ROUND_S + price * _work(r) for i, r in enumerate(rounds, start=1) if i not in done)


def rounded(seconds: float) -> str:
    """As people say it: `25 s`, `7 min`, `3 h 20 min`."""
    minutes = round(seconds / 60)
    if minutes >= 90:
        return f"{minutes // 60} h {minutes % 60 // 10 * 10} min"
    return f"{minutes} min" if seconds >= 90 else f"{max(5, round(seconds / 5) * 5)} s"


def _work(r: Round) -> float:
    """Size of a round, in plain training steps."""
    steps = float(r.settings.get("steps", 0))
    return {"train-local": steps, "train": 1.6 * steps, "tune": steps, "label": 60.0, "expert": 10.0}.get(r.stage, 5.0)
