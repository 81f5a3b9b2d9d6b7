"""Result files of the same row at several repeats, put together: one entry per row, nodes and evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segviz_core.errors import InputError
from segviz_core.experiments.plan import FREE, ORDER, ROWS
from segviz_core.experiments.results import rows_of
from segviz_core.head_stages import head_stages

EVALUATIONS = ("personal", "assembled", "assembled+recal", "experts")

DETAILS = ("nsd", "hd95_mm", "volume_error_ml", "ece", "brier", "false_positive_ml", "claimed_twice_ml")
"""Further scores, in the order of the table."""

CARD = "\N{DEGREE SIGN}"
"""Marks a repeat that was trained on a graphics card."""

CONTROLS = ("", "one-stage-heads", "two-stage-heads", "one-gpu")
"""A row, its variants with heads of one or two decoder stages, and its variant trained once more on a graphics card:
what other variants are held to, each to the one that it differs from least."""

_OF_TEACHERS = frozenset({"teacher_shift", "teacher_pieces", "teacher_norm"})
"""Settings of a study that mean nothing where no expert teaches."""


@dataclass(frozen=True)
class Entry:
    """One row of the table: the results of its repeats and the evaluation that is meant."""

    mode: str
    nodes: int
    evaluation: str
    variant: str
    results: Sequence[Mapping[str, Any]]

    @property
    def label(self) -> str:
        """`segviz+, assembled`."""
        return ", ".join(part for part in (self.mode, self.variant, self.evaluation) if part)

    @property
    def steps_per_site(self) -> int:
        """The same in all repeats."""
        return int(self.results[0]["setup"]["steps_per_site"])

    @property
    def repeats(self) -> list[int | str]:
        """Seeds or folds."""
        return [result["repeat"] for result in self.results]

    @property
    def marked_repeats(self) -> str:
        """`A, B°`: those with ° were trained on a graphics card."""
        return ", ".join(f"{r['repeat']}{CARD if on_a_card(r) else ''}" for r in self.results)

    def scores(self) -> Iterator[dict[str, Any]]:
        """All scores, with the repeat they belong to."""
        for result in self.results:
            for row in rows_of(result, self.evaluation):
                yield {"repeat": result["repeat"], **row}

    def case_dice(self, organ: str | None = None) -> dict[tuple[int | str, str], float]:
        """Dice by (repeat, case), of one organ or the mean over those that the case shows."""
        found: dict[tuple[int | str, str], list[float]] = {}
        for row in self.scores():
            if row["truth_ml"] > 0 and organ in (None, row["organ"]):
                found.setdefault((row["repeat"], row["case"]), []).append(row["dice"])
        return {key: float(np.mean(values)) for key, values in found.items()}

    def to_dict(self) -> dict[str, Any]:
        """The entry of table.json; organs without a site are null."""
        by_organ = {organ: list(self.case_dice(organ).values()) for organ in ORDER}
        dice = {organ: float(np.mean(values)) if values else None for organ, values in by_organ.items()}
        sd = {organ: float(np.std(values, ddof=1)) if len(values) > 1 else None for organ, values in by_organ.items()}
        cases = list(self.case_dice().values())
        dice["mean"] = float(np.mean([value for value in dice.values() if value is not None]))
        sd["mean"] = float(np.std(cases, ddof=1)) if len(cases) > 1 else None
        return {
            "row": self.label,
            "nodes": self.nodes,
            "mode": self.mode,
            "evaluation": self.evaluation,
            "seeds": self.repeats,
            "steps_per_site": self.steps_per_site,
            "cases": len(cases),
            "dice": _rounded(dice),
            "sd": _rounded(sd),
            "bytes_per_site": round(float(np.mean([result["bytes_per_site"] for result in self.results]))),
        }

    def details(self) -> dict[str, float | None]:
        """Means of the further scores over cases that show the organ (false positives: over all), and the costs."""
        rows = list(self.scores())
        shown = [row for row in rows if row["truth_ml"] > 0]
        means: dict[str, float | None] = {}
        for name in DETAILS:
            values = [row[name] for row in (rows if name.endswith(("positive_ml", "twice_ml")) else shown)]
            values = [abs(v) if name == "volume_error_ml" else v for v in values if v is not None]
            means[name] = round(float(np.mean(values)), 4) if values else None
        cards = [result for result in self.results if on_a_card(result)]
        plain = [result for result in self.results if not on_a_card(result)]
        means["training_cpu_minutes"] = _mean_minutes(plain, "training_cpu")
        means["training_gpu_minutes"] = _mean_minutes(cards, "training")
        means["tflop"] = round(float(np.mean([result["flops"] for result in self.results])) / 1e12, 1)
        return means


def table_entries(results: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """Rows of the table: no variants, and of every row personal, assembled, assembled+recal as far as it has them."""
    return [entry for entry in _entries(results) if not entry.variant and entry.evaluation != "experts"]


def ablation_entries(results: Sequence[Mapping[str, Any]]) -> list[Entry]:
    """Variants, and the experts of segviz+ after phase 1."""
    return [entry for entry in _entries(results) if entry.variant or entry.evaluation == "experts"]


def control_of(result: Mapping[str, Any], plain: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The run without what sets `result` apart, of the same repeat and, where there is one, with heads of as many
    stages and on the same machine. `plain` are runs of the row's CONTROLS.
    """

    def differences(other: Mapping[str, Any]) -> tuple[int, str]:
        machine, heads = (of(other) != of(result) for of in (on_a_card, _head_stages))
        return machine + heads, other["variant"]

    same = [r for r in plain if r["repeat"] == result["repeat"] and r["variant"] != result["variant"]]
    return min(same, key=differences, default=None)


