"""The meta-model: data contract, organs, weights and provenance in one safetensors file (method.md section 7)."""

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from segviz_core.atomic import replacing
from segviz_core.contract import DataContract
from segviz_core.errors import InputError
from segviz_core.head_stages import head_stages
from segviz_core.labels import FIRST_FREE_VALUE, ORGANS, SPLIT_KIDNEYS, Organ
from segviz_core.model_header import FORMAT, METADATA_KEY, QUANTIZED_FORMAT, read_header

INT8_DICE = 0.99
"""A model runs in int8 by itself where every organ reaches this Dice between its int8 and its fp32 labels."""


@dataclass(frozen=True)
class OrganEntry:
    """One head of a meta-model: the organ it segments, and how its output becomes a mask.

    `value` is the voxel value in results; `color` is RGB 0-255, `terminology` Slicer's terminology tag. Organs of one
    `group` exclude each other. With the head's logit m (organ minus background), a voxel may be the organ where
    sigmoid(m / temperature) > threshold.
    """

    name: str
    value: int
    title: str
    color: tuple[int, int, int]
    terminology: str
    group: str = "organs"
    temperature: float = 1.0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "color", tuple(self.color))
        known = next((organ for organ in (*ORGANS.values(), *SPLIT_KIDNEYS) if organ.name == self.name), None)
        if known is not None and self.value != known.value:
            raise InputError(f"organ {self.name}: expected label value {known.value}, found {self.value}.")
        if known is None and not FIRST_FREE_VALUE <= self.value <= 255:
            raise InputError(
                f"organ {self.name}: expected a label value from {FIRST_FREE_VALUE} to 255, found {self.value}."
            )
        if not self.temperature > 0 or not 0 < self.threshold < 1:
            raise InputError(
                f"organ {self.name}: expected temperature > 0 and threshold in (0, 1), "
                f"found {self.temperature} and {self.threshold}."
            )

    @classmethod
    def of(cls, organ: Organ, *, temperature: float = 1.0, threshold: float = 0.5) -> "OrganEntry":
        """The entry of an organ that SegViz knows by name."""
        return cls(
            organ.name, organ.value, organ.title, organ.color, organ.terminology, organ.group, temperature, threshold
        )


@dataclass(frozen=True)
class Quantization:
    """What int8 needs and what it costs, as `segviz_core export` measured it (performance.md section 3).

    `ranges` holds the lowest and the highest value of each of the network's `activations`; `dice` per organ that of the
    int8 labels to the fp32 labels over `cases` CTs, 0 where neither shows the organ.
    """

    ranges: Mapping[str, tuple[float, float]]
    dice: Mapping[str, float]
    cases: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranges", {name: tuple(ends) for name, ends in self.ranges.items()})
        if not isinstance(self.cases, int) or self.cases < 1:
            raise InputError(f"int8 cases: expected a whole number from 1, found {self.cases}.")
        for name, ends in self.ranges.items():
            if len(ends) != 2 or not all(map(math.isfinite, ends)) or not ends[0] < ends[1]:
                raise InputError(f"int8 range {name}: expected two finite rising numbers, found {ends}.")
        for organ, dice in self.dice.items():
            if not 0 <= dice <= 1:
                raise InputError(f"int8 Dice of {organ}: expected a number from 0 to 1, found {dice}.")

    @property
    def accepted(self) -> bool:
        """Whether int8 may be used without asking for it."""
        return all(dice >= INT8_DICE for dice in self.dice.values())


def activations(keys: Iterable[str]) -> frozenset[str]:
    """Names of the tensors that int8 rounds, from the keys of a model's weights: what each unit, shortcut and residual
    unit of MONAI's gives, and what lies between the last two convolutions of the heads (one each for heads of two
    decoder stages, which are not side by side).
    """
    endings = (".adn.A.weight", ".residual.weight", ".conv.unit0.conv.weight")
    keys = tuple(keys)
    deep = [key for key in keys if key.startswith("heads.") and key.split(".")[2] == "stage"]
    named = {key.removesuffix(".up.weight") for key in keys if key.endswith(".up.weight")} if deep else {"heads"}
    for key in (*(key for key in keys if key.startswith("representation.")), *deep):
        for ending in endings:
            if key.endswith(ending):
                named.add(key.removesuffix(ending) + (".residual" if ending == ".residual.weight" else ""))
    return frozenset(named)


