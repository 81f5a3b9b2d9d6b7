"""Arrays of 8 bits in a safetensors file, read through a memory map: a file costs memory only while pages are used."""

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from segviz_core.atomic import replacing
from segviz_core.errors import InputError

_CHECKSUM = "crc32"
_DTYPES = {"U8": np.uint8, "BOOL": np.bool_}


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write uint8 and bool arrays of any shape, in one step, with a checksum of each."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with replacing(path) as temporary:
        save_file(arrays, temporary, {_CHECKSUM: json.dumps({n: zlib.crc32(a.data) for n, a in arrays.items()})})


def kept_arrays(path: Path, make: Callable[[], Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The arrays in `path`, mapped; if they are not there, or not as they were written, those of `make` are first."""
    try:
        return map_arrays(path, check=True)
    except InputError:
        save_arrays(path, make())
        return map_arrays(path)


def map_arrays(path: Path, *, check: bool = False) -> dict[str, NDArray[Any]]:
    """The arrays of a file of `save_arrays`, read-only; `check` reads them all once to compare the checksums.

    Replacing or deleting the file fails on Windows while one of its arrays is in use.

    Raises:
        InputError: the file is not there, is cut short, or (with `check`) has changed.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        data = np.memmap(path, np.uint8, "r", offset=8 + length)
        sums = json.loads(header.pop("__metadata__")[_CHECKSUM])
        arrays = {name: _view(data, entry) for name, entry in header.items()}
        if check and sums != {name: zlib.crc32(array.data) for name, array in arrays.items()}:
            raise ValueError("its checksum is another")
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise InputError(
            f"{path} cannot be read as prepared arrays: {error}.", hint="Delete it to make it again."
        ) from error
    return arrays


def _view(data: NDArray[np.uint8], entry: Mapping[str, Any]) -> NDArray[Any]:
    start, stop = entry["data_offsets"]
    return data[start:stop].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
