"""Training of the segviz modes: the federation's own Study and SiteSessions, one site after the other in this process.

A study of segviz+ ends with its own phase 3, whose steps count. `assembled+recal` tunes the heads once more, by the
same functions on the finished study and with equal steps in every mode: both evaluations come from one training.
"""

import copy
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from segviz_core.atomic import write_json
from segviz_core.cases import Case, Site
from segviz_core.errors import InputError
from segviz_core.experiments.as_published import narrowed, steps_in_equal_epochs, unit_windows, with_steps
from segviz_core.experiments.extensions import Extension
from segviz_core.experiments.leaving import frozen_since, last_round, leave_when_due
from segviz_core.experiments.plan import Run
from segviz_core.experiments.predictors import Heads
from segviz_core.experiments.rows import Report, Trained, Watch, device_of, flops_of, training
from segviz_core.experiments.runner import run_study
from segviz_core.federation.packets import Packet
from segviz_core.federation.pseudo_labels import Teacher, soft_maps
from segviz_core.federation.session import SiteSession
from segviz_core.federation.settings import SiteSettings, StudySettings
from segviz_core.federation.state import StudyState
from segviz_core.federation.study import Study
from segviz_core.federation.study_folder import SETTINGS_FILE
from segviz_core.federation.weights import create_study, load_arrays
from segviz_core.network import NetworkConfig, SegVizNet
from segviz_core.training import Distillation, train
from segviz_core.tuning import calibrate, tune_heads

FOUND: Mapping[str, Any] = {"server_momentum": 0.6, "teacher_shift": 2.0, "teacher_pieces": 0.3}
"""What segviz+ does otherwise than a study by default, and why: docs/method_log.md."""

_TRAINING = ("train-local", "train", "tune")
"""The stages whose steps count."""


def train_segviz(run: Run, sites: Mapping[str, Site], work: Path, report: Report, watch: Watch) -> Trained:
    """segviz-fedavg, segviz-fedbn (as published: every step shared) and segviz+ (experts first)."""
    settings, folder = study_settings(run), work / "study"
    if not (folder / SETTINGS_FILE).exists():
        create_study(folder, settings)
    study, watched = Study(folder), _Watched(work / "watched.json")
    if study.settings != settings:
        raise InputError(
            f"{run.name}: expected the study of these settings in {folder}, found one of others.",
            hint=f"Delete {work} and begin anew.",
        )
    device = str(device_of(run))
    sites = narrowed(sites, unit_windows(run.setup))
    factors = steps_in_equal_epochs(sites) if run.setup.equal_epochs else dict.fromkeys(sites, 1.0)
    sessions = {
        organ: SiteSession(_for_site(settings, organ, factors[organ]), site, work / "sites" / organ, device=device)
        for organ, site in sites.items()
    }

    leaves, after, at_leaving = run.extension.leaves, run.extension.after, work / "at_leaving.safetensors"

    def on_round(row: Mapping[str, Any]) -> None:
        if leaves:
            leave_when_due(study, leaves, after, checkpoint=at_leaving)
        done = _steps(study, study.state.finished)
        report(done, run.setup.steps_per_site)
        if row["stage"] in ("train", "tune"):
            watched.keep(done, watch(done, _assembled(run, study)))

    if leaves:
        leave_when_due(study, leaves, after, checkpoint=at_leaving)  # a kill may have come just before it
    answers = {organ: with_steps(session.handle, factors[organ]) for organ, session in sessions.items()}
    run_study(study, answers, on_round=on_round)
    rows, notes = study.history(), notes_of(run, settings)
    if leaves:
        notes["frozen"] = frozen_since(at_leaving, study.state, heads=[leaves])
    return Trained(
        _predictors(run, study, work, sites),
        [_curve_row(study, row, watched.rows) for row in rows if row["complete"] and row["stage"] in _TRAINING],
        bytes_per_site(study, sites),
        _flops(run, settings, sites),
        notes,
    )


