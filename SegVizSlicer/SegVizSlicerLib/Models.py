"""The meta-models that a user can choose: bundled, downloaded, imported or made by a federation. Read without torch."""

import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class ModelEntry:
    """One usable model file; `organs` is the list of its header (name, title, value, color, terminology ...)."""

    path: Path
    hash: str
    organs: tuple[dict[str, Any], ...]
    provenance: dict[str, Any]
    spacing: tuple[float, float, float]

    @property
    def title(self) -> str:
        study = self.provenance.get("study") or self.path.stem
        return f"{study}  ·  {self.hash[:6]}"

    @property
    def version(self) -> str:
        return str(self.provenance.get("versions", {}).get("segviz", ""))

    @property
    def summary(self) -> str:
        """Organs with their validation Dice, the rounds and the hash, for the line under the list."""
        dice = self.provenance.get("validation_dice", {})
        names = [
            f"{organ['title']} {dice[organ['name']]:.2f}" if organ["name"] in dice else organ["title"]
            for organ in self.organs
        ]
        rounds, planned = self.provenance.get("rounds"), self.provenance.get("rounds_planned")
        parts = [", ".join(names)]
        if dice:
            parts[0] += " " + _("(Dice at its sites)")
        if rounds is not None:
            parts.append(_("{rounds} of {planned} rounds").format(rounds=rounds, planned=planned or rounds))
        parts.append(_("hash {hash}").format(hash=self.hash[:12]))
        return "\n".join(parts)


def listModels(folders: list[Path]) -> tuple[list[ModelEntry], list[str]]:
    """Usable models of `folders` in order of name, and one sentence for each file that cannot be used."""
    entries, problems = [], []
    for path in sorted(path for folder in folders if folder.is_dir() for path in folder.glob(f"*{SUFFIX}")):
        try:
            entries.append(readModel(path))
        except Exception as error:  # a damaged file must not hide the others
            problems.append(str(error))
    return entries, problems


def readModel(path: Path) -> ModelEntry:
    """The entry of one file.

    Raises:
        segviz_core.errors.InputError: not a meta-model, damaged, or of another version.
    """
    stat = path.stat() if path.exists() else None
    return _read(path, stat.st_mtime_ns if stat else 0, stat.st_size if stat else 0)


@lru_cache(maxsize=64)
def _read(path: Path, modified: int, size: int) -> ModelEntry:
    from segviz_core.model_header import file_hash, read_header

    header = read_header(path)
    return ModelEntry(
        path=path,
        hash=file_hash(path),
        organs=tuple(header["organs"]),
        provenance=header["provenance"],
        spacing=tuple(header["contract"]["spacing_mm"]),
    )


def newestModel(folder: Path) -> ModelEntry:
    """The model of `folder` that was put there last.

    Raises:
        ValueError: there is none.
    """
    entries, _problems = listModels([folder])
    if not entries:
        raise ValueError(_("Select or import a model."))
    return max(entries, key=lambda entry: entry.path.stat().st_mtime)


def importModel(source: Path, folder: Path) -> ModelEntry:
    """Check `source` and copy it into `folder`; a model that is there already (same hash) is not copied again."""
    entry = readModel(source)
    folder.mkdir(parents=True, exist_ok=True)
    for known in listModels([folder])[0]:
        if known.hash == entry.hash:
            return known
    target = folder / source.name
    if target.exists():
        target = folder / f"{source.stem}-{entry.hash[:6]}{SUFFIX}"
    shutil.copyfile(source, target)
    return readModel(target)


def userFolder() -> Path:
    """Where SegViz keeps what belongs to the user: models, private packages, sites; beside Slicer's settings."""
    return Path(slicer.app.slicerUserSettingsFilePath).parent / "SegViz"
