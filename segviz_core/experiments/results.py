"""Result files of runs: results/PROFILE/runs/NAME.json, written once, read by the table."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segviz_core.atomic import replacing
from segviz_core.errors import InputError

MAIN = ("assembled", "personal")
"""Evaluations by which a run is summed up, the first that it has."""


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result: indented, but one line per case and organ and per row of the curve."""
    plain = {key: value for key, value in result.items() if key not in ("scores", "curve")}
    text = json.dumps(plain, indent=1, allow_nan=False)[:-2]
    curve = ",\n".join(f"  {_line(row)}" for row in result["curve"])
    scores = ",\n".join(
        f"  {json.dumps(evaluation)}: [\n" + ",\n".join(f"   {_line(row)}" for row in rows) + "\n  ]"
        for evaluation, rows in result["scores"].items()
    )
    with replacing(path) as temporary:
        temporary.write_text(
            f'{text},\n "curve": [\n{curve}\n ],\n "scores": {{\n{scores}\n }}\n}}\n', encoding="utf-8"
        )


def read_results(folder: Path) -> list[dict[str, Any]]:
    """All results of a profile's folder, in the order of their names.

    Raises:
        InputError: there is none, or one cannot be read.
    """
    results = []
    for path in sorted((folder / "runs").glob("*.json")):
        try:
            results.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise InputError(f"{path}: expected a result of a run, found a damaged file ({error}).") from error
    if not results:
        raise InputError(f"{folder}: expected results of runs, found none.", hint="Run the experiments first.")
    return results


def rows_of(result: Mapping[str, Any], evaluation: str) -> list[dict[str, Any]]:
    """Scores per case and organ as dictionaries."""
    return [dict(zip(result["columns"], row, strict=True)) for row in result["scores"][evaluation]]


def mean_dice(result: Mapping[str, Any], evaluation: str) -> dict[str, float]:
    """Mean Dice per organ over the cases that show it, and `mean` over the organs."""
    rows = [row for row in rows_of(result, evaluation) if row["truth_ml"] > 0]
    organs = dict.fromkeys(row["organ"] for row in rows)
    dice = {organ: float(np.mean([row["dice"] for row in rows if row["organ"] == organ])) for organ in organs}
    return dice | {"mean": float(np.mean(list(dice.values())))}


def summary(result: Mapping[str, Any]) -> str:
    """One line: name, Dice per evaluation, minutes."""
    parts = [f"{evaluation} {mean_dice(result, evaluation)['mean']:.3f}" for evaluation in result["scores"]]
    main = next(e for e in MAIN if e in result["scores"])
    organs = "/".join(f"{v:.2f}" for organ, v in mean_dice(result, main).items() if organ != "mean")
    minutes = sum(v for k, v in result["seconds"].items() if k.endswith("_cpu")) / 60
    return f"{result['name']}: Dice {', '.join(parts)} ({main} {organs}), {minutes:.1f} CPU minutes"


def _line(value: Any) -> str:
    return json.dumps(_rounded(value), allow_nan=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value
