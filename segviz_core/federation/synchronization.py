"""Which weights are shared, and how they are averaged: pure functions on numpy arrays (method.md section 4).

No flwr, no torch. Weights are matched by key, shape and dtype, strictly; never by position or part of a name.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from segviz_core.errors import InputError
from segviz_core.federation.packets import Arrays

MEAN, VARIANCE, COUNTER = ".running_mean", ".running_var", ".num_batches_tracked"

Spec = Mapping[str, tuple[tuple[int, ...], str]]
"""Expected arrays: key -> (shape, dtype name)."""


@dataclass(frozen=True)
class Template:
    """Keys, shapes and dtypes of the representation and of a head, written once by a torch process.

    `norm` names the representation's entries that belong to norm layers (found by module type); of these, FEDBN shares
    none, every other mode averages parameters like all others and statistics with the between-site term.
    """

    representation: Spec
    norm: frozenset[str]
    head: Spec

    def statistics(self) -> frozenset[str]:
        """Running means, variances and counters: averaged by their own rule, never by plain mean."""
        return frozenset(key for key in self.norm if key.endswith((MEAN, VARIANCE, COUNTER)))

    def shared(self, *, fedbn: bool) -> Spec:
        """What a site sends as an update (the difference to what it received) and the server averages."""
        own = self.norm if fedbn else self.statistics()
        return {key: spec for key, spec in self.representation.items() if key not in own}

    def own_norm(self, *, fedbn: bool) -> Spec:
        """What a site sends as values: its statistics, and in FEDBN its norm layers' parameters too."""
        shared = self.shared(fedbn=fedbn)
        return {key: spec for key, spec in self.representation.items() if key not in shared}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {
            name: {key: [list(shape), dtype] for key, (shape, dtype) in spec.items()}
            for name, spec in (("representation", self.representation), ("head", self.head))
        }
        return {**plain, "norm": sorted(self.norm)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Template":
        """The template stored by `to_dict`."""
        representation, head = (
            {key: (tuple(shape), str(dtype)) for key, (shape, dtype) in values[name].items()}
            for name in ("representation", "head")
        )
        return cls(representation, frozenset(values["norm"]), head)


def check_arrays(arrays: Mapping[str, Any], spec: Spec, *, what: str) -> None:
    """Refuse arrays whose keys, shapes or dtypes differ from `spec`, or that hold a non-finite number.

    Raises:
        InputError: naming the first difference.
    """
    if differing := sorted(set(arrays) ^ set(spec)):
        missing = [key for key in differing if key in spec]
        problem = f"missing {missing[0]}" if missing else f"unexpected {differing[0]}"
        raise InputError(f"{what}: expected {len(spec)} keys, found {len(arrays)} ({problem:.100}).")
    for key, (shape, dtype) in spec.items():
        array = arrays[key]
        if array.shape != shape or array.dtype.name != dtype:
            raise InputError(f"{what}: {key}: expected {dtype} {shape}, found {array.dtype.name} {array.shape}.")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{what}: {key}: expected finite numbers, found NaN or infinity.")


def average(arrays: Iterable[np.ndarray[Any, Any]], weights: Sequence[float]) -> np.ndarray[Any, Any]:
    """Weighted mean, summed in float64 in the order given; the result has the arrays' own dtype.

    `weights` need not add up to 1: they are renormalised over the accepted sites. Integers are rounded.
    """
    total = sum(weights)
    mean: np.ndarray[Any, Any] | None = None
    dtype = np.dtype(np.float32)
    for array, weight in zip(arrays, weights, strict=True):
        dtype = array.dtype
        part = array.astype(np.float64) * (weight / total)
        mean = part if mean is None else mean + part
    if mean is None:
        raise ValueError("average: expected at least one array, found none")
    return np.asarray(np.rint(mean) if dtype.kind in "iu" else mean, dtype=dtype)


def average_statistics(
    read: Callable[[int, str], np.ndarray[Any, Any]], keys: Iterable[str], weights: Sequence[float]
) -> Arrays:
    """Average BatchNorm statistics over sites with the between-site term (method.md section 4).

    m = sum a_i m_i and v = sum a_i (v_i + m_i^2) - m^2, so that the result describes the pooled data; counters are
    copied from the first site. `read(i, key)` gives site i's array.
    """
    total = sum(weights)
    shares = [weight / total for weight in weights]
    result: Arrays = {}
    for key in keys:
        first = read(0, key)
        if key.endswith(COUNTER):
            result[key] = first
        elif key.endswith(MEAN):
            result[key] = average((read(i, key) for i in range(len(shares))), shares)
        elif key.endswith(VARIANCE):
            mean_key = key.removesuffix(VARIANCE) + MEAN
            mean = np.zeros(first.shape, np.float64)
            square = np.zeros(first.shape, np.float64)
            for i, share in enumerate(shares):
                site_mean = read(i, mean_key).astype(np.float64)
                mean += share * site_mean
                square += share * (read(i, key).astype(np.float64) + site_mean**2)
            result[key] = np.maximum(square - mean**2, 0).astype(first.dtype)
        else:
            result[key] = average((read(i, key) for i in range(len(shares))), shares)
    return result