def on_a_card(result: Mapping[str, Any]) -> bool:
    """Whether a run was trained on a graphics card."""
    return "CPU" not in result["machine"]["device"]


def _head_stages(result: Mapping[str, Any]) -> int:
    return head_stages(result["setup"]["network"])


def _entries(results: Sequence[Mapping[str, Any]]) -> list[Entry]:
    results = [result for result in results if not result.get("extension")]  # extension_table.py
    keys = dict.fromkeys(
        (result["nodes"], ROWS.index(result["row"]), result["variant"], EVALUATIONS.index(evaluation))
        for result in results
        for evaluation in result["scores"]
    )
    entries = []
    for nodes, row, variant, evaluation in sorted(keys):
        same = [
            result
            for result in results
            if (result["nodes"], result["row"], result["variant"]) == (nodes, ROWS[row], variant)
        ]
        same.sort(key=lambda result: str(result["repeat"]))
        _check_setups(same)
        entries.append(Entry(ROWS[row], nodes, EVALUATIONS[evaluation], variant, same))
    return entries


def _check_setups(same: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to take the mean of repeats that were not trained alike.

    Raises:
        InputError: naming the runs and the first setting that differs.
    """
    row: str = same[0]["row"]
    free = FREE | {"name", "seed"} | ({"shared_learning_rate"} if row.startswith(("single", "central")) else set())
    free |= set() if row == "segviz+" else _OF_TEACHERS
    for result in same[1:]:
        for part in ("setup", "study"):
            ours, theirs = same[0].get(part) or {}, result.get(part) or {}
            for name in sorted((set(ours) | set(theirs)) - free):
                if (ours.get(name) or None) != (theirs.get(name) or None):  # off is as good as not known yet
                    raise InputError(
                        f"{same[0]['name']} and {result['name']}: expected the same {name} in all repeats of a row, "
                        f"found {ours.get(name)} and {theirs.get(name)}.",
                        hint="Run one of them again, or make it a variant.",
                    )


def _mean_minutes(results: Sequence[Mapping[str, Any]], stage: str) -> float | None:
    return round(float(np.mean([result["seconds"][stage] for result in results])) / 60, 1) if results else None


def _rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 4) for name, value in values.items()}
