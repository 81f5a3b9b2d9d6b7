"""What the command line accepts as names, label values and numbers."""

import argparse

import pytest

from segviz_core.arguments import gigabytes, label_values, millimetres, names, threads


def test_arguments_are_read_as_they_are_meant():
    assert names("liver, spleen,") == ("liver", "spleen")
    assert label_values("kidneys=2,3") == ("kidneys", (2, 3))
    assert millimetres("2.5") == 2.5
    assert gigabytes("3") == 3
    assert threads("2") == 2


@pytest.mark.parametrize("text", ["", " , "])
def test_a_list_without_names_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="names separated by commas"):
        names(text)


@pytest.mark.parametrize("text", ["kidneys", "kidneys=", "=2", "kidneys=two", "kidneys=2,"])
def test_label_values_without_an_organ_or_a_number_are_refused_as_typed(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"expected ORGAN=VALUE .*, found '{text}'"):
        label_values(text)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "two"])
def test_millimetres_are_finite_and_above_0(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"millimetres above 0, found '{text}'"):
        millimetres(text)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "two"])
def test_threads_are_counted_from_1(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"number of threads above 0, found '{text}'"):
        threads(text)
