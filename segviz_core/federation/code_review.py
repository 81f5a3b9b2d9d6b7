"""Code from the coordinator, for sites that choose to run it (`pin`): nothing runs before a person has approved it.

A study's Flower app comes as a FAB, a zip of small text files. `site code` shows what waits, `site approve` lets just
that hash run. By default (`local`) a site runs what is installed there and keeps no FAB.
"""

import difflib
import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

from segviz_core.atomic import replacing
from segviz_core.errors import InputError
from segviz_core.federation import journal
from segviz_core.federation.site_folder import AUDIT_FILE

_FOLDER = "code"
_LARGEST_FAB, _LARGEST_FILE = 10_000_000, 1_000_000  # bytes; Flower's own limit, and what a person can review


@dataclass(frozen=True)
class Code:
    """A FAB by its sha256: its files (path -> sha256) and its difference, in unified format, to what ran before."""

    sha256: str
    approved: bool
    files: dict[str, str]
    difference: str


def keep(site: Path, content: bytes) -> str:
    """Keep a FAB for review; gives its sha256.

    Raises:
        InputError: it is too large to be reviewed.
    """
    if len(content) > _LARGEST_FAB:
        raise InputError(f"Code of the coordinator: expected at most {_LARGEST_FAB} bytes, found {len(content)}.")
    sha256 = hashlib.sha256(content).hexdigest()
    path = site / _FOLDER / f"{sha256}.fab"
    if not path.exists():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    return sha256


def is_approved(site: Path, sha256: str) -> bool:
    """Whether a person at this site has approved exactly this code."""
    return sha256 in _approved(site)


def review(site: Path) -> list[Code]:
    """Everything that the coordinator has sent, in the order in which it came."""
    files = sorted((site / _FOLDER).glob("*.fab"), key=lambda path: path.stat().st_mtime_ns)
    approved = _approved(site)
    before = _texts(site / _FOLDER / f"{approved[-1]}.fab") if approved else {}
    found = []
    for path in files:
        texts = _texts(path)
        hashes = {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}
        found.append(Code(path.stem, path.stem in approved, hashes, _difference(before, texts)))
    return found


def approve(site: Path, sha256: str) -> None:
    """Let the code of this hash run here.

    Raises:
        InputError: no such code was sent.
    """
    path = site / _FOLDER / f"{sha256}.fab"
    if sha256 not in {file.stem for file in (site / _FOLDER).glob("*.fab")}:
        raise InputError(
            f"The coordinator has sent no code with the hash {sha256[:64]!r}.", hint="See what it sent: site code"
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise InputError(f"The file {path} is not the code that it is named after.", hint="Delete it.")
    journal.append(site / AUDIT_FILE, "code", fab_sha256=sha256, decision="approved")


def _approved(site: Path) -> list[str]:
    """Approved hashes, oldest first: the audit record is their only list."""
    rows = [row for row in journal.read(site / AUDIT_FILE) if row["event"] == "code"]
    return [str(row["fab_sha256"]) for row in rows if row.get("decision") == "approved"]


def _texts(path: Path) -> dict[str, bytes]:
    """The files in a FAB, but Flower's own list of their hashes."""
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as fab:
            entries = [entry for entry in fab.infolist() if not entry.filename.startswith(".info/")]
            if large := [entry for entry in entries if entry.file_size > _LARGEST_FILE]:
                raise InputError(f"Code of the coordinator: {large[0].filename[:60]} is too large to be reviewed.")
            return {entry.filename: fab.read(entry) for entry in entries}
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"Expected a Flower app, found another or damaged file: {path}.") from error


def _difference(before: dict[str, bytes], now: dict[str, bytes]) -> str:
    lines: list[str] = []
    for name in sorted({*before, *now}):
        old, new = (texts.get(name, b"").decode("utf-8", "replace").splitlines() for texts in (before, now))
        lines += difflib.unified_diff(old, new, f"before/{name}", f"now/{name}", lineterm="")
    return "\n".join(lines)
