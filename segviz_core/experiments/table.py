"""The table of a profile, from the results of its runs: table.{json,csv,md,html}, ablation.json, published.json.

dice.png shows every case of every row, pictures/ single cases of segviz+ where `--pictures` made them. extensions.json
holds the runs in which sites overlap, come late or leave, statistics.json the paired comparisons, details.json the
further scores and the costs.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from segviz_core.atomic import replacing, write_json
from segviz_core.errors import InputError
from segviz_core.experiments.comparisons import Comparison, comparisons, minus_plain
from segviz_core.experiments.cost_table import cost_table, explained_costs
from segviz_core.experiments.dice_tables import (
    COLUMNS,
    EXPLAINED,
    EXPLAINED_COMPARISONS,
    EXPLAINED_VARIANTS,
    comparison_table,
    main_table,
    variant_table,
)
from segviz_core.experiments.extension_table import EXPLAINED_EXTENSIONS, Row, extension_rows, extension_table
from segviz_core.experiments.page import data_uri, page, table
from segviz_core.experiments.plots import dice_per_case, learning_curves, traffic
from segviz_core.experiments.published import PUBLISHED
from segviz_core.experiments.results import read_results
from segviz_core.experiments.summaries import Entry, ablation_entries, table_entries

PICTURES = "pictures"
"""Folder of single cases beside the table, made by `table --pictures`."""

NOTES: Mapping[str, str] = {
    "btcv18": "Trained on 12 and scored on 6 cases of BTCV per fold: these numbers are not comparable with the "
    "poster's, which were taken on 30 BTCV CTs by models that had never seen one.",
    "full": "Trained on MSD and KiTS19, scored on BTCV as published.",
}
PHANTOMS = "Synthetic phantoms: these numbers say nothing about patients and are not comparable with published ones."


def write_table(folder: Path) -> Path:
    """Write everything into `folder` (results/PROFILE), whose runs/ holds the results; gives the folder.

    Raises:
        InputError: there is no result, or the folder cannot be written.
    """
    results = read_results(folder)
    profile = results[0]["profile"]
    entries, ablations, extensions = table_entries(results), ablation_entries(results), extension_rows(results)
    if not entries:
        raise InputError(f"{folder}: expected the result of a row, found variants only.", hint="Run the rows first.")
    compared = comparisons([*entries, *ablations])
    pictures = [path.name for path in sorted((folder / PICTURES).glob("*.png"))]
    content = _Content(profile, entries, ablations, extensions, compared, pictures)
    write_json(folder / "table.json", [entry.to_dict() for entry in entries])
    write_json(
        folder / "ablation.json", [entry.to_dict() | _minus_plain(entry, [*entries, *ablations]) for entry in ablations]
    )
    write_json(folder / "extensions.json", extensions)
    write_json(folder / "published.json", [row.to_dict() for row in PUBLISHED])
    write_json(folder / "statistics.json", [comparison.to_dict() for comparison in compared])
    details = [{"row": e.label, "nodes": e.nodes, **e.details()} for e in (*entries, *ablations)]
    write_json(folder / "details.json", details)
    with replacing(folder / "dice.png") as temporary:
        temporary.write_bytes(dice_per_case(entries))
    _write(folder / "table.csv", _csv(entries))
    _write(folder / "table.md", _markdown(content))
    _write(folder / "table.html", _html(content))
    return folder


@dataclass(frozen=True)
class _Content:
    """What the table shows as text and as a page."""

    profile: str
    entries: Sequence[Entry]
    ablations: Sequence[Entry]
    extensions: Sequence[Row]
    compared: Sequence[Comparison]
    pictures: Sequence[str]

    @property
    def all_entries(self) -> list[Entry]:
        return [*self.entries, *self.ablations]


def _csv(entries: Sequence[Entry]) -> str:
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    heads = ["row", "nodes", "mode", "evaluation", "seeds", "steps_per_site", "cases"]
    writer.writerow([*heads, *COLUMNS, *(f"sd_{name}" for name in COLUMNS), "bytes_per_site"])
    for entry in entries:
        values = entry.to_dict()
        plain = [" ".join(map(str, values[h])) if h == "seeds" else values[h] for h in heads]
        numbers = [values[kind][name] for kind in ("dice", "sd") for name in COLUMNS]
        writer.writerow([*plain, *("" if n is None else n for n in numbers), values["bytes_per_site"]])
    return content.getvalue()


def _markdown(of: _Content) -> str:
    parts = [f"# Results: {of.profile}", NOTES.get(of.profile, PHANTOMS), EXPLAINED]
    heads, rows = main_table(of.entries)
    parts += [_table(heads, rows), "## segviz+ against the other rows", EXPLAINED_COMPARISONS]
    parts += [
        _table(*comparison_table(of.compared)),
        "## Further scores and costs",
        explained_costs(of.all_entries),
        _table(*cost_table(of.all_entries)),
    ]
    if of.ablations:
        parts += ["## Variants", EXPLAINED_VARIANTS, _table(*variant_table(of.ablations, of.all_entries))]
    if of.extensions:
        parts += ["## Extensions", EXPLAINED_EXTENSIONS, _table(*extension_table(of.extensions))]
    return "\n\n".join(parts) + "\n"


def _html(of: _Content) -> str:
    body = [f'<h1>Results: {escape(of.profile)}</h1><p class="note">{escape(NOTES.get(of.profile, PHANTOMS))}</p>']
    sections = [
        ("Dice", EXPLAINED, main_table(of.entries)),
        ("segviz+ against the other rows", EXPLAINED_COMPARISONS, comparison_table(of.compared)),
        ("Further scores and costs", explained_costs(of.all_entries), cost_table(of.all_entries)),
    ]
    if of.ablations:
        sections.append(("Variants", EXPLAINED_VARIANTS, variant_table(of.ablations, of.all_entries)))
    if of.extensions:
        sections.append(("Extensions", EXPLAINED_EXTENSIONS, extension_table(of.extensions)))
    for title, caption, (heads, rows) in sections:
        body.append(f"<h2>{escape(title)}</h2>" + table(caption, heads, [[escape(c) for c in row] for row in rows]))
    pictures = {
        "Every test case": dice_per_case(of.entries),
        "Learning": learning_curves(of.entries),
        "Traffic": traffic(of.entries),
    }
    for title, png in pictures.items():
        body.append(f'<h2>{title}</h2><figure><img src="{data_uri(png)}" alt="{title}"></figure>')
    if of.pictures:
        body.append("<h2>Best, median and worst case of segviz+ per organ</h2>")
        body += [
            f'<figure><img src="{PICTURES}/{escape(n)}" alt="{escape(Path(n).stem)}"></figure>' for n in of.pictures
        ]
    return page(f"SegViz: {of.profile}", "".join(body), wide=True)


def _minus_plain(variant: Entry, entries: Sequence[Entry]) -> dict[str, Any]:
    d = minus_plain(variant, entries)
    return {
        "minus_row": {k: round(v, 4) for k, v in (("mean", d.mean), ("low", d.low), ("high", d.high))} if d else None
    }


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
