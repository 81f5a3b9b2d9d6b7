"""Averaging by key, shape and dtype (method.md sections 4 and 5)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segviz_core.errors import InputError
from segviz_core.federation.synchronization import Template, average, average_statistics, check_arrays

TEMPLATE = Template(
    representation={
        "conv.weight": ((2, 3), "float32"),
        "bn.weight": ((2,), "float32"),
        "bn.running_mean": ((2,), "float32"),
        "bn.running_var": ((2,), "float32"),
        "bn.num_batches_tracked": ((), "int64"),
    },
    norm=frozenset({"bn.weight", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"}),
    head={"w": ((1,), "float32")},
)


def test_fedavg_shares_every_parameter_and_fedbn_none_of_the_norm_layers():
    assert set(TEMPLATE.shared(fedbn=False)) == {"conv.weight", "bn.weight"}
    assert set(TEMPLATE.shared(fedbn=True)) == {"conv.weight"}
    assert set(TEMPLATE.own_norm(fedbn=True)) == set(TEMPLATE.norm)


def test_template_survives_json():
    assert Template.from_dict(TEMPLATE.to_dict()) == TEMPLATE


@given(st.lists(st.floats(0.1, 1000), min_size=1, max_size=5), st.integers(0, 2**31))
def test_average_of_equal_arrays_is_that_array_whatever_the_weights(weights, seed):
    array = np.random.default_rng(seed).normal(size=7).astype(np.float32)
    np.testing.assert_array_equal(average([array] * len(weights), weights), array)


def test_one_owner_keeps_its_head_although_its_weight_is_a_quarter():
    head = np.array([1.0, -2.0], np.float32)
    np.testing.assert_array_equal(average([head], [0.25]), head)  # stock FedAvg would give head / 4


def test_integers_stay_integers():
    assert average([np.array(3, np.int64), np.array(4, np.int64)], [1, 1]).dtype == np.int64


@given(st.integers(0, 2**31), st.integers(2, 4))
def test_statistics_describe_the_pooled_data(seed, sites):
    rng = np.random.default_rng(seed)
    data = [rng.normal(rng.normal() * 3, 1 + rng.random(), size=(50, 2)) for _ in range(sites)]
    parts = [
        {
            "bn.running_mean": d.mean(0).astype(np.float32),
            "bn.running_var": d.var(0).astype(np.float32),
            "bn.num_batches_tracked": np.array(5 + i, np.int64),
        }
        for i, d in enumerate(data)
    ]
    result = average_statistics(lambda i, key: parts[i][key], parts[0], [1.0] * sites)
    pooled = np.concatenate(data)
    np.testing.assert_allclose(result["bn.running_mean"], pooled.mean(0), atol=1e-4)
    np.testing.assert_allclose(result["bn.running_var"], pooled.var(0), rtol=1e-3)
    assert result["bn.num_batches_tracked"] == 5


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda a: a.pop("w"), "expected 1 keys, found 0 \\(missing w"),
        (lambda a: a.update(x=a["w"]), "unexpected x"),
        (lambda a: a.update(w=np.zeros(2, np.float32)), "expected float32 \\(1,\\), found float32 \\(2,\\)"),
        (lambda a: a.update(w=np.zeros(1)), "found float64"),
        (lambda a: a.update(w=np.full(1, np.nan, np.float32)), "NaN or infinity"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_key_and_shape(change, words):
    arrays = {"w": np.zeros(1, np.float32)}
    change(arrays)
    with pytest.raises(InputError, match=words):
        check_arrays(arrays, TEMPLATE.head, what="head/liver")
