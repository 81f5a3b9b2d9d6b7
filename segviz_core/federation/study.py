"""A study on the server's side: what to ask next, which replies to take, and what follows from them.

No flwr, no torch: the same object serves the runner in one process and Flower's ServerApp.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from segviz_core.errors import SegVizError
from segviz_core.federation import journal
from segviz_core.federation.aggregation import Replies, aggregate
from segviz_core.federation.answers import Answers
from segviz_core.federation.experts import Experts
from segviz_core.federation.guard import Rejected, check_reply
from segviz_core.federation.membership import (
    Registered,
    admit,
    declared,
    fewest,
    forget_training,
    mark_left,
    newcomers,
    read_registered,
    to_erase,
)
from segviz_core.federation.pace import Durations, adapt
from segviz_core.federation.packets import Packet, Setting
from segviz_core.federation.requests import Requests, news
from segviz_core.federation.schedule import Round, schedule
from segviz_core.federation.state import Member, StudyState
from segviz_core.federation.study_folder import read_study
from segviz_core.federation.transport import expand

CHECKPOINT_FILE, HISTORY_FILE, SITES_FILE = "checkpoint.safetensors", "history.jsonl", "sites.json"
ATTEMPTS = 3
WAY_OUT = "solve this and start the study again, or go on without a site: coordinator remove-site STUDY NAME."


class Study:
    """The study in `folder`; opens at the last finished round.

    One process plays it: `refresh`, then per round `missing`, `requests`, `accept` and `follow_up` for each reply, and
    `close_round`. Others may open it to read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings, self.template, self.initial = read_study(folder)
        checkpoint = folder / CHECKPOINT_FILE
        self.state = StudyState.load(checkpoint) if checkpoint.exists() else StudyState(self.initial)
        self._refused: set[str] = set()
        self._durations = Durations()
        self._experts = Experts(folder / "experts")
        self._news: dict[str, Setting] = {}
        self._history_is_whole = False
        self._begin_round()

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
        return self._round.stage

    @property
    def newcomers(self) -> list[str]:
        """Names of sites that the coordinator registered and that have not declared themselves yet."""
        return newcomers(self.state, self._registered())

    def refresh(self) -> None:
        """Follow the coordinator's word on sites that left or are to be erased; the latter may begin phase 2 anew."""
        if not self._history_is_whole:
            self._write_lost_row()
        registered = self._registered()
        mark_left(self.state, registered)
        for member in to_erase(self.state, registered):
            self._erase(member)

    def extend(self, online: Collection[str]) -> bool:
        """Reopen the finished study if a newcomer is online: a site that never declared, or an organ without a head."""
        self.refresh()
        new = [node for node in online if node not in self.state.members and node not in self._refused]
        late = [m.site for node, m in self.state.active.items() if node in online and self.state.without_head(m)]
        if not self.finished or not (new or late):
            return False
        for member in self.state.members.values():
            self.state.update(member.site, labelled=())
        self._amend("newcomers")
        return True

    def missing(self, online: Sequence[str]) -> list[str]:
        """Names of what the round still waits for before it can start, given the node ids that are online."""
        self.refresh()
        if self._round.required:
            here = {m.site for node, m in self.state.active.items() if node in online}
            if absent := self._needed() - here - set(self._answers.of(self.stage)):
                return sorted(absent)
        if self.stage == "deliver":  # whoever is online gets the finished model; the others find it at the coordinator
            return []
        lacking = fewest(self.state, self.stage, self.settings) - len(online)
        return [f"{lacking} more site{'s' if lacking > 1 else ''}"] if lacking > 0 else []

    def requests(self, online: Sequence[str]) -> Iterator[tuple[str, Packet]]:
        """Node id and request for each site that is online and has not replied yet in this round.

        Each is made when it is asked for, so that memory holds one.
        """
        self.refresh()
        if not self._answers.nodes:
            self._answers.clear()  # what an earlier process left
        here = [member for node, member in self.state.active.items() if node in online]
        asked = [m.site for m in here if self._requests.next_stage(m, self._answers.stages(m.site))]
        members = len({*self.state.active, *online})
        self._news = news(asked, online=len(online), members=members, rounds=len(self.rounds))
        for node in sorted(online):
            if request := self._next_request(node):
                yield node, request

    def follow_up(self, node: str) -> Packet | None:
        """What a site is asked in the same round after its accepted reply: a newcomer catches up without waiting."""
        return self._next_request(node)

    def accept(self, node: str, reply: Packet) -> None:
        """Take the reply of node id `node`, after the guard has checked it.

        Raises:
            Rejected: the reply is not used; the message says why.
        """
        member, request = self.state.members.get(node), self._answers.request_to(node)
        if request is None:
            raise Rejected("a reply that nobody asked for in this round.")
        check_reply(
            reply,
            request=request,
            organs=member.organs if member else (),
            template=self.template,
            contract_hash=self.settings.contract.hash,
        )
        if reply.stage == "declare":
            member = declared(node, reply, self.state, self._registered())
        assert member is not None
        self._answers.keep(node, member.site, expand(reply), size=reply.nbytes)
        self._durations.note(reply)
        if reply.stage == "declare":
            admit(self.state, node, member)
        if reply.stage == "label":
            self.state.update(member.site, labelled=tuple(str(request.settings["organs"]).split(",")))

    def close_round(self, *, seconds: float, rejected: Mapping[str, str], late: Collection[str] = ()) -> dict[str, Any]:
        """Aggregate what was accepted, write the checkpoint, and give the row that history.jsonl got.

        `rejected` maps node ids to reasons; `late` are those of them that did not answer in time. A round without a
        usable reply, or a required one without all members, is asked again; the accepted replies are kept.

        Raises:
            SegVizError: the third attempt in a row was in vain; the study can be started again.
        """
        for member in to_erase(self.state, self._registered()):
            self._answers.drop(member.site)
        reasons = {self.name(node): reason for node, reason in rejected.items()} | self._answers.drop_outliers()
        row = {
            "time": round(time.time(), 3),
            "round": self.number,
            "stage": self.stage,
            "seconds": round(seconds, 3),
            "complete": self._complete(),
            "sites": self._answers.rows(self.stage, self.name),
            "rejected": reasons,
        }
        if self.stage == "train":
            steps, answered = int(self._round.settings["steps"]), self._answers.metrics("train")
            adapt(self.state, answered, late={self.name(n) for n in late}, steps=steps, settings=self.settings)
        if row["complete"]:
            self._finish_stage()
            self.state.finished += 1
            self.state.row = row
            self.state.save(self.folder / CHECKPOINT_FILE)
        journal.add_row(self.folder / HISTORY_FILE, row)
        if row["complete"]:
            self._answers.clear()
            self._begin_round()
        else:
            self._try_again(reasons)
        return row

    def name(self, node: str) -> str:
        """Pseudonym of the site behind a node id, as far as it is known."""
        if member := self.state.members.get(node):
            return member.site
        return str(self._registered().get(node, {"site": f"node {node}"})["site"])

    def is_removed(self, node: str) -> bool:
        """Whether the coordinator has removed the site behind a node id."""
        return bool(self._registered().get(node, {}).get("removed"))

    def patience(self, node: str) -> float | None:
        """Seconds after which the silence of a site means that a message got lost; None before anybody has answered."""
        request = self._answers.request_to(node)
        return self._durations.patience(request) if request else None

    def history(self) -> list[dict[str, Any]]:
        """All rows of history.jsonl; a last line cut short by a kill is left out."""
        return journal.read(self.folder / HISTORY_FILE)

    def _write_lost_row(self) -> None:
        """A server that was killed between the checkpoint and history.jsonl has kept the round's row in the former."""
        row = self.state.row
        if row is not None and row["time"] not in [known["time"] for known in self.history()]:
            journal.add_row(self.folder / HISTORY_FILE, row)
        self._history_is_whole = True

    def _begin_round(self) -> None:
        self.rounds: Sequence[Round] = schedule(self.settings, self.state.amendments)
        self._round = Round("finished") if self.finished else self.rounds[self.state.finished]
        self._attempt = 1
        self._at_start = {member.site for member in self.state.active.values()}
        self._answers = Answers(self.folder / "rounds" / f"{self.number:05d}")
        self._requests = Requests(
            self.settings, self.template, self.state, self._round, self._experts, last_model_teaches=self.state.reopened
        )

    def _next_request(self, node: str) -> Packet | None:
        member = self.state.members.get(node)
        if member is None:
            if self.stage == "deliver":
                return None
            request = self._requests.declare(self.initial, self._news)
        else:
            stage = "" if member.left else self._requests.next_stage(member, self._answers.stages(member.site))
            if not stage:
                return None
            request = self._requests.of(stage, member, self._news)
        self._answers.ask(node, request)
        return request

    def _needed(self) -> set[str]:
        """Sites whose reply a required round cannot do without: those that were there when it began."""
        members = [member for member in self.state.active.values() if member.site in self._at_start]
        return {member.site for member in members if self._requests.next_stage(member, ()) == self.stage}

    def _complete(self) -> bool:
        if self.stage == "declare":
            return self.state.reopened or len(self.state.active) >= self.settings.min_sites
        if self.stage == "deliver":
            return True
        accepted = self._answers.of(self.stage)
        if self._round.required:
            return self._needed() <= set(accepted)
        return bool(accepted or self._answers.of("train-head"))

    def _finish_stage(self) -> None:
        """Everything that follows from the replies of a complete round."""
        for stage in dict.fromkeys((self.stage, "train-head")):  # heads of newcomers come beside the round's own stage
            self._aggregate(stage, self._answers.of(stage))
        accepted = self._answers.of(self.stage)
        if self.stage == "train-local":
            done = int(self._round.settings["first_step"]) + int(self._round.settings["steps"])
            for site in accepted:
                self.state.update(site, local_steps=done)
        if self.stage == "expert":
            self._experts.keep(accepted)
        if self.stage == "declare" and self.state.reopened:
            self._refused |= {node for node in self._answers.nodes if node not in self.state.members}
            if not accepted and not any(self.state.without_head(m) for m in self.state.active.values()):
                self.state.amendments.append((self.number, "end"))

    def _erase(self, member: Member) -> None:
        """Drop a site and its expert; what was trained together with it begins anew from the others' experts."""
        self.state.members = {node: m for node, m in self.state.members.items() if m.site != member.site}
        self._experts.erase(member.site)
        self._answers.drop(member.site)
        if {"expert", "train"} & {r.stage for r in self.rounds[: self.state.finished]}:
            experts = self._experts.files(m.site for m in self.state.members.values())
            forget_training(self.state)
            self.state.representation = self.initial
            self._aggregate("expert", experts)
            self._amend("phase 2" if experts else "everything")
        else:
            self.state.save(self.folder / CHECKPOINT_FILE)

    def _aggregate(self, stage: str, replies: Mapping[str, Path]) -> None:
        aggregate(stage, Replies(replies), self.state, settings=self.settings, template=self.template)

    def _amend(self, what: str) -> None:
        self.state.amendments.append((self.state.finished, what))
        self.state.save(self.folder / CHECKPOINT_FILE)
        self._begin_round()

    def _try_again(self, reasons: Mapping[str, str]) -> None:
        self._attempt += 1
        if self._attempt > ATTEMPTS:
            why = "; ".join(f"{site}: {reason}" for site, reason in sorted(reasons.items())) or "nobody replied"
            raise SegVizError(
                f"Round {self.number} ({self.stage}) had {ATTEMPTS} attempts without the replies it needs ({why}).",
                hint=f"Everything up to the last finished round is safe; {WAY_OUT}",
            )

    def _registered(self) -> Registered:
        return read_registered(self.folder / SITES_FILE)
