"""What a member is asked in a round: usually the round's own stage, before it what a newcomer still lacks."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segviz_core.federation.experts import Experts
from segviz_core.federation.export import meta_model_of
from segviz_core.federation.packets import Arrays, Packet, Setting
from segviz_core.federation.schedule import Round, new_head
from segviz_core.federation.settings import StudySettings
from segviz_core.federation.state import Member, StudyState
from segviz_core.federation.synchronization import Template
from segviz_core.federation.transport import compact

_MOST_NAMES = 20


def news(taking_part: Sequence[str], *, online: int, members: int, rounds: int) -> dict[str, Setting]:
    """For the people at the sites: who takes part in this round, how many are online and how many there are."""
    names = ",".join(sorted(taking_part)[:_MOST_NAMES])
    return {"rounds": rounds, "online": online, "members": members, "sites": names}


@dataclass(frozen=True)
class Requests:
    """Makes the requests of one round.

    Where `last_model_teaches` (after the study's end), soft maps come
    from the meta-model instead. `news` goes to the people at the sites.
    """

    settings: StudySettings
    template: Template
    state: StudyState
    round: Round
    experts: Experts
    last_model_teaches: bool

    def next_stage(self, member: Member, answered: Collection[str]) -> str:
        """The stage that `member` is asked for after those it has `answered` in this round; empty: nothing (more)."""
        stage, late = self.round.stage, self.state.without_head(member)
        if stage == "declare" or {stage, "train-head"} & set(answered):
            return ""
        if stage in ("train-head", "train", "tune", "evaluate") and late:
            return "train-head"
        if stage == "train-head" or (stage == "expert" and member.local_steps < self.settings.local_steps):
            return ""  # it came too late to have an expert
        if stage == "train" and self._lacking_maps(member) and "label" not in answered:
            return "label"
        return stage

    def declare(self, initial: Arrays, news: Mapping[str, Setting]) -> Packet:
        """The question who a site is; with it comes the representation that all sites start from."""
        return self._packet("declare", news, {}, {"representation": initial})

    def of(self, stage: str, member: Member, news: Mapping[str, Setting]) -> Packet:
        """The request of `stage` to `member`."""
        if stage == "train-head":
            organs = ",".join(self.state.without_head(member))
            return self._packet(stage, news, {**new_head(self.settings), "organs": organs}, self._weights(member))
        if stage == "label":
            return self._label(member, news)
        own = dict(self.round.settings)
        if stage in ("train-local", "expert", "heads"):
            return self._packet(stage, news, own)
        if stage == "deliver":
            blob = meta_model_of(self.state, self.settings).to_bytes()
            return self._packet(stage, news, own, {"model": {"file": np.frombuffer(blob, np.uint8)}})
        if stage == "train":
            own["steps"] = max(1, int(int(own["steps"]) * member.share)) if member.share < 1 else own["steps"]
        metrics = {f"gate/{organ}": gate for organ, gate in self.state.gates.items()}
        for organ, (temperature, threshold) in self.state.calibration.items():
            metrics |= {f"temperature/{organ}": temperature, f"threshold/{organ}": threshold}
        return self._packet(stage, news, own, self._weights(member), metrics)

    def _lacking_maps(self, member: Member) -> list[str]:
        if self.settings.mode != "segviz+" or not self.settings.foreign_weight:
            return []
        return [organ for organ in self._foreign(member) if organ not in member.labelled]

    def _foreign(self, member: Member) -> list[str]:
        return sorted(set(self.state.heads) - set(member.organs))

    def _label(self, member: Member, news: Mapping[str, Setting]) -> Packet:
        """Teachers for the maps that `member` lacks: experts, and the present model for organs without one."""
        arrays: dict[str, Arrays] = {}
        metrics: dict[str, float] = {}
        left = {organ for organ in self._foreign(member) if organ not in member.labelled}
        others = sorted((m for m in self.state.members.values() if m.site != member.site), key=lambda m: m.site)
        taught: set[str] = set()
        for i, other in enumerate(others):
            foreign = [organ for organ in other.organs if organ in left]
            if self.last_model_teaches or not foreign or not (expert := self.experts.of(other.site)):
                continue
            arrays[f"expert/{i}/representation"] = expert.arrays["representation"]
            for organ in foreign:
                arrays[f"expert/{i}/head/{organ}"] = expert.arrays[f"head/{organ}"]
                metrics[f"weight/{i}/{organ}"] = float(other.cases[organ])
                taught.add(organ)
        if untaught := sorted(left - taught):
            arrays[f"expert/{len(others)}/representation"] = self.state.representation
            arrays |= {f"expert/{len(others)}/head/{organ}": self.state.heads[organ] for organ in untaught}
        adapt = not self.last_model_teaches  # that model knows the CTs of all sites
        own: dict[str, Setting] = {
            "organs": ",".join(self._foreign(member)),
            "teacher_shift": self.settings.teacher_shift if adapt else 0.0,
            "teacher_norm": self.settings.teacher_norm if adapt else 0.0,
            "teacher_pieces": self.settings.teacher_pieces,
        }
        return self._packet("label", news, own, arrays, metrics)

    def _weights(self, member: Member) -> dict[str, Arrays]:
        representation = self.state.representation | self.state.norms.get(member.site, {})
        return {"representation": representation, **{f"head/{o}": head for o, head in self.state.heads.items()}}

    def _packet(
        self,
        stage: str,
        news: Mapping[str, Setting],
        settings: Mapping[str, Setting],
        arrays: Mapping[str, Arrays] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> Packet:
        basic: dict[str, Setting] = {"stage": stage, "round": self.state.finished + 1, "mode": self.settings.mode}
        packet = Packet({**settings, **news, **basic}, arrays or {}, metrics or {})
        if self.settings.transport == "fp32":
            return packet
        packet = Packet({**packet.settings, "transport": self.settings.transport}, packet.arrays, packet.metrics)
        return compact(packet, norm=self.template.norm)
