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
from segviz_core.experiments.comparisons import NOT_INFERIOR, Comparison, comparisons, minus_plain
from segviz_core.experiments.cost_table import cost_table, explained_costs
from segviz_core.experiments.extension_table import EXPLAINED, Row, extension_rows, extension_table
from segviz_core.experiments.page import data_uri, page, table
from segviz_core.experiments.plan import ORDER
from segviz_core.experiments.plots import dice_per_case, learning_curves, traffic
from segviz_core.experiments.published import PUBLISHED
from segviz_core.experiments.results import read_results
from segviz_core.experiments.summaries import CARD, Entry, ablation_entries, table_entries

COLUMNS = (*ORDER, "mean")
SIGNIFICANT = 0.05
PICTURES = "pictures"
"""Folder of single cases beside the table, made by `table --pictures`."""

_EXPLAINED_VARIANTS = (
    "What was changed is in docs/method_log.md and the experiment files. On the right, mean Dice minus that of the run "
    "that is changed, paired by case over the seeds or folds that both have, with its 95 % interval (where that is one "
    "seed or fold: over its cases alone, too narrow). Of the row, its variant with heads of one decoder stage "
    "(`one-stage-heads`) and the one on a card (`one-gpu`: of segviz+, with such heads), that is the run which differs "
    "least. Rows of other steps per site are not compared."
)

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
    parts = [f"# Results: {of.profile}", NOTES.get(of.profile, PHANTOMS), _explained()]
    heads, rows = _main_table(of.entries)
    parts += [_table(heads, rows), "## segviz+ against the other rows", _explained_comparisons()]
    parts += [
        _table(*_comparison_table(of.compared)),
        "## Further scores and costs",
        explained_costs(of.all_entries),
        _table(*cost_table(of.all_entries)),
    ]
    if of.ablations:
        parts += ["## Variants", _EXPLAINED_VARIANTS, _table(*_variant_table(of))]
    if of.extensions:
        parts += ["## Extensions", EXPLAINED, _table(*extension_table(of.extensions))]
    return "\n\n".join(parts) + "\n"


def _html(of: _Content) -> str:
    body = [f'<h1>Results: {escape(of.profile)}</h1><p class="note">{escape(NOTES.get(of.profile, PHANTOMS))}</p>']
    sections = [
        ("Dice", _explained(), _main_table(of.entries)),
        ("segviz+ against the other rows", _explained_comparisons(), _comparison_table(of.compared)),
        ("Further scores and costs", explained_costs(of.all_entries), cost_table(of.all_entries)),
    ]
    if of.ablations:
        sections.append(("Variants", _EXPLAINED_VARIANTS, _variant_table(of)))
    if of.extensions:
        sections.append(("Extensions", EXPLAINED, extension_table(of.extensions)))
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


def _explained() -> str:
    return (
        "Dice, mean ± SD over the test cases that show the organ; the last column is the mean of the organs that "
        "have a site. Seeds, folds and steps per site as stated in every row: rows of different ones do not compare; "
        f"those with {CARD} were trained on a graphics card, the others on a processor. "
        "Central rows move the CTs themselves. Phase 3 of segviz+, within its steps, tunes heads and calibrates them, "
        "as +recal does for the segviz modes with further steps; no other row is calibrated. On the right, in columns "
        "of their own, what was published for the same kind of row on other data: liver / spleen / pancreas / kidneys; "
        "the poster does not say which kind of SegViz its row is."
    )


def _explained_comparisons() -> str:
    return (
        "Difference in Dice, segviz+ minus the other row, paired by case (mean: over the organs that a case shows), "
        "with its 95 % bootstrap interval, cases nested in seeds or folds; it is too narrow where there are few of "
        "these. p of Wilcoxon's signed-rank test after Holm takes all cases for independent, though cases of one seed "
        f"or fold share their networks; an organ's difference has a star where it is below {SIGNIFICANT}. Effect: "
        f"rank-biserial. Non-inferior to central marginal: lower end above -{NOT_INFERIOR}."
    )


def _main_table(entries: Sequence[Entry], *, published: bool = True) -> tuple[list[str], list[list[str]]]:
    sources = list(dict.fromkeys(row.source for row in PUBLISHED)) if published else []
    heads = ["Row", "Nodes", "Seeds", "Steps per site", "Cases", *COLUMNS, "MB per site", *sources]
    rows = []
    for entry in entries:
        values = entry.to_dict()
        cells = [_spread(values["dice"][name], values["sd"][name]) for name in COLUMNS]
        others = [_published(source, entry) for source in sources]
        size = "-" if entry.mode.startswith("central") else f"{values['bytes_per_site'] / 1e6:.1f}"
        plain = [
            entry.label,
            str(entry.nodes),
            entry.marked_repeats,
            str(values["steps_per_site"]),
            str(values["cases"]),
        ]
        rows.append([*plain, *cells, size, *others])
    return heads, rows


def _variant_table(of: _Content) -> tuple[list[str], list[list[str]]]:
    heads, rows = _main_table(of.ablations, published=False)
    for entry, row in zip(of.ablations, rows, strict=True):
        d = minus_plain(entry, of.all_entries)
        row.append(f"{d.mean:+.3f} ({d.low:+.3f} to {d.high:+.3f})" if d else "-")
    return [*heads, "minus the row"], rows


def _minus_plain(variant: Entry, entries: Sequence[Entry]) -> dict[str, Any]:
    d = minus_plain(variant, entries)
    return {
        "minus_row": {k: round(v, 4) for k, v in (("mean", d.mean), ("low", d.low), ("high", d.high))} if d else None
    }


def _published(source: str, entry: Entry) -> str:
    if entry.variant or entry.evaluation == "assembled+recal":
        return ""
    found = [row for row in PUBLISHED if (row.source, row.ours, row.nodes) == (source, entry.mode, entry.nodes)]
    if entry.mode != "single":
        found = found if entry.evaluation == "assembled" else []
    return "; ".join(
        " / ".join(_spread(d, s, digits=2).replace(" ", "") for d, s in zip(row.dice, row.sd, strict=True))
        for row in found
    )


def _comparison_table(compared: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    heads = ["segviz+", "minus", "Nodes", "Mean", "95 % interval", "p (Holm)", "Effect", "Pairs", *ORDER]
    rows = []
    for mean in (one for one in compared if one.organ == "mean"):
        organs = {one.organ: one for one in compared if _same_rows(one, mean)}
        d = mean.difference
        numbers = [
            f"{d.mean:+.3f}",
            f"{d.low:+.3f} to {d.high:+.3f}",
            _p(mean.p_holm),
            f"{d.effect:+.2f}",
            str(d.pairs),
        ]
        by_organ = [_starred(organs[organ]) if organ in organs else "-" for organ in ORDER]
        ours = f"{mean.variant}, {mean.evaluation}" if mean.variant else mean.evaluation
        rows.append([ours, mean.other, str(mean.nodes), *numbers, *by_organ])
    return heads, rows


def _same_rows(one: Comparison, other: Comparison) -> bool:
    return (one.evaluation, one.variant, one.other, one.nodes) == (
        other.evaluation,
        other.variant,
        other.other,
        other.nodes,
    )


def _starred(one: Comparison) -> str:
    return f"{one.difference.mean:+.3f}" + ("*" if one.p_holm < SIGNIFICANT else "")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _spread(value: float | None, sd: float | None, *, digits: int = 3) -> str:
    if value is None:
        return "-"
    text = f"{value:.{digits}f}" if sd is None else f"{value:.{digits}f} ± {sd:.{digits}f}"
    return text.replace("0.", ".")


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}"


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
