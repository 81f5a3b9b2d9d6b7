"""A study of a few numbers with sites that answer by arithmetic: final weights are known without training."""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segviz_core.federation.guard import Rejected
from segviz_core.federation.packets import Packet
from segviz_core.federation.settings import StudySettings
from segviz_core.federation.study import Study
from segviz_core.federation.study_folder import write_study
from segviz_core.federation.synchronization import Template
from segviz_core.federation.transport import compact, expand

TEMPLATE = Template(
    representation={
        "w": ((4,), "float32"),
        "bn.weight": ((2,), "float32"),
        "bn.running_mean": ((2,), "float32"),
        "bn.running_var": ((2,), "float32"),
        "bn.num_batches_tracked": ((), "int64"),
    },
    norm=frozenset({"bn.weight", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"}),
    head={"up.weight": ((2,), "float32")},
)
INITIAL = {
    "w": np.zeros(4, np.float32),
    "bn.weight": np.ones(2, np.float32),
    "bn.running_mean": np.zeros(2, np.float32),
    "bn.running_var": np.ones(2, np.float32),
    "bn.num_batches_tracked": np.array(0, np.int64),
}


def toy_study(folder: Path, **settings) -> Study:
    """A study in `folder` with toy weights: by default mode segviz+, two local chunks, three rounds."""
    values = {"local_steps": 4, "local_chunks": 2, "rounds": 3, "steps_per_round": 2, "tune_steps": 1}
    network = {"channels": [4, 8], "strides": [2], "num_res_units": 1}
    settings = {"network": network, "patch_size": (8, 8, 8), **values, **settings}
    write_study(folder, StudySettings("toy", **settings), TEMPLATE, INITIAL)
    return Study(folder)


class ToySite:
    """Adds `step` to every shared weight and 1 to its heads in each round; experts are constant."""

    def __init__(self, site: str, organs: str, *, step: float, cases: int = 5, contract: str) -> None:
        self.site, self.organs, self.step, self.cases, self.contract = site, organs.split(","), step, cases, contract
        self.requests: list[Packet] = []

    def __call__(self, request: Packet) -> Packet:
        """Answer in the transport of the request."""
        self.requests.append(request)
        reply = self._answer(expand(request))
        return compact(reply, norm=TEMPLATE.norm) if request.settings.get("transport") == "fp16" else reply

    @property
    def stages(self) -> list[str]:
        """The stages it was asked for, in order."""
        return [request.stage for request in self.requests]

    def _answer(self, request: Packet) -> Packet:
        same = {name: request.settings[name] for name in ("stage", "round", "mode")}
        counts = {f"cases/{organ}": float(self.cases) for organ in self.organs}
        dice = {f"dice/{organ}": 0.5 for organ in self.organs}
        heads = {f"head/{organ}": {"up.weight": np.full(2, self.step, np.float32)} for organ in self.organs}
        trained = {"loss": 1.0, "steps": 2.0} | dice
        if request.stage == "declare":
            return Packet(
                {**same, "site": self.site, "organs": ",".join(self.organs), "contract": self.contract, "version": "1"},
                {},
                counts,
            )
        if request.stage == "train-local":
            return Packet(same, {}, trained)
        if request.stage == "expert":
            theta = {
                key: np.full(shape, 10 * self.step).astype(dtype)
                for key, (shape, dtype) in TEMPLATE.representation.items()
            }
            return Packet(same, {"representation": theta} | heads, dice)
        if request.stage == "train":
            return Packet(same, self._trained(request), trained | counts)
        if request.stage in ("tune", "train-head"):
            organs = str(request.settings.get("organs", ",".join(self.organs))).split(",")
            calibration = {f"{n}/{o}": v for o in organs for n, v in (("temperature", 2.0), ("threshold", 0.4))}
            own = {f"head/{o}": request.arrays.get(f"head/{o}", heads[f"head/{o}"]) for o in organs}
            return Packet(same, own, calibration)
        return Packet(same, {}, dice if request.stage == "evaluate" else {})

    def _trained(self, request: Packet) -> dict:
        fedbn = request.settings["mode"] == "segviz-fedbn"
        theta, heads = request.arrays["representation"], request.heads()
        update = {k: np.full(shape, self.step, np.float32) for k, (shape, _) in TEMPLATE.shared(fedbn=fedbn).items()}
        norm = {k: np.asarray(theta[k] + 1).astype(theta[k].dtype) for k in TEMPLATE.own_norm(fedbn=fedbn)}
        start = {organ: heads.get(organ, {"up.weight": np.zeros(2, np.float32)})["up.weight"] for organ in self.organs}
        return {"update": update, "norm": norm} | {
            f"head/{o}": {"up.weight": w + np.float32(1)} for o, w in start.items()
        }


def toy_sites(study: Study) -> dict[str, ToySite]:
    """Three sites by node id; the liver is annotated at two of them."""
    contract = study.settings.contract.hash
    return {
        "11": ToySite("north", "liver", step=1.0, cases=3, contract=contract),
        "22": ToySite("south", "spleen", step=2.0, cases=9, contract=contract),
        "33": ToySite("west", "liver,kidneys", step=6.0, cases=1, contract=contract),
    }


def step_round(study: Study, sites: Mapping[str, ToySite]) -> dict[str, Any]:
    """One round with the given sites online."""
    rejected = {}
    asked = deque(study.requests(list(sites)))
    while asked:
        node, request = asked.popleft()
        try:
            study.accept(node, sites[node](request))
        except Rejected as error:
            rejected[node] = error.message
        else:
            asked += [(node, more)] if (more := study.follow_up(node)) else []
    return study.close_round(seconds=0.0, rejected=rejected)


def until(study: Study, sites: Mapping[str, ToySite], stage: str) -> None:
    """Play rounds until the next one is of `stage`."""
    while study.stage != stage:
        step_round(study, sites)
