"""Tables of Dice: all rows beside what was published, segviz+ against each of them, variants against their row."""

from collections.abc import Sequence

from segviz_core.experiments.comparisons import NOT_INFERIOR, Comparison, minus_plain
from segviz_core.experiments.plan import ORDER
from segviz_core.experiments.published import PUBLISHED
from segviz_core.experiments.summaries import CARD, Entry

COLUMNS = (*ORDER, "mean")
SIGNIFICANT = 0.05

EXPLAINED = (
    "Dice, mean ± SD over the test cases that show the organ; the last column is the mean of the organs that "
    "have a site. Seeds, folds and steps per site as stated in every row: rows of different ones do not compare; "
    f"those with {CARD} were trained on a graphics card, the others on a processor. "
    "Central rows move the CTs themselves. Phase 3 of segviz+, within its steps, tunes heads and calibrates them, "
    "as +recal does for the segviz modes with further steps; no other row is calibrated. On the right, in columns "
    "of their own, what was published for the same kind of row on other data: liver / spleen / pancreas / kidneys; "
    "the poster does not say which kind of SegViz its row is."
)

EXPLAINED_COMPARISONS = (
    "Difference in Dice, segviz+ minus the other row, paired by case (mean: over the organs that a case shows), "
    "with its 95 % bootstrap interval, cases nested in seeds or folds; it is too narrow where there are few of "
    "these. p of Wilcoxon's signed-rank test after Holm takes all cases for independent, though cases of one seed "
    f"or fold share their networks; an organ's difference has a star where it is below {SIGNIFICANT}. Effect: "
    f"rank-biserial. Non-inferior to central marginal: lower end above -{NOT_INFERIOR}."
)

EXPLAINED_VARIANTS = (
    "What was changed is in docs/method_log.md and the experiment files. On the right, mean Dice minus that of the run "
    "that is changed, paired by case over the seeds or folds that both have, with its 95 % interval (where that is one "
    "seed or fold: over its cases alone, too narrow). Of the row, its variants with heads of one or two decoder stages "
    "(`one-stage-heads`, `two-stage-heads`) and the one on a card (`one-gpu`: of segviz+, with heads of one), that is "
    "the run which differs least. Rows of other steps per site are not compared."
)


def main_table(entries: Sequence[Entry], *, published: bool = True) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: mean and SD of Dice by organ, one row per entry."""
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


def comparison_table(compared: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows: what segviz+ is ahead of one other row, in the mean and by organ."""
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


def variant_table(variants: Sequence[Entry], entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the main table, and what a variant is ahead of that one of `entries` which it changes."""
    heads, rows = main_table(variants, published=False)
    for entry, row in zip(variants, rows, strict=True):
        d = minus_plain(entry, entries)
        row.append(f"{d.mean:+.3f} ({d.low:+.3f} to {d.high:+.3f})" if d else "-")
    return [*heads, "minus the row"], rows


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


def _same_rows(one: Comparison, other: Comparison) -> bool:
    return (one.evaluation, one.variant, one.other, one.nodes) == (
        other.evaluation,
        other.variant,
        other.other,
        other.nodes,
    )


def _starred(one: Comparison) -> str:
    return f"{one.difference.mean:+.3f}" + ("*" if one.p_holm < SIGNIFICANT else "")


def _spread(value: float | None, sd: float | None, *, digits: int = 3) -> str:
    if value is None:
        return "-"
    text = f"{value:.{digits}f}" if sd is None else f"{value:.{digits}f} ± {sd:.{digits}f}"
    return text.replace("0.", ".")


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}"
