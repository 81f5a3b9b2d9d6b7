"""A site with a new organ that comes when the study of the plain run is finished: its head alone is trained.

The study and the site are the federation's own (`Study.extend`, the stage `train-head`); no other site is online.
"""

import copy
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from segviz_core.atomic import replacing, write_json
from segviz_core.cases import Site
from segviz_core.errors import InputError
from segviz_core.experiments.extensions import LATE
from segviz_core.experiments.leaving import frozen_since
from segviz_core.experiments.plan import Run
from segviz_core.experiments.predictors import Heads
from segviz_core.experiments.rows import Report, Trained, Watch, device_of, flops_of, training
from segviz_core.experiments.runner import run_study
from segviz_core.experiments.segviz_rows import bytes_per_site, network_of, notes_of
from segviz_core.federation.session import SiteSession
from segviz_core.federation.study import CHECKPOINT_FILE, Study
from segviz_core.federation.study_folder import SETTINGS_FILE
from segviz_core.network import NetworkConfig
from segviz_core.tuning import tune_heads

BEFORE_FILE = "before.safetensors"
"""The plain run's last checkpoint, in the copy of its study."""

OPTIONS = ("new_head_steps", "new_head_learning_rate")
"""Settings of the finished study that a late joiner's run may change: they concern newcomers only."""


def train_late_joiner(run: Run, sites: Mapping[str, Site], work: Path, report: Report, watch: Watch) -> Trained:
    """Train the head of `run.extension.joins` on the finished study of `run.plain`, at the same repeat.

    Raises:
        InputError: that study is not there, not finished or has another network, or options that concern others.
    """
    folder = work / "study"
    if not folder.exists():
        _copy_finished_study(run, work.parent / run.plain.name / "study", folder)
    study, organ = Study(folder), run.extension.joins
    session = SiteSession(study.settings.for_site(LATE), sites[LATE], work / "sites" / LATE, device=str(device_of(run)))

    def on_progress(stage: str, done: int, total: int) -> None:
        if stage == "train-head" and (done % run.setup.steps_per_round == 0 or done == total):
            report(done, total)

    run_study(study, {LATE: partial(session.handle, on_progress=on_progress)})
    network, cases = network_of(run, study.state), sites[LATE].training_cases
    step = flops_of(lambda: tune_heads(copy.deepcopy(network), cases, training(run, steps=1), organs=[organ]))
    heads = Heads([(network, (*run.organs, organ))], run.setup.patch_size, calibration=study.state.calibration)
    return Trained(
        {"assembled": heads},
        [],
        bytes_per_site(study, sites),
        step * study.settings.new_head_steps,
        {**notes_of(run, study.settings), "frozen": frozen_since(folder / BEFORE_FILE, study.state, heads=run.organs)},
    )


def _copy_finished_study(run: Run, source: Path, folder: Path) -> None:
    if unknown := sorted(set(run.options) - set(OPTIONS)):
        raise InputError(f"{run.name}: expected options of {', '.join(OPTIONS)}, found {unknown[0]}.")
    if not (source / SETTINGS_FILE).exists() or not Study(source).finished:
        raise InputError(
            f"{run.name}: expected the finished study of {run.plain.name} in {source}, found none.",
            hint="Run it first, with the same folder of runs: experiment --all PROFILE does it in that order.",
        )
    settings = Study(source).settings
    if NetworkConfig.from_dict(settings.network) != NetworkConfig.from_dict(run.setup.network):
        raise InputError(f"{run.name}: expected the network of {run.plain.name}, found another one in the settings.")
    with replacing(folder) as temporary:
        shutil.copytree(source, temporary)
        shutil.copyfile(temporary / CHECKPOINT_FILE, temporary / BEFORE_FILE)
        write_json(temporary / SETTINGS_FILE, replace(settings, **run.options).to_dict())
