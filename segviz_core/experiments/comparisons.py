"""Is segviz+ better than the other rows? Paired per case, over organs and as a mean, with Holm's correction."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from segviz_core.experiments.plan import ORDER
from segviz_core.experiments.statistics import Difference, compare, holm
from segviz_core.experiments.summaries import CONTROLS, Entry, control_of

OURS = "segviz+"

NOT_INFERIOR = 0.02
"""segviz+ may be this much worse than central marginal and still count as good (method.md section 8)."""


@dataclass(frozen=True)
class Comparison:
    """segviz+ (in `evaluation`) minus another entry of the same `variant`, in Dice of `organ` or their `mean`.

    `p_holm` is within the family.
    """

    evaluation: str
    variant: str
    other: str
    nodes: int
    organ: str
    difference: Difference
    p_holm: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, rounded."""
        values = {name: value for name, value in asdict(self).items() if name != "difference"}
        values |= asdict(self.difference)
        return {name: round(value, 5) if isinstance(value, float) else value for name, value in values.items()}


def comparisons(entries: Sequence[Entry]) -> list[Comparison]:
    """All of them: a family is one evaluation of segviz+ at one number of nodes, against the rows it can be held to.

    Variants are held to the same variant of other rows. Against `single` (1 node) it is compared on the organs that it
    has. Repeats that only one of the two has are left out.
    """
    found = []
    for ours in entries:
        if ours.mode != OURS or ours.evaluation in ("personal", "experts"):
            continue
        family = []
        for other in entries:
            if other.mode != OURS and _comparable(ours, other):
                for organ in ("mean", *ORDER):
                    if (difference := _difference(ours, other, organ)) is not None:
                        family.append((other, organ, difference))
        adjusted = holm([difference.p for _, _, difference in family])
        found += [
            Comparison(ours.evaluation, ours.variant, other.label, ours.nodes, organ, difference, p)
            for (other, organ, difference), p in zip(family, adjusted, strict=True)
        ]
    return found


def minus_plain(variant: Entry, entries: Sequence[Entry]) -> Difference | None:
    """Mean Dice of a variant minus that of what it changes, over the seeds or folds that both have.

    Every run is held to the one of CONTROLS that differs least from it. None where `entries` have no such row, or one
    of other steps per site.
    """
    plain = [
        result
        for entry in (entries if variant.variant else ())  # the experts of a row are no variant
        if entry.variant in CONTROLS
        and (entry.mode, entry.nodes, entry.evaluation) == (variant.mode, variant.nodes, variant.evaluation)
        and entry.steps_per_site == variant.steps_per_site
        for result in entry.results
    ]
    controls = [control for result in variant.results if (control := control_of(result, plain)) is not None]
    return _difference(variant, replace(variant, variant="", results=controls), "mean") if controls else None


def _comparable(ours: Entry, other: Entry) -> bool:
    if other.variant != ours.variant:
        return False
    if other.mode == "single":
        return True
    if other.nodes != ours.nodes or other.evaluation == "personal":
        return False
    return not other.mode.startswith("segviz") or other.evaluation == ours.evaluation


def _difference(ours: Entry, other: Entry, organ: str) -> Difference | None:
    """Over the cases that both have scored; of `mean`, the mean over the organs that both have."""
    pairs: dict[tuple[int | str, str], list[tuple[float, float]]] = {}
    for name in ORDER if organ == "mean" else (organ,):
        a, b = ours.case_dice(name), other.case_dice(name)
        for key in sorted(set(a) & set(b), key=str):
            pairs.setdefault(key, []).append((a[key], b[key]))
    if not pairs:
        return None
    means = {key: [sum(v) / len(v) for v in zip(*values, strict=True)] for key, values in pairs.items()}
    groups = sorted({repeat for repeat, _ in means}, key=str)  # of each seed or fold, networks of its own
    samples = [[value for (repeat, _), value in means.items() if repeat == group] for group in groups]
    return compare([[a for a, _ in group] for group in samples], [[b for _, b in group] for group in samples])
