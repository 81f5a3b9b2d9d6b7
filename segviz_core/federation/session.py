"""A site's side of a study: answers each request with torch. Runs inside the warm trainer process; no flwr.

Every answer can be given again after a kill: what a stage starts from is on disk in `work` before it begins.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from segviz_core import __version__
from segviz_core.atomic import replacing
from segviz_core.cases import Site
from segviz_core.errors import InputError
from segviz_core.federation.packets import Arrays, Packet, Setting
from segviz_core.federation.pseudo_labels import Teacher, load_targets, write_targets
from segviz_core.federation.request_guard import check_request
from segviz_core.federation.schema import NEWS
from segviz_core.federation.settings import SiteSettings
from segviz_core.federation.training_state import TrainingState
from segviz_core.federation.transport import compact, expand
from segviz_core.federation.weights import initial_head, load_arrays, template_of, to_arrays, update_of
from segviz_core.meta_model import MetaModel
from segviz_core.network import NetworkConfig, SegVizNet
from segviz_core.training import Distillation, TrainingConfig, TrainingSummary, train
from segviz_core.tuning import calibrate, tune_heads, validation_dice

Progress = Callable[[str, int, int], None]

META_MODEL_FILE = "meta_model.safetensors"


class SiteSession:
    """One site in one study, trained on `device`. `site` holds the prepared cases, `work` what must survive a kill."""

    def __init__(self, settings: SiteSettings, site: Site, work: Path, *, device: str = "cpu") -> None:
        self.settings, self.site, self.work, self.device = settings, site, work, device
        work.mkdir(parents=True, exist_ok=True)
        self.organs = site.label_set.organs
        self.config = NetworkConfig.from_dict(settings.network)
        self._template = template_of(self.config)
        self._training = TrainingState(work, self.config, organs=self.organs, seed=settings.seed, device=device)
        self._answered: tuple[str, Packet] | None = None
        load_targets(work, site.training_cases)

    def handle(self, request: Packet, *, on_progress: Progress | None = None) -> Packet:
        """Answer one request; the same request a second time (its answer got lost) gets the same answer at once.

        Raises:
            InputError: the request is not one of the protocol, or an earlier stage is missing here.
            Cancelled: raised by `on_progress`; nothing is lost, the request can be repeated.
        """
        check_request(request, settings=self.settings, template=self._template)
        digest = _digest(request)
        if self._answered and self._answered[0] == digest:
            return self._answered[1]
        answers: dict[str, Callable[[Packet, Progress], Packet]] = {
            "declare": self._declare,
            "train-local": self._train_local,
            "expert": self._expert,
            "label": self._label,
            "train-head": self._train_head,
            "train": self._train,
            "tune": self._tune,
            "heads": self._send_heads,
            "evaluate": self._evaluate,
            "deliver": self._deliver,
        }
        started = time.monotonic()
        reply = answers[request.stage](expand(request), on_progress or (lambda *_: None))
        reply = replace(reply, metrics={**reply.metrics, "seconds": round(time.monotonic() - started, 3)})
        if request.settings.get("transport") == "fp16":
            reply = compact(reply, norm=self._template.norm)
        self._answered = digest, reply
        return reply

    def _declare(self, request: Packet, on_progress: Progress) -> Packet:
        self._training.keep_common(request.arrays["representation"])
        settings: dict[str, Setting] = {
            "site": self.settings.site,
            "organs": ",".join(self.organs),
            "contract": self.settings.contract.hash,
            "version": __version__,
        }
        return self._reply(request, settings=settings, metrics=self._counts())

    def _train_local(self, request: Packet, on_progress: Progress) -> Packet:
        first, steps = int(request.settings["first_step"]), int(request.settings["steps"])
        network, optimizer, done = self._training.local()
        if done < first + steps:
            config = self._training_config(request, "local", first_step=done, steps=first + steps - done)
            summary = train(
                network,
                self.site.training_cases,
                config,
                organs=self.organs,
                optimizer=optimizer,
                on_step=lambda i, n: on_progress("train-local", done + i, first + steps),
            )
            self._training.keep_local(first + steps, network, optimizer)
        else:
            summary = TrainingSummary(0.0, {}, 0)
        return self._reply(request, metrics=self._training_metrics(summary))

    def _expert(self, request: Packet, on_progress: Progress) -> Packet:
        network, _, _ = self._training.local()
        dice = validation_dice(
            network, self.site.validation_cases, organs=self.organs, patch_size=self.settings.patch_size
        )
        arrays = {"representation": to_arrays(network.representation)} | _heads(network, self.organs)
        return self._reply(request, arrays=arrays, metrics={f"dice/{organ}": d for organ, d in dice.items()})

    def _label(self, request: Packet, on_progress: Progress) -> Packet:
        teachers = []
        for name, arrays in request.arrays.items():
            if not name.endswith("/representation"):
                continue
            prefix = name.removesuffix("representation")
            heads = {g.removeprefix(f"{prefix}head/"): h for g, h in request.arrays.items() if f"{prefix}head/" in g}
            network = SegVizNet(self.config, list(heads)).to(self.device)
            load_arrays(network.representation, arrays)
            for organ, head in heads.items():
                load_arrays(network.head(organ), head)
            index = prefix.split("/")[1]
            weights = {organ: request.metrics.get(f"weight/{index}/{organ}", 1.0) for organ in heads}
            teachers.append(Teacher(network.eval(), weights))
        write_targets(
            self.work,
            self.site.training_cases,
            teachers,
            keep=str(request.settings.get("organs", "")).split(","),
            patch_size=self.settings.patch_size,
            shift=float(request.settings.get("teacher_shift", 0.0)),
            pieces=float(request.settings.get("teacher_pieces", 0.0)),
            norm=float(request.settings.get("teacher_norm", 0.0)),
            on_case=lambda i, n: on_progress("label", i, n),
        )
        return self._reply(request)

    def _train_head(self, request: Packet, on_progress: Progress) -> Packet:
        """The heads of organs that no site had before, alone on the frozen representation (method.md section 6)."""
        organs = tuple(organ for organ in self.organs if organ in str(request.settings["organs"]).split(","))
        if not organs:
            raise InputError(f"train-head: expected organs of {', '.join(self.organs)}, found none of them.")
        network = self._assembled(request)
        metrics = self._tune_heads(network, request, organs, on_progress)
        dice = validation_dice(network, self.site.validation_cases, organs=organs, patch_size=self.settings.patch_size)
        metrics |= {f"dice/{organ}": d for organ, d in dice.items()}
        return self._reply(request, arrays=_heads(network, organs), metrics=metrics)

    def _train(self, request: Packet, on_progress: Progress) -> Packet:
        number, settings = int(request.settings["round"]), request.settings
        first_step = int(settings["first_step"])
        network, optimizer = self._training.shared(number, self._all_organs(request), fresh=first_step == 0)
        self._fill(network, request)
        received = to_arrays(network.representation)
        labelled = {organ for case in self.site.training_cases for organ in case.targets}
        foreign = tuple(organ for organ in network.organs if organ in labelled and organ not in self.organs)
        weight = float(settings["foreign_weight"])
        distillation = Distillation(
            organs=foreign if weight else (),
            weight=weight,
            ramp=float(settings["foreign_ramp"]),
            gates={k.removeprefix("gate/"): v for k, v in request.metrics.items() if k.startswith("gate/")},
        )
        config = self._training_config(request, "shared", first_step=first_step, steps=int(settings["steps"]))
        summary = train(
            network,
            self.site.training_cases,
            config,
            organs=self.organs,
            optimizer=optimizer,
            distillation=distillation,
            proximal=float(settings["proximal"]),
            on_step=lambda i, n: on_progress("train", i, n),
        )
        self._training.keep_shared(number, network, optimizer)
        arrays = update_of(network, received, fedbn=settings["mode"] == "segviz-fedbn")
        if settings.get("send_heads", True):
            arrays |= _heads(network, self.organs)
        return self._reply(request, arrays=arrays, metrics=self._training_metrics(summary) | self._counts())

    def _send_heads(self, request: Packet, on_progress: Progress) -> Packet:
        heads = self._training.own_heads(int(request.settings["round"]))
        if not heads:
            raise InputError("This site has not trained any head in this study yet.")
        return self._reply(request, arrays={f"head/{organ}": head for organ, head in heads.items()})

    def _tune(self, request: Packet, on_progress: Progress) -> Packet:
        network = self._assembled(request)
        metrics = self._tune_heads(network, request, self.organs, on_progress)
        return self._reply(request, arrays=_heads(network, self.organs), metrics=metrics)

    def _tune_heads(
        self, network: SegVizNet, request: Packet, organs: tuple[str, ...], on_progress: Progress
    ) -> dict[str, float]:
        """Tune the heads of `organs` in place; gives their calibration as metrics."""
        stage, steps = request.stage, int(request.settings["steps"])
        config = self._training_config(request, f"{stage}-{request.settings['round']}", first_step=0, steps=steps)
        tune_heads(
            network,
            self.site.training_cases,
            config,
            organs=organs,
            validation_cases=self.site.validation_cases,
            on_step=lambda i, n: on_progress(stage, i, n),
        )
        calibration = calibrate(
            network,
            self.site.validation_cases if request.settings["calibrate"] else [],
            organs=organs,
            patch_size=self.settings.patch_size,
        )
        metrics = {f"temperature/{organ}": t for organ, (t, _) in calibration.items()}
        return metrics | {f"threshold/{organ}": h for organ, (_, h) in calibration.items()}

    def _evaluate(self, request: Packet, on_progress: Progress) -> Packet:
        dice = validation_dice(
            self._assembled(request),
            self.site.validation_cases,
            organs=self.organs,
            patch_size=self.settings.patch_size,
        )
        return self._reply(request, metrics={f"dice/{organ}": d for organ, d in dice.items()})

    def _deliver(self, request: Packet, on_progress: Progress) -> Packet:
        """Keep the finished meta-model, after every check of a model file, for this site's own use."""
        with replacing(self.work / META_MODEL_FILE) as temporary:
            temporary.write_bytes(request.arrays["model"]["file"].tobytes())
            model = MetaModel.load(temporary)
            if model.contract != self.settings.contract:
                raise InputError("Expected a meta-model of this study's data contract, found one of another.")
        return self._reply(request)

    def _assembled(self, request: Packet) -> SegVizNet:
        network = SegVizNet(self.config, self._all_organs(request)).to(self.device)
        self._fill(network, request)
        return network

    def _fill(self, network: SegVizNet, request: Packet) -> None:
        """Put in what was received; heads that the coordinator does not have are kept here or begin at their seed."""
        load_arrays(network.representation, request.arrays["representation"])
        heads = request.heads()
        if not request.settings.get("send_heads", True):
            heads = self._training.own_heads(int(request.settings["round"])) | heads
        for organ in network.organs:
            if organ in heads:
                load_arrays(network.head(organ), heads[organ])
            else:
                seeded = initial_head(self.config, seed=self.settings.seed, organ=organ)
                network.head(organ).load_state_dict(seeded.state_dict())

    def _all_organs(self, request: Packet) -> tuple[str, ...]:
        return (*self.organs, *sorted(set(request.heads()) - set(self.organs)))  # sorted: sums of floats have an order

    def _counts(self) -> dict[str, float]:
        cases = self.site.training_cases
        return {f"cases/{organ}": float(sum(organ in case.masks for case in cases)) for organ in self.organs}

    def _training_metrics(self, summary: TrainingSummary) -> dict[str, float]:
        dice = {f"dice/{organ}": value for organ, value in summary.dice.items()}
        return {"loss": summary.loss, "steps": float(summary.steps), **dice}

    def _training_config(self, request: Packet, phase: str, *, first_step: int, steps: int) -> TrainingConfig:
        return TrainingConfig(
            steps=steps,
            first_step=first_step,
            total_steps=int(request.settings.get("total_steps", steps)),
            learning_rate=float(request.settings["learning_rate"]),
            patch_size=self.settings.patch_size,
            batch_size=self.settings.batch_size,
            coarse=self.settings.coarse_share,
            contrast=self.settings.contrast,
            fixed_norm=bool(request.settings.get("fixed_norm", False)),
            loss="published" if self.settings.loss == "published" else "supervised",
            seed_words=(self.settings.seed, self.settings.site, phase),
        )

    def _reply(
        self,
        request: Packet,
        *,
        settings: dict[str, Setting] | None = None,
        arrays: dict[str, Arrays] | None = None,
        metrics: dict[str, float] | None = None,
    ) -> Packet:
        same: dict[str, Setting] = {name: request.settings[name] for name in ("stage", "round", "mode")}
        return Packet(same | (settings or {}), arrays or {}, metrics or {})


def _heads(network: SegVizNet, organs: tuple[str, ...]) -> dict[str, Arrays]:
    return {f"head/{organ}": to_arrays(network.head(organ)) for organ in organs}


def _digest(request: Packet) -> str:
    """What the answer to `request` depends on: everything but the news."""
    settings = {name: value for name, value in request.settings.items() if name not in NEWS}
    return hashlib.sha256(replace(request, settings=settings).to_bytes()).hexdigest()
