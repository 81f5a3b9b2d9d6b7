"""What one experiment file asks for: its runs, each one row of the table at one seed or fold. Standard library only.

profile = "small"             # folder under results/
repeats = [0, 1, 2]           # seeds, or the names of test folds
[data]                        # where the CTs come from (datasets.py)
kind = "phantoms"
[setup]                       # fields of Setup; for phantoms the profile of that name fills in what is left out
steps_per_site = 960
[[run]]                       # one row; optional: nodes, repeats, variant, [run.setup], options, extension to differ in
row = "segviz+"
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from segviz_core.contract import DataContract
from segviz_core.errors import InputError
from segviz_core.experiments.extensions import Extension, read_extension
from segviz_core.experiments.profiles import PROFILES
from segviz_core.federation.settings import StudySettings

ORDER = ("liver", "spleen", "pancreas", "kidneys")
"""The poster's order: with n nodes, the first n organs have a site."""

ROWS = (
    "single",
    "central-naive",
    "central-marginal",
    "fedavg-naive",
    "fedavg-marginal",
    "segviz-fedavg",
    "segviz-fedbn",
    "segviz+",
    "condist",
)

CONFIGS = Path(__file__).parent / "configs"

FREE = frozenset({"threads", "device", "watch"})
"""Settings in which repeats of a row may differ, and a run may go on with other values."""

_OF_VARIANTS = ("site_windows", "equal_epochs", "test_norm")


@dataclass(frozen=True)
class Setup:
    """What is the same in every row of a table: grid, network, augmentation, steps (method.md section 8, "Fair").

    `steps_per_site` counts all phases of training but `recal_steps`, the head-only steps of `assembled+recal`.
    Augmentation is batches.py's, with a random curve of HU within `contrast`; precision is `training.TrainingConfig`'s.
    `device` is auto, cpu or cuda, `tolerance_mm` that of NSD, `watch` how often test Dice is taken along the way (for
    curves only). `shared_learning_rate` is that of steps which are averaged over the sites (0: `learning_rate`): an
    average of four moves less than four steps one after the other. Variants of the `segviz` rows may have
    `site_windows` in HU, within the contract's, and `equal_epochs` instead of equal steps (as_published.py). A finished
    row may be scored with the share `test_norm` of its norm statistics taken from the CT at hand, as experts look at
    the CTs that they label (norm_statistics.py).
    """

    contract: DataContract
    network: Mapping[str, Any]
    patch_size: tuple[int, int, int]
    batch_size: int
    learning_rate: float
    steps_per_site: int
    steps_per_round: int
    recal_steps: int
    device: str = "auto"
    threads: int = 1
    tolerance_mm: float = 2.0
    watch: int = 4
    contrast: float = 0.45
    shared_learning_rate: float = 0.0
    site_windows: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    equal_epochs: bool = False
    test_norm: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = asdict(self) | {"contract": self.contract.to_dict(), "network": dict(self.network)}
        return {name: value for name, value in values.items() if name not in _OF_VARIANTS or value}


@dataclass(frozen=True)
class Run:
    """One row at one repeat, with the organs that have a site (`single` is a network of 1 node at each of them).

    `variant` names a run of the ablation ladder, `options` what it changes (settings of the study); or it names an
    `extension`: what happens otherwise than in the plain run.
    """

    profile: str
    row: str
    nodes: int
    organs: tuple[str, ...]
    repeat: int | str
    setup: Setup
    data: Mapping[str, Any]
    variant: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    extension: Extension = field(default_factory=Extension)

    @property
    def name(self) -> str:
        """Name of its files."""
        repeat = f"seed{self.repeat}" if isinstance(self.repeat, int) else f"fold{self.repeat}"
        return "_".join(part for part in (self.row, str(self.nodes), repeat, self.variant) if part)

    @property
    def plain(self) -> "Run":
        """The same row without what sets this run apart; for a late joiner, the run that it comes to."""
        return replace(self, variant=self.extension.of, options={}, extension=Extension())

    @property
    def seed(self) -> int:
        """Seed of weights and patches; folds, which take the place of seeds, all have seed 0."""
        return self.repeat if isinstance(self.repeat, int) else 0


def read_plan(path: Path) -> list[Run]:
    """The runs of an experiment file: all rows of the first repeat, then those of the next.

    Raises:
        InputError: no such file, not TOML, or an unknown name or value in it.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected an experiment file in TOML, found none ({error}).") from error
    try:
        return _runs(values)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: expected the fields of an experiment, found a mistake: {error}.") from error


def plans_of(profile: str) -> list[Path]:
    """The experiment files of a profile that come with SegViz, the table's own first."""
    found = sorted(CONFIGS.glob("*.toml"), key=lambda path: (path.stem != profile, path.stem))
    named = [p for p in found if tomllib.loads(p.read_text(encoding="utf-8"))["profile"] == profile]
    if not named:
        known = sorted({path.stem.partition("-")[0] for path in found})
        raise InputError(f"Expected a profile of {', '.join(known)}, found {profile!r}.")
    return named


