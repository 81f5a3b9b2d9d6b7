"""Runs with an extension beside the plain run of the same row and repeat: extensions.json and its section."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segviz_core.experiments.plan import ORDER
from segviz_core.experiments.results import mean_dice
from segviz_core.experiments.summaries import CARD, CONTROLS, control_of, on_a_card

Row = Mapping[str, Any]

EXPLAINED_EXTENSIONS = (
    "Mean Dice over the repeats; in brackets, the difference to the plain run of the same repeat, in which every site "
    "took part from the start to the end. The mean is over the published organs. A late organ has its "
    "head alone trained, on the representation of the finished plain run; a site that left had its head frozen. Those "
    f"with {CARD} were trained on a graphics card and are held to a plain run on a card where there is one, those with "
    "heads of one decoder stage (overlap, leaving, and where it says so) to a run with such heads."
)


def extension_rows(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per extension, repeat and evaluation; `beside` has the Dice of the undisturbed run, null without one.

    `frozen` says which weights are bit for bit those of before the site came or left.
    """
    rows = []
    for result in sorted(results, key=lambda r: (r["variant"], r["nodes"], str(r["repeat"]))):
        for evaluation in result["scores"] if result.get("extension") else ():
            dice = _dice(result, evaluation)
            beside = _undisturbed(result, results, organs=len(dice) - 1)
            rows.append(
                {
                    "extension": result["variant"],
                    "repeat": result["repeat"],
                    "row": result["row"],
                    "nodes": result["nodes"],
                    "evaluation": evaluation,
                    **result["extension"],
                    "on_a_card": on_a_card(result),
                    "frozen": result.get("frozen", {}),
                    "dice": dice,
                    "beside_nodes": beside["nodes"] if beside else None,
                    "beside": _dice(beside, evaluation) if beside else None,
                }
            )
    return rows


def extension_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Heads and cells: one line per extension and evaluation over its repeats."""
    new = sorted({organ for row in rows for organ in row["dice"]} - {*ORDER, "mean"})
    columns = [*ORDER, "mean", *new]
    cells = []
    for key in dict.fromkeys((row["extension"], row["nodes"], row["row"], row["evaluation"]) for row in rows):
        same = [row for row in rows if (row["extension"], row["nodes"], row["row"], row["evaluation"]) == key]
        extension, nodes, mode, evaluation = key
        repeats = ", ".join(f"{row['repeat']}{CARD if row['on_a_card'] else ''}" for row in same)
        numbers = [_cell(organ, same) for organ in columns]
        cells.append([f"{mode}, {extension}, {evaluation}", str(nodes), repeats, *numbers])
    return ["Row", "Nodes", "Seeds", *columns], cells


def _undisturbed(
    result: Mapping[str, Any], results: Sequence[Mapping[str, Any]], *, organs: int
) -> Mapping[str, Any] | None:
    """The plain run with most of the organs: of a late kidneys site, the one where it was there all along."""
    same = [
        other
        for other in results
        if other["row"] == result["row"] and other["variant"] in CONTROLS and other["nodes"] <= organs
    ]
    most = max((other["nodes"] for other in same if other["repeat"] == result["repeat"]), default=0)
    return control_of(result, [other for other in same if other["nodes"] == most])


def _dice(result: Mapping[str, Any], evaluation: str) -> dict[str, float]:
    """Mean Dice per organ; `mean` over the published organs, so that a new one does not shift it."""
    dice = {organ: value for organ, value in mean_dice(result, evaluation).items() if organ != "mean"}
    mean = float(np.mean([value for organ, value in dice.items() if organ in ORDER]))
    return {organ: round(value, 4) for organ, value in (dice | {"mean": mean}).items()}


def _cell(organ: str, rows: Sequence[Row]) -> str:
    values = [row["dice"][organ] for row in rows if organ in row["dice"]]
    if not values:
        return "-"
    both = [row for row in rows if organ in row["dice"] and organ in _comparable(row)]
    text = f"{np.mean(values):.3f}"
    return f"{text} ({np.mean([r['dice'][organ] - r['beside'][organ] for r in both]):+.3f})" if both else text


def _comparable(row: Row) -> set[str]:
    """Organs of the plain run; its mean only where it is over the same ones."""
    beside = set(row["beside"] or ())
    published = {organ for organ in row["dice"] if organ in ORDER}
    return beside if published < beside else beside - {"mean"}