@dataclass(frozen=True)
class MetaModel:
    """One representation, one head per organ and the data contract they were trained under.

    `network` holds the settings of `network.NetworkConfig`; `weights` the keys of `SegVizNet.state_dict()`;
    `patch_size` (X, Y, Z) in voxels of the contract's grid. `provenance` tells how the model was made: site pseudonyms,
    label sets, case counts, rounds, steps, mode, Dice per organ, versions - no paths, no patient data. `quantization`
    is there where `segviz_core export` measured it.

    >>> model = MetaModel.load(Path("meta_model.safetensors"))  # doctest: +SKIP
    >>> [organ.title for organ in model.organs]  # doctest: +SKIP
    ['Liver', 'Spleen', 'Kidneys', 'Pancreas']
    """

    contract: DataContract
    network: Mapping[str, Any]
    patch_size: tuple[int, int, int]
    organs: tuple[OrganEntry, ...]
    weights: Mapping[str, NDArray[Any]]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "patch_size", tuple(self.patch_size))
        divisor = math.prod(self.network["strides"])
        if len(self.patch_size) != 3 or any(size < 1 or size % divisor for size in self.patch_size):
            raise InputError(f"patch_size: expected three multiples of {divisor}, found {self.patch_size}.")
        head_stages(self.network)
        if not self.organs:
            raise InputError("A meta-model needs at least one organ, found none.")
        for what in ("name", "value"):
            values = [getattr(organ, what) for organ in self.organs]
            if len(set(values)) < len(values):
                raise InputError(f"Expected one organ per {what}, found {values}.")
        headless = [organ.name for organ in self.organs if f"heads.{organ.name}.up.weight" not in self.weights]
        if headless:
            raise InputError(f"The organs {', '.join(headless)} have no head among the weights.")
        broken = [key for key, value in self.weights.items() if not np.isfinite(value).all()]
        if broken:
            raise InputError(
                f"The weights {broken[0]} hold values that are not finite.",
                hint="The training diverged; use another file.",
            )
        if self.quantization is not None:
            _check_names("int8 ranges", activations(self.weights), self.quantization.ranges)
            _check_names("int8 Dice", {organ.name for organ in self.organs}, self.quantization.dice)

    @property
    def hash(self) -> str:
        """sha256 of the file that `save` writes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the model as one safetensors file, in one step."""
        with replacing(path) as temporary:
            temporary.write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> "MetaModel":
        """Read and check a meta-model.

        Raises:
            InputError: what `read_header` refuses; a missing or extra key, a wrong shape or dtype, weights that are
                not finite, or settings out of range.
        """
        header = read_header(path)
        try:
            weights = load(path.read_bytes())
        except (SafetensorError, KeyError) as error:
            raise InputError(f"{path} is damaged: {error}.", hint="Copy or download the file again.") from error
        _check_tensors(path, header["tensors"], weights)
        try:
            return cls(
                DataContract.from_dict(header["contract"]),
                header["network"],
                header["patch_size"],
                tuple(OrganEntry(**organ) for organ in header["organs"]),
                weights,
                header["provenance"],
                Quantization(**header["quantization"]) if "quantization" in header else None,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path} has a header that this SegViz cannot use ({error}).") from error
        except InputError as error:
            raise InputError(f"{path}: {error.message}", hint=error.hint) from error

    def to_bytes(self) -> bytes:
        """The content of the file that `save` writes."""
        header: dict[str, Any] = {
            "format": FORMAT,
            "contract": self.contract.to_dict(),
            "contract_hash": self.contract.hash,
            "network": dict(self.network),
            "patch_size": list(self.patch_size),
            "organs": [asdict(organ) for organ in self.organs],
            "tensors": _template(self.weights),
            "provenance": dict(self.provenance),
        }
        if self.quantization is not None:
            header |= {"format": QUANTIZED_FORMAT, "quantization": asdict(self.quantization)}
        text = json.dumps(header, sort_keys=True, allow_nan=False)
        return save({key: np.asarray(value, order="C") for key, value in self.weights.items()}, {METADATA_KEY: text})


def _template(weights: Mapping[str, NDArray[Any]]) -> dict[str, list[Any]]:
    return {key: [value.dtype.name, list(value.shape)] for key, value in weights.items()}


def _check_names(what: str, expected: Collection[str], found: Collection[str]) -> None:
    wrong = sorted(set(expected) ^ set(found))
    if wrong:
        raise InputError(
            f"{what}: expected one each for {len(expected)} names, found {len(found)}; {wrong[0]} is "
            f"{'missing' if wrong[0] in expected else 'unknown'}."
        )


def _check_tensors(path: Path, expected: Mapping[str, list[Any]], weights: Mapping[str, NDArray[Any]]) -> None:
    found = _template(weights)
    for key in sorted(expected.keys() | found.keys()):
        if found.get(key) != expected.get(key):
            raise InputError(
                f"{path} has weights {key} {_described(found.get(key))}, expected {_described(expected.get(key))}.",
                hint="The file was changed by hand or damaged; get it again from where it was published.",
            )


def _described(tensor: list[Any] | None) -> str:
    return "missing" if tensor is None else f"{tensor[0]} {tuple(tensor[1])}"