def _runs(values: Mapping[str, Any]) -> list[Run]:
    if missing := {"profile", "repeats", "setup", "run"} - set(values):
        raise ValueError(f"no {', '.join(sorted(missing))}")
    profile, data = values["profile"], {k: _expanded(v) for k, v in values.get("data", {"kind": "phantoms"}).items()}
    base = {**(_of_phantoms(profile) if data["kind"] == "phantoms" else {}), **values["setup"]}
    runs = []
    for entry in values["run"]:
        if unknown := set(entry) - {"row", "nodes", "repeats", "variant", "setup", "options", "extension"}:
            raise ValueError(f"unknown name {sorted(unknown)[0]} in a run")
        if entry["row"] not in ROWS:
            raise ValueError(f"row {entry['row']!r} is none of {', '.join(ROWS)}")
        run = Run(
            profile,
            entry["row"],
            1 if entry["row"] == "single" else entry.get("nodes", 4),
            ORDER[: entry.get("nodes", 4)],
            0,
            _setup(_changed(base, entry.get("setup", {}))),
            data,
            entry.get("variant", ""),
            _options(entry),
            _extension(entry),
        )
        runs += [replace(run, repeat=repeat) for repeat in entry.get("repeats", values["repeats"])]
    order = {repeat: i for i, repeat in enumerate(values["repeats"])}
    return sorted(runs, key=lambda run: order.get(run.repeat, len(order)))


def _changed(base: Mapping[str, Any], setup: Mapping[str, Any]) -> dict[str, Any]:
    """The file's setup with that of a run, which names of the network only what differs."""
    network = {"network": {**base.get("network", {}), **setup["network"]}} if "network" in setup else {}
    return {**base, **setup, **network}


def _options(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of the study in the segviz rows; whose organ a batch is read for, centrally; the server's momentum."""
    row: str = entry["row"]
    options: Mapping[str, Any] = entry.get("options", {})
    known: set[str] = set()
    if row.startswith("segviz"):
        known = {f.name for f in fields(StudySettings)}
    elif row != "single":
        known = {"label_of"} if row.startswith("central") else {"server_momentum"}
    if unknown := sorted(set(options) - known):
        raise ValueError(f"unknown name {unknown[0]} in the options of {row}")
    return options


def _extension(entry: Mapping[str, Any]) -> Extension:
    if "extension" not in entry:
        return Extension()
    if entry["row"] != "segviz+" or not entry.get("variant"):
        raise ValueError("an extension needs the row segviz+ and a variant that names it")
    return read_extension(entry["extension"], organs=ORDER[: entry.get("nodes", 4)], sites=ORDER)


def _setup(values: Mapping[str, Any]) -> Setup:
    if unknown := set(values) - {f.name for f in fields(Setup)}:
        raise ValueError(f"unknown name {sorted(unknown)[0]} in setup")
    needed = [f.name for f in fields(Setup) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in values]:
        raise ValueError(f"no {', '.join(missing)} in setup")
    share = values.get("test_norm", 0.0)
    if not isinstance(share, int | float) or not 0 <= share <= 1:
        raise ValueError(f"test_norm {share!r} is no number from 0 to 1")
    contract = values["contract"]
    if not isinstance(contract, DataContract):
        contract = DataContract(tuple(contract["spacing_mm"]), tuple(contract["window_hu"]))
    return Setup(**{**values, "contract": contract, "patch_size": tuple(values["patch_size"])})


def _of_phantoms(name: str) -> dict[str, Any]:
    profile = PROFILES[name]
    steps = profile.rounds * profile.steps_per_round
    return {
        "contract": profile.contract,
        "network": profile.network,
        "patch_size": profile.patch_size,
        "batch_size": profile.batch_size,
        "learning_rate": profile.learning_rate,
        "steps_per_site": steps,
        "steps_per_round": profile.steps_per_round,
        "recal_steps": 2 * profile.steps_per_round,
        "tolerance_mm": max(profile.spacing_mm),
    }


def _expanded(value: Any) -> Any:
    """Environment variables in the paths of a file: "$SEGVIZ_BTCV18"."""
    if isinstance(value, dict):
        return {key: _expanded(part) for key, part in value.items()}
    if not isinstance(value, str):
        return value
    text = os.path.expandvars(value)
    if missing := re.search(r"\$\{?(\w+)", text):
        raise InputError(
            f"Expected the environment variable {missing[1]}, found none.", hint="Set it to the folder of the data."
        )
    return text
