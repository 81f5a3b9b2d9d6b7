import numpy as np
import pytest

from segviz_core.experiments.statistics import bootstrap_interval, compare, holm, rank_biserial


def test_difference_of_a_sample_computed_by_hand() -> None:
    # differences .1 .2 .3 .4 .5 -.6: ranks 1 2 3 4 5 and 6 with a minus; W+ = 15, W- = 6
    ours, others = [[0.6, 0.7, 0.8, 0.9, 1.0, 0.0]], [[0.5, 0.5, 0.5, 0.5, 0.5, 0.6]]
    found = compare(ours, others)
    assert found.mean == pytest.approx(0.9 / 6)
    assert found.effect == pytest.approx((15 - 6) / 21)
    # Of the 64 signs, those with W- at most 6: 14 (partitions into distinct parts up to 6: 1+1+1+2+2+3+4), twice.
    assert found.p == pytest.approx(2 * 14 / 64)
    assert found.pairs == 6
    assert found.low < found.mean < found.high


def test_equal_samples_differ_by_nothing() -> None:
    found = compare([[0.5, 0.5]], [[0.5, 0.5]])
    assert (found.mean, found.low, found.high, found.p, found.effect) == (0, 0, 0, 1, 0)


def test_samples_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="expected the same groups of cases"):
        compare([[0.5, 0.5]], [[0.5]])


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .2: times 4 3 2 1 = .04 .06 .06 .2, never falling
    assert holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_interval_of_one_seed_is_that_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(0.1, 1.0, 400)
    low, high = bootstrap_interval([values])
    expected = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - expected, abs=0.01)
    assert high == pytest.approx(values.mean() + expected, abs=0.01)


def test_seeds_that_disagree_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, 0.01, 50) for _ in range(3)]
    agreeing = bootstrap_interval(noise)
    apart = bootstrap_interval([group + shift for group, shift in zip(noise, (-0.3, 0.0, 0.3), strict=True)])
    assert agreeing[1] - agreeing[0] < 0.01
    # Three seeds drawn three times: all alike in 1 of 27 draws each, so the 95 % interval reaches the outer seeds.
    assert apart == (pytest.approx(-0.3, abs=0.01), pytest.approx(0.3, abs=0.01))


def test_effect_is_one_where_every_case_is_better() -> None:
    assert rank_biserial(np.array([0.1, 0.2, 0.0])) == 1
    assert rank_biserial(np.array([-0.1, -0.2])) == -1