def study_settings(run: Run) -> StudySettings:
    """The study of a run: in segviz+ half of the steps are phase 1, a twentieth phase 3; elsewhere all are shared."""
    setup = run.setup
    values: dict[str, Any] = {"local_steps": 0, "tune_steps": 0}
    if run.row == "segviz+":
        values = {"local_steps": setup.steps_per_site // 2, "tune_steps": setup.steps_per_site // 20, **FOUND}
    values |= run.options
    shared = setup.steps_per_site - sum(values.get(f"{phase}_steps", 0) for phase in ("local", "head", "tune"))
    per_round = values.setdefault("steps_per_round", setup.steps_per_round)
    values.setdefault("rounds", max(1, shared // per_round))
    values.setdefault("local_chunks", max(1, values["local_steps"] // (10 * per_round)))
    values.setdefault("shared_learning_rate", setup.shared_learning_rate or setup.learning_rate)
    return StudySettings(
        coarse_share=0.0,  # as in every other row
        name=f"{run.profile}-{run.name}".replace("+", "plus"),
        mode=run.row,
        seed=run.seed,
        contract=setup.contract,
        network=setup.network,
        patch_size=setup.patch_size,
        batch_size=setup.batch_size,
        learning_rate=setup.learning_rate,
        contrast=setup.contrast,
        min_sites=len(run.organs),
        **values,
    )


def _for_site(settings: StudySettings, organ: str, factor: float) -> SiteSettings:
    known = settings.for_site(organ)
    return replace(known, most_steps=math.ceil(max(1.0, factor) * known.most_steps))


def notes_of(run: Run, settings: StudySettings) -> dict[str, Any]:
    """The study in a result: its settings that `run.setup` does not hold."""
    return {"study": {name: value for name, value in settings.to_dict().items() if name not in run.setup.to_dict()}}


def bytes_per_site(study: Study, sites: Collection[str]) -> int:
    """What a site sent and received, the mean over `sites`."""
    traffic: list[int] = [
        row["sites"].get(site, {}).get(way, 0)
        for row in study.history()
        for site in sites
        for way in ("bytes_sent", "bytes_received")
    ]
    return round(sum(traffic) / len(sites))


def network_of(run: Run, state: StudyState, site: str | None = None) -> SegVizNet:
    """The state's network; in FEDBN, of `site`: with its own norm layers."""
    network = SegVizNet(NetworkConfig.from_dict(run.setup.network), list(state.heads))
    load_arrays(network.representation, state.representation | (state.norms.get(site, {}) if site else {}))
    for organ, head in state.heads.items():
        load_arrays(network.head(organ), head)
    return network.eval().to(device_of(run))


class _Watched:
    """Test Dice along the way, by steps per site; survives a kill."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def keep(self, steps: int, values: Mapping[str, Any]) -> None:
        if values:
            self.rows[str(steps)] = dict(values)
            write_json(self._path, self.rows)


def _steps(study: Study, rounds: int) -> int:
    """Steps per site of the first `rounds` rounds."""
    return sum(int(r.settings["steps"]) for r in study.rounds[:rounds] if r.stage in _TRAINING)


def _curve_row(study: Study, row: Mapping[str, Any], watched: Mapping[str, Any]) -> dict[str, Any]:
    steps = _steps(study, row["round"])
    replies = {site: values.get("metrics", {}) for site, values in row["sites"].items()}
    losses = {f"loss/{site}": metrics["loss"] for site, metrics in replies.items() if "loss" in metrics}
    return {"step": steps, "stage": row["stage"], **losses, **watched.get(str(steps), {})}


def _predictors(run: Run, study: Study, work: Path, sites: Mapping[str, Site]) -> dict[str, Heads]:
    """The evaluations of a row; of an extension the product alone, beside that of the plain run."""
    assembled = _assembled(run, study)
    if run.extension != Extension():
        return {"assembled": assembled}
    predictors = {"personal": _personal(run, work, sites), "assembled": assembled}
    predictors["assembled+recal"] = _recalibrated(run, assembled, sites)
    if study.settings.mode == "segviz+":
        predictors["experts"] = _experts(run, study.folder, sites)
    return predictors


def _assembled(run: Run, study: Study) -> Heads:
    """One pass, or in FEDBN one per site: every head behind its owner's norm layers."""
    organs = [organ for organ in run.organs if organ in study.state.heads]
    if study.settings.keeps_norms:
        networks: list[tuple[SegVizNet, tuple[str, ...]]] = [
            (network_of(run, study.state, organ), (organ,)) for organ in organs
        ]
    else:
        networks = [(network_of(run, study.state), tuple(organs))]
    return Heads(
        networks,
        run.setup.patch_size,
        calibration=study.state.calibration,
        windows=unit_windows(run.setup),
    )


def _personal(run: Run, work: Path, sites: Mapping[str, Site]) -> Heads:
    """Every site's network as it left the last round of local training, for its own organ alone."""
    networks = []
    for organ in sites:
        last = max((work / "sites" / organ).glob("shared-*.safetensors"))
        tensors = load_file(last)
        weights = {k.removeprefix("network|"): v for k, v in tensors.items() if k.startswith("network|")}
        organs = dict.fromkeys(key.split(".")[1] for key in weights if key.startswith("heads."))
        network = SegVizNet(NetworkConfig.from_dict(run.setup.network), list(organs))
        network.load_state_dict(weights)
        networks.append((network.eval().to(device_of(run)), (organ,)))
    return Heads(networks, run.setup.patch_size, exclusive=False, windows=unit_windows(run.setup))


def _experts(run: Run, folder: Path, sites: Mapping[str, Site]) -> Heads:
    """Every site's network at the end of phase 1."""
    networks = []
    for organ in sites:
        expert = Packet.from_bytes((folder / "experts" / f"{organ}.safetensors").read_bytes())
        network = SegVizNet(NetworkConfig.from_dict(run.setup.network), [organ])
        load_arrays(network.representation, expert.arrays["representation"])
        load_arrays(network.head(organ), expert.arrays[f"head/{organ}"])
        networks.append((network.eval().to(device_of(run)), (organ,)))
    return Heads(networks, run.setup.patch_size, exclusive=False)


def _recalibrated(run: Run, assembled: Heads, sites: Mapping[str, Site]) -> Heads:
    """Phase 3: every owner re-tunes its head on the frozen representation, then fits temperature and threshold."""
    networks = copy.deepcopy(list(assembled.networks))
    calibration: dict[str, tuple[float, float]] = {}
    for network, organs in networks:
        for organ in organs:
            site = sites[organ]
            config = training(run, organ, "recal", steps=run.setup.recal_steps)
            tune_heads(network, site.training_cases, config, organs=(organ,), validation_cases=site.validation_cases)
            calibration |= calibrate(network, site.validation_cases, organs=(organ,), patch_size=config.patch_size)
    return replace(assembled, networks=networks, calibration=calibration)


def _flops(run: Run, settings: StudySettings, sites: Mapping[str, Site]) -> int:
    """Arithmetic of all sites: steps alone and together, and labels by the experts of the other sites."""
    total, config = 0, NetworkConfig.from_dict(run.setup.network)
    for organ, site in sites.items():
        cases, own = site.training_cases, site.label_set.organs
        foreign = tuple(o for o in sites if o not in own)
        alone, together = (SegVizNet(config, list(organs)).to(device_of(run)) for organs in (own, sites))
        step = training(run, steps=1)
        plain = flops_of(lambda: train(alone, cases, step))  # noqa: B023
        if settings.mode != "segviz+":
            total += plain * settings.rounds * settings.steps_per_round
            continue
        distillation = Distillation(organs=foreign, ramp=0.0)
        shared = flops_of(lambda: train(together, cases, step, organs=own, distillation=distillation))  # noqa: B023
        leaves = run.extension.leaves == organ
        rounds = last_round(run.extension.after, settings.rounds) if leaves else settings.rounds
        total += plain * settings.local_steps + shared * rounds * settings.steps_per_round
        if settings.tune_steps:
            total += settings.tune_steps * flops_of(lambda: tune_heads(together, cases, step, organs=own))  # noqa: B023
        total += len(cases) * len(foreign) * _labelling(alone, cases[0], run, settings)
    return total


def _labelling(expert: SegVizNet, case: Case, run: Run, settings: StudySettings) -> int:
    """Of one case by one expert, as at a site; here the site's own network stands for it."""
    teacher = Teacher(expert.eval(), dict.fromkeys(expert.organs, 1.0))
    unlabelled, patch_size = replace(case, masks={}), run.setup.patch_size
    return flops_of(lambda: soft_maps(unlabelled, [teacher], patch_size=patch_size, norm=settings.teacher_norm))
