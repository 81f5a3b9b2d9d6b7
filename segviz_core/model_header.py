"""The readable part of a meta-model file: its header, with the standard library only.

A safetensors file starts with the header's length (8 bytes, little endian) and the header as JSON; SegViz keeps
everything but the tensors in one entry of its `__metadata__` (method.md section 7).
"""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from segviz_core.contract import DataContract
from segviz_core.errors import InputError

FORMAT = "segviz-meta-model/1"
"""Format version; a change that older readers cannot follow raises the number."""

QUANTIZED_FORMAT = "segviz-meta-model/2"
"""The same with the field `quantization`; only models that have it are written so, and older readers say why not."""

METADATA_KEY = "segviz"
"""One entry holds all: safetensors does not keep the order of several, and the same model must give the same bytes."""

FIELDS = frozenset({"format", "contract", "contract_hash", "network", "patch_size", "organs", "tensors", "provenance"})

_FIELDS_OF = {FORMAT: FIELDS, QUANTIZED_FORMAT: FIELDS | {"quantization"}}

_LARGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format


def read_header(path: Path) -> dict[str, Any]:
    """The header of the meta-model at `path`, checked for everything that needs no tensors.

    Keys: format, contract, contract_hash, network, patch_size, organs, tensors (key -> [dtype, shape]), provenance, and
    quantization where it was measured.

    Raises:
        InputError: no such file, not a meta-model, another format version, truncated, or a contract that does not
            match its hash.
    """
    safetensors = _safetensors_header(path)
    try:
        header = json.loads(safetensors["__metadata__"][METADATA_KEY])
        version = header["format"]
    except (KeyError, TypeError, ValueError):
        raise _not_a_model(path, "it has no SegViz header") from None
    fields = _FIELDS_OF.get(version) if isinstance(version, str) else None
    if fields is None:
        raise InputError(
            f"{path} has format {version}, but this SegViz reads {FORMAT} and {QUANTIZED_FORMAT}.",
            hint="Update SegViz, or ask for the model in this format.",
        )
    if set(header) != fields:
        raise _not_a_model(path, f"its header has {sorted(header)} instead of {sorted(fields)}")
    found = DataContract.from_dict(header["contract"]).hash
    if found != header["contract_hash"]:
        raise InputError(
            f"{path} has a data contract that does not match its hash: expected {header['contract_hash'][:12]}, "
            f"found {found[:12]}.",
            hint="The file was changed by hand or damaged; get it again from where it was published.",
        )
    return dict(header)


def file_hash(path: Path) -> str:
    """sha256 of the file: the name of a model that cannot be mistaken; people are shown the first 12 digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _safetensors_header(path: Path) -> dict[str, Any]:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            text = file.read(length) if length <= _LARGEST_HEADER else b""
        if length <= _LARGEST_HEADER and len(text) < length and text[:1] in (b"{", b""):
            raise _truncated(path, size, 8 + length)
        header = json.loads(text)
        tensors = {key: value for key, value in header.items() if key != "__metadata__"}
        end = 8 + length + max((value["data_offsets"][1] for value in tensors.values()), default=0)
    except OSError as error:
        raise InputError(
            f"Cannot read the model {path}: {(error.strerror or str(error)).lower()}.",
            hint="Give the path of a meta_model.safetensors file.",
        ) from error
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise _not_a_model(path, "it is not a safetensors file") from None
    if size < end:
        raise _truncated(path, size, end)
    return dict(header)


def _not_a_model(path: Path, reason: str) -> InputError:
    return InputError(f"{path} is not a SegViz meta-model: {reason}.", hint="Choose a meta_model.safetensors file.")


def _truncated(path: Path, size: int, expected: int) -> InputError:
    return InputError(
        f"{path} is truncated: expected {expected:,} bytes, found {size:,}.", hint="Copy or download the file again."
    )
