"""What a study has reached: everything that must survive a kill of the server, in one checkpoint file."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import save_file

from segviz_core.atomic import replacing
from segviz_core.errors import InputError
from segviz_core.federation.packets import Arrays


@dataclass(frozen=True)
class Member:
    """A site that has declared itself: its pseudonym, organs, and training cases per organ; and how far it has come.

    It `joined` in that round; `local_steps` of phase 1 are done; `labelled` are the organs of which it holds soft maps;
    it makes `share` of a round's steps. One that has `left` is neither asked nor waited for; its heads stay.
    """

    site: str
    organs: tuple[str, ...]
    cases: dict[str, int]
    joined: int = 1
    local_steps: int = 0
    labelled: tuple[str, ...] = ()
    share: float = 1.0
    left: bool = False

    @property
    def size(self) -> int:
        """Number of training cases, as far as organs tell."""
        return max(self.cases.values())


@dataclass
class StudyState:
    """`finished` rounds, members by node id, and the weights that the next round starts from.

    `amendments` of the plan are (round after which, what), see schedule.py. `gates` and `calibration` hold, per organ,
    the teacher gate g_k and (temperature, threshold); `norms` the norm layers of each site in FEDBN mode; `momentum`
    the server's momentum, empty unless used. `row` is what history.jsonl gets of the last finished round.
    """

    representation: Arrays
    finished: int = 0
    amendments: list[tuple[int, str]] = field(default_factory=list)
    members: dict[str, Member] = field(default_factory=dict)
    heads: dict[str, Arrays] = field(default_factory=dict)
    norms: dict[str, Arrays] = field(default_factory=dict)
    momentum: Arrays = field(default_factory=dict)
    gates: dict[str, float] = field(default_factory=dict)
    calibration: dict[str, tuple[float, float]] = field(default_factory=dict)
    dice: dict[str, float] = field(default_factory=dict)
    row: dict[str, Any] | None = None

    @property
    def active(self) -> dict[str, Member]:
        """The members that have not left, by node id."""
        return {node: member for node, member in self.members.items() if not member.left}

    @property
    def reopened(self) -> bool:
        """Whether the study had finished and goes on for newcomers."""
        return bool(self.amendments) and self.amendments[-1][1] == "newcomers"

    def without_head(self, member: Member) -> list[str]:
        """Organs of `member` that came too late for the common start: other organs have heads, these do not."""
        if not self.heads or member.joined == 1:
            return []
        return [organ for organ in member.organs if organ not in self.heads]

    def update(self, site: str, **values: Any) -> None:
        """Change what is known of a member."""
        self.members = {
            node: replace(member, **values) if member.site == site else member for node, member in self.members.items()
        }

    def save(self, path: Path) -> None:
        """Write the checkpoint in one step: after a kill it is the old one or the new one, never half of it."""
        groups: dict[str, Arrays] = {"representation": self.representation, "momentum": self.momentum}
        groups |= {f"head/{organ}": head for organ, head in self.heads.items()}
        groups |= {f"norm/{site}": norm for site, norm in self.norms.items()}
        tensors = {f"{group}|{key}": array for group, arrays in groups.items() for key, array in arrays.items()}
        plain = {
            "finished": self.finished,
            "amendments": self.amendments,
            "members": {node: asdict(member) for node, member in self.members.items()},
            "gates": self.gates,
            "calibration": self.calibration,
            "dice": self.dice,
            "row": self.row,
        }
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={"state": json.dumps(plain)})

    @classmethod
    def load(cls, path: Path) -> "StudyState":
        """Read a checkpoint.

        Raises:
            InputError: the file is damaged.
        """
        groups: dict[str, Arrays] = {"representation": {}, "momentum": {}}
        try:
            with safe_open(path, framework="np") as file:
                plain = json.loads(file.metadata()["state"])
                for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                    group, key = name.split("|", 1)
                    groups.setdefault(group, {})[key] = file.get_tensor(name)
        except Exception as error:
            raise InputError(
                f"Expected a checkpoint of a study, found a damaged file: {path}.",
                hint="Delete it to begin the study again, or put a backup in its place.",
            ) from error
        return cls(
            representation=groups["representation"],
            finished=plain["finished"],
            amendments=[(after, what) for after, what in plain["amendments"]],
            members={node: _member(values) for node, values in plain["members"].items()},
            heads=_under(groups, "head/"),
            norms=_under(groups, "norm/"),
            momentum=groups["momentum"],
            gates=plain["gates"],
            calibration={organ: (t, h) for organ, (t, h) in plain["calibration"].items()},
            dice=plain["dice"],
            row=plain.get("row"),
        )


def _member(values: dict[str, Any]) -> Member:
    return Member(**{**values, "organs": tuple(values["organs"]), "labelled": tuple(values["labelled"])})


def _under(groups: dict[str, Arrays], prefix: str) -> dict[str, Arrays]:
    return {name.removeprefix(prefix): group for name, group in groups.items() if name.startswith(prefix)}
