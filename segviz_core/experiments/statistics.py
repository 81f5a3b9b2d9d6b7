"""Paired comparisons of two rows on the same test cases (method.md section 8, "Statistics").

A sample is a list of groups, one per seed or fold (each has networks of its own), of one value per case. Nested
bootstrap interval, Wilcoxon signed-rank test, Holm's correction, matched-pairs rank-biserial effect size. The test
takes all cases for independent, as the interval does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, wilcoxon

RESAMPLES = 10_000

Groups = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Difference:
    """Mean paired difference with its 95 % interval, two-sided p of Wilcoxon's test, effect size (-1 .. 1), pairs."""

    mean: float
    low: float
    high: float
    p: float
    effect: float
    pairs: int


def compare(ours: Groups, others: Groups, *, seed: int = 0) -> Difference:
    """`ours` minus `others`, case by case: the same groups and cases in the same order.

    Raises:
        ValueError: the samples do not pair.
    """
    if [len(group) for group in ours] != [len(group) for group in others]:
        raise ValueError("compare: expected the same groups of cases in both samples")
    groups = [np.subtract(a, b, dtype=np.float64) for a, b in zip(ours, others, strict=True)]
    differences = np.concatenate(groups)
    low, high = bootstrap_interval(groups, seed=seed)
    p = 1.0 if not differences.any() else float(wilcoxon(differences).pvalue)
    return Difference(float(differences.mean()), low, high, p, rank_biserial(differences), len(differences))


def bootstrap_interval(
    groups: Sequence[NDArray[np.float64]], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the mean; groups are drawn first, then cases within each (nested)."""
    rng = np.random.default_rng(seed)
    means = np.stack([group[rng.integers(len(group), size=(resamples, len(group)))].mean(1) for group in groups], 1)
    sizes = np.array([len(group) for group in groups], np.float64)
    if len(groups) == 1:
        resampled = means[:, 0]
    else:
        # Each draw of a group needs cases of its own: with S groups, draw S times from fresh resamples.
        drawn = rng.integers(len(groups), size=(resamples, len(groups)))
        fresh = np.stack([means[rng.permutation(resamples)] for _ in groups], 1)  # (resamples, draw, group)
        chosen = np.take_along_axis(fresh, drawn[:, :, None], 2)[:, :, 0]
        weights = sizes[drawn]
        resampled = (chosen * weights).sum(1) / weights.sum(1)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)


def rank_biserial(differences: NDArray[np.float64]) -> float:
    """(W+ - W-) / (W+ + W-) of the signed ranks, zeros left out (Kerby 2014): 1 where every case is better."""
    found = differences[differences != 0]
    if not found.size:
        return 0.0
    ranks = rankdata(np.abs(found))
    return float((ranks[found > 0].sum() - ranks[found < 0].sum()) / ranks.sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[int(i)] = largest
    return adjusted
