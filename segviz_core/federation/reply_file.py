"""One accepted reply on disk, read array by array and never mapped into memory: mapped pages of many would add up."""

import json
from pathlib import Path
from typing import Any

import numpy as np

_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1"}


class ReplyFile:
    """The safetensors file of a packet (packets.py) that the guard has let through; open only while it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        self.metrics: dict[str, float] = json.loads(header.pop("__metadata__")["packet"])["metrics"]
        self._places = {
            name: (8 + length + entry["data_offsets"][0], _DTYPES[entry["dtype"]], tuple(entry["shape"]))
            for name, entry in header.items()
        }

    def holds(self, group: str) -> bool:
        """Whether there are arrays of `group`."""
        return any(name.startswith(f"{group}|") for name in self._places)

    def read(self, group: str, key: str) -> np.ndarray[Any, Any]:
        """One array."""
        start, dtype, shape = self._places[f"{group}|{key}"]
        with self._path.open("rb") as file:
            file.seek(start)
            return np.fromfile(file, dtype, count=int(np.prod(shape))).reshape(shape)
