"""A study on the server's side: what to ask next, which replies to take, and what follows from them.

No flwr, no torch: the same object serves the runner in one process and Flower's ServerApp.
"""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from segviz_core.atomic import replacing, write_json
from segviz_core.errors import InputError, SegVizError
from segviz_core.federation.aggregation import Replies, aggregate
from segviz_core.federation.export import meta_model_of
from segviz_core.federation.guard import Rejected, check_reply, declared_organs, outliers, update_norm
from segviz_core.federation.packets import Arrays, Packet
from segviz_core.federation.schedule import Round, schedule
from segviz_core.federation.settings import StudySettings
from segviz_core.federation.state import Member, StudyState
from segviz_core.federation.synchronization import Template

SETTINGS_FILE, TEMPLATE_FILE, INITIAL_FILE = "study.json", "template.json", "initial.safetensors"
CHECKPOINT_FILE, HISTORY_FILE, SITES_FILE = "checkpoint.safetensors", "history.jsonl", "sites.json"
ATTEMPTS = 3


class Study:
    """The study in `folder`; opens at the last finished round.

    `sites.json`, where it exists, binds node ids to what the coordinator registered:
    {"<node id>": {"site": "north", "allow": ["liver"]}}; an empty `allow` permits any organ.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = StudySettings.from_dict(_read_json(folder / SETTINGS_FILE))
        self.template = Template.from_dict(_read_json(folder / TEMPLATE_FILE))
        self.initial: Arrays = load_file(folder / INITIAL_FILE)
        checkpoint = folder / CHECKPOINT_FILE
        self.state = StudyState.load(checkpoint) if checkpoint.exists() else StudyState(self.initial)
        self.rounds: Sequence[Round] = schedule(self.settings)
        self._begin_round(attempt=1)

    @property
    def finished(self) -> bool:
        """Whether every round is done."""
        return self.state.finished >= len(self.rounds)

    @property
    def number(self) -> int:
        """Number of the round under way, from 1."""
        return self.state.finished + 1

    @property
    def stage(self) -> str:
        """Stage of the round under way."""
        return self.rounds[self.state.finished].stage

    def missing(self, online: Sequence[str]) -> list[str]:
        """Names of what the round still waits for before it can start, given the node ids that are online."""
        if self.rounds[self.state.finished].required:
            absent = [m.site for node, m in self.state.members.items() if node not in online]
            if absent:
                return [site for site in sorted(absent) if site not in self._accepted]
        if self.stage == "deliver":  # whoever is online gets the finished model; the others find it at the coordinator
            return []
        lacking = self.settings.min_sites - len(online)
        return [f"{lacking} more site{'s' if lacking > 1 else ''}"] if lacking > 0 else []

    def requests(self, online: Sequence[str]) -> dict[str, Packet]:
        """One request per node id that is online and has not replied yet in this round."""
        requests = {}
        for node in sorted(online):
            member = self.state.members.get(node)
            if member is None:
                requests[node] = self._declare_request()
            elif member.site not in self._accepted and self.stage != "declare":
                requests[node] = self._request(member)
        self._sent |= {node: Packet(r.settings) for node, r in requests.items()}
        self._bytes_sent |= {node: r.nbytes for node, r in requests.items()}
        return requests

    def accept(self, node: str, reply: Packet) -> None:
        """Take the reply of node id `node`, after the guard has checked it.

        Raises:
            Rejected: the reply is not used; the message says why.
        """
        if node not in self._sent:
            raise Rejected("a reply that nobody asked for in this round.")
        member = self.state.members.get(node)
        check_reply(
            reply,
            request=self._sent[node],
            organs=member.organs if member else (),
            template=self.template,
            contract_hash=self.settings.contract.hash,
        )
        if reply.stage == "declare":
            member = self._declared(node, reply)
        assert member is not None
        folder = self._round_folder
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / f"{member.site}.safetensors") as temporary:
            temporary.write_bytes(reply.to_bytes())
        if reply.stage == "declare":
            self.state.members[node] = member
        if reply.stage == "train":
            self._norms[member.site] = update_norm(reply)
        if reply.stage == self.stage:
            self._accepted[member.site] = folder / f"{member.site}.safetensors"
        self._bytes_received[node] = reply.nbytes

    def close_round(self, *, seconds: float, rejected: Mapping[str, str]) -> dict[str, Any]:
        """Aggregate what was accepted, write the checkpoint, and give the row that history.jsonl got.

        `rejected` maps node ids to reasons. A round without a usable reply, or a required one without all members, is
        asked again; the accepted replies are kept.

        Raises:
            SegVizError: the third attempt in a row was in vain; the study can be started again.
        """
        reasons = {self._name(node): reason for node, reason in rejected.items()}
        for site, reason in outliers(self._norms).items():
            reasons[site] = reason
            self._accepted.pop(site, None)
        complete = self._complete()
        row = {
            "time": round(time.time(), 3),
            "round": self.number,
            "stage": self.stage,
            "seconds": round(seconds, 3),
            "complete": complete,
            "sites": self._site_rows(),
            "rejected": reasons,
        }
        if complete:
            with ExitStack() as stack:
                replies = Replies(self._accepted, stack)
                aggregate(self.stage, replies, self.state, settings=self.settings, template=self.template)
            if self.stage == "expert":
                self._keep_experts()
            self.state.finished += 1
            self.state.save(self.folder / CHECKPOINT_FILE)
            self._append_history(row)
            if not self.finished:
                self._begin_round(attempt=1)
            else:
                shutil.rmtree(self.folder / "rounds", ignore_errors=True)
            return row
        self._append_history(row)
        self._attempt += 1
        if self._attempt > ATTEMPTS:
            why = "; ".join(f"{site}: {reason}" for site, reason in sorted(reasons.items())) or "nobody replied"
            raise SegVizError(
                f"Round {self.number} ({self.stage}) had {ATTEMPTS} attempts without the replies it needs ({why}).",
                hint="Everything up to the last finished round is safe; solve this and start the study again.",
            )
        return row

    def history(self) -> list[dict[str, Any]]:
        """All rows of history.jsonl; a last line cut short by a kill is left out."""
        path = self.folder / HISTORY_FILE
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def _begin_round(self, *, attempt: int) -> None:
        self._attempt = attempt
        self._accepted: dict[str, Path] = {}
        self._norms: dict[str, float] = {}
        self._sent: dict[str, Packet] = {}
        self._bytes_sent: dict[str, int] = {}
        self._bytes_received: dict[str, int] = {}
        self._round_folder = self.folder / "rounds" / f"{self.number:05d}"
        shutil.rmtree(self.folder / "rounds", ignore_errors=True)

    def _complete(self) -> bool:
        if self.stage == "declare":
            return len(self.state.members) >= self.settings.min_sites
        if self.stage == "deliver":
            return True
        if self.rounds[self.state.finished].required:
            return all(member.site in self._accepted for member in self.state.members.values())
        return bool(self._accepted)

    def _declare_request(self) -> Packet:
        return Packet(
            {"stage": "declare", "round": self.number, "mode": self.settings.mode}, {"representation": self.initial}
        )

    def _request(self, member: Member) -> Packet:
        settings = {
            **self.rounds[self.state.finished].settings,
            "stage": self.stage,
            "round": self.number,
            "mode": self.settings.mode,
        }
        if self.stage in ("train-local", "expert"):
            return Packet(settings)
        if self.stage == "label":
            arrays, weights = self._foreign_experts(member)
            return Packet(settings, arrays, weights)
        if self.stage == "deliver":
            blob = meta_model_of(self.state, self.settings).to_bytes()
            return Packet(settings, {"model": {"file": np.frombuffer(blob, np.uint8)}})
        heads = {f"head/{organ}": head for organ, head in self.state.heads.items()}
        representation = self.state.representation | self.state.norms.get(member.site, {})
        metrics = {f"gate/{organ}": gate for organ, gate in self.state.gates.items()}
        for organ, (temperature, threshold) in self.state.calibration.items():
            metrics |= {f"temperature/{organ}": temperature, f"threshold/{organ}": threshold}
        return Packet(settings, {"representation": representation, **heads}, metrics)

    def _foreign_experts(self, member: Member) -> tuple[dict[str, Arrays], dict[str, float]]:
        arrays: dict[str, Arrays] = {}
        weights: dict[str, float] = {}
        others = sorted((m for m in self.state.members.values() if m.site != member.site), key=lambda m: m.site)
        for i, other in enumerate(others):
            foreign = [organ for organ in other.organs if organ not in member.organs]
            if not foreign:
                continue
            expert = Packet.from_bytes((self.folder / "experts" / f"{other.site}.safetensors").read_bytes())
            arrays[f"expert/{i}/representation"] = expert.arrays["representation"]
            for organ in foreign:
                arrays[f"expert/{i}/head/{organ}"] = expert.arrays[f"head/{organ}"]
                weights[f"weight/{i}/{organ}"] = float(other.cases[organ])
        return arrays, weights

    def _declared(self, node: str, reply: Packet) -> Member:
        site, organs = str(reply.settings.get("site", "")), declared_organs(reply)
        registered = _read_json(self.folder / SITES_FILE) if (self.folder / SITES_FILE).exists() else {}
        if node in registered:
            if site != registered[node]["site"]:
                raise Rejected(f"expected the site name {registered[node]['site']!r}, found {site[:64]!r}.")
            allowed = registered[node]["allow"]
            if allowed and (foreign := [organ for organ in organs if organ not in allowed]):
                raise Rejected(f"this site may annotate {', '.join(allowed)}, but declared {foreign[0]}.")
        if not site.replace("-", "").replace("_", "").isalnum() or not site.isascii():
            raise Rejected(f"expected a site name of letters, digits, - and _, found {site[:64]!r}.")
        if any(m.site == site for other, m in self.state.members.items() if other != node):
            raise Rejected(f"the site name {site!r} is taken by another site.")
        return Member(site, organs, {organ: int(reply.metrics[f"cases/{organ}"]) for organ in organs})

    def _keep_experts(self) -> None:
        experts = self.folder / "experts"
        experts.mkdir(exist_ok=True)
        for site, path in self._accepted.items():
            shutil.copyfile(path, experts / f"{site}.safetensors")

    def _site_rows(self) -> dict[str, Any]:
        rows = {}
        for node, size in self._bytes_sent.items():
            site = self._name(node)
            row: dict[str, Any] = {"bytes_sent": size, "bytes_received": self._bytes_received.get(node, 0)}
            if site in self._accepted:
                with ExitStack() as stack:
                    row["metrics"] = Replies({site: self._accepted[site]}, stack).metrics[site]
            rows[site] = row
        return rows

    def _name(self, node: str) -> str:
        member = self.state.members.get(node)
        return member.site if member else f"node {node}"

    def _append_history(self, row: Mapping[str, Any]) -> None:
        with (self.folder / HISTORY_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")


def write_study(folder: Path, settings: StudySettings, template: Template, initial: Arrays) -> None:
    """Write the files that a Study opens; `initial` is the common representation."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / TEMPLATE_FILE, template.to_dict())
    with replacing(folder / INITIAL_FILE) as temporary:
        save_file(initial, temporary)
    write_json(folder / SETTINGS_FILE, settings.to_dict())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"Expected the study file {path.name} in {path.parent}, found none that can be read.",
            hint="Create the study first: python -m segviz_core coordinator create.",
        ) from error
    assert isinstance(values, dict)
    return values
