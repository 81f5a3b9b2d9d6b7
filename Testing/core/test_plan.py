import pytest

from segviz_core.errors import InputError
from segviz_core.experiments.plan import CONFIGS, ROWS, plans_of, read_plan

TEXT = """
profile = "small"
repeats = [0, 1]
[setup]
steps_per_site = 24
[[run]]
row = "single"
[[run]]
row = "segviz+"
nodes = 2
variant = "T50"
options = { steps_per_round = 50 }
[run.setup]
recal_steps = 0
"""


def test_runs_of_a_file_go_seed_by_seed_and_take_the_rest_from_the_profile(tmp_path) -> None:
    (tmp_path / "a.toml").write_text(TEXT)
    runs = read_plan(tmp_path / "a.toml")
    assert [run.name for run in runs] == [
        "single_1_seed0",
        "segviz+_2_seed0_T50",
        "single_1_seed1",
        "segviz+_2_seed1_T50",
    ]
    assert runs[0].organs == ("liver", "spleen", "pancreas", "kidneys")
    assert runs[1].organs == ("liver", "spleen")
    assert runs[1].options == {"steps_per_round": 50}
    assert (runs[0].setup.steps_per_site, runs[0].setup.patch_size) == (24, (48, 48, 32))
    assert (runs[0].setup.recal_steps, runs[1].setup.recal_steps) == (24, 0)


@pytest.mark.parametrize(
    "old, new, words",
    [
        ('row = "single"', 'row = "best"', "row 'best' is none of single"),
        ("nodes = 2", "node = 2", "unknown name node in a run"),
        ("steps_per_site", "steps", "unknown name steps in setup"),
        ("repeats =", "seeds =", "no repeats"),
        ("[setup]", '[data]\nkind = "btcv18"\n[setup]', "no contract, network, patch_size"),
        ("options = { steps_per_round", "options = { steps", r"unknown name steps in the options of segviz\+"),
        (
            'row = "single"',
            'row = "single"\noptions = { label_of = "x" }',
            "unknown name label_of in the options of single",
        ),
        ('row = "single"', 'row = "single"\nsetup = { test_norm = 75 }', "test_norm 75 is no number from 0 to 1"),
        ('row = "single"', 'row = "single"\nsetup = { test_norm = "x" }', "test_norm 'x' is no number from 0 to 1"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path, old: str, new: str, words: str) -> None:
    (tmp_path / "a.toml").write_text(TEXT.replace(old, new))
    with pytest.raises(InputError, match=words):
        read_plan(tmp_path / "a.toml")


def test_missing_variable_of_the_data_is_named(monkeypatch) -> None:
    monkeypatch.delenv("SEGVIZ_BTCV18", raising=False)
    with pytest.raises(InputError, match="environment variable SEGVIZ_BTCV18, found none"):
        read_plan(CONFIGS / "btcv18.toml")


def test_every_profile_has_its_rows(monkeypatch) -> None:
    for name in ("SEGVIZ_BTCV18", "SEGVIZ_MSD", "SEGVIZ_KITS19", "SEGVIZ_BTCV"):
        monkeypatch.setenv(name, "/data")
    for profile in ("smoke", "small", "medium", "full"):
        runs = [run for path in plans_of(profile) for run in read_plan(path)]
        assert {run.row for run in runs} == set(ROWS)
        assert len({run.name for run in runs}) == len(runs)
    rows = {run.row for path in plans_of("btcv18") for run in read_plan(path)}
    assert rows == set(ROWS) - {"central-naive", "fedavg-naive"}
    with pytest.raises(InputError, match=r"Expected a profile of .*, found 'large'"):
        plans_of("large")
