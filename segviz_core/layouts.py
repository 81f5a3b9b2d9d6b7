"""Which files of a site folder belong together: the layouts SegViz recognises, with the label values each one states.

images/labels   images/NAME.* and labels/NAME.*; an image may be a DICOM folder
data list       a JSON file as MONAI writes it, or dataset.json in the folder: {"training": [{"image", "label"}, ...]},
                optional "labels" {value: name}; per case optional "annotated": [organ, ...]
MSD             imagesTr, labelsTr, dataset.json (Task03_Liver, Task07_Pancreas, Task09_Spleen, ...)
KiTS19          case_*/imaging.nii.gz and segmentation.nii.gz, there or in data/
BTCV            img/imgNNNN.nii.gz and label/labelNNNN.nii.gz, there, in Training/ or in RawData/Training/
"""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from segviz_core.errors import InputError
from segviz_core.labels import ORGANS, LabelSet
from segviz_core.volumes import READABLE

KITS19_VALUES = {"kidneys": (1, 2)}  # 2 is the tumour: it belongs to the organ (method.md, section 3)
BTCV_VALUES = {"liver": (6,), "spleen": (1,), "kidneys": (2, 3), "pancreas": (11,)}
_KITS19_LABELLED = 210  # the challenge gave out cases 210 to 299 without segmentation
_LESIONS = ("cancer", "tumour", "tumor", "lesion", "cyst")


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case. `annotated` names organs known to be annotated even where the label shows none."""

    name: str
    image: Path
    label: Path | None
    annotated: tuple[str, ...] = ()


@dataclass(frozen=True)
class SiteFolder:
    """The cases of a folder in the order of their names, and the label values its layout states (else empty)."""

    layout: str
    cases: tuple[CaseFiles, ...]
    values: Mapping[str, tuple[int, ...]]

    def label_set(
        self, organs: Collection[str] = (), *, stated: Mapping[str, tuple[int, ...]] = MappingProxyType({})
    ) -> LabelSet:
        """The label set of `organs` (default: of those with `stated` values, else of all that the layout states).

        `stated` values win over the layout's own; a layout without any has SegViz's own (labels.ORGANS).

        Raises:
            InputError: an organ without a known value, one value for two organs, or neither layout nor caller says
                which organs.
        """
        known = {**(self.values or {name: (organ.value,) for name, organ in ORGANS.items()}), **stated}
        chosen = tuple(organs) or tuple(stated) or tuple(self.values)
        if not chosen:
            raise InputError(
                f"Layout {self.layout}: expected the names of the annotated organs, found no statement of them.",
                hint=f"Name the organs of this site: {', '.join(ORGANS)}.",
            )
        for organ in chosen:
            if organ not in known:
                raise InputError(
                    f"Layout {self.layout}: expected an organ of {', '.join(known)}, found {organ}.",
                    hint="State its label values in a label set.",
                )
        try:
            return LabelSet({organ: known[organ] for organ in chosen})
        except ValueError as error:
            raise InputError(f"Label values: {error}.", hint="Example: --label-values liver=6 kidneys=2,3") from error


def find_cases(folder: Path) -> SiteFolder:
    """The cases of a site folder or data list file; nothing but file names and the JSON file is read.

    Raises:
        InputError: missing, empty, of no known layout, or with a data list that cannot be used.
    """
    if not folder.exists():
        raise InputError(
            f"{folder}: expected a site folder or a data list, found nothing there.", hint="Check the path."
        )
    found = _read_data_list(folder, "data list") if folder.is_file() else _recognise(folder)
    if found is None:
        raise InputError(
            f"{folder}: expected images/ and labels/, a data list or the layout of MSD, KiTS19 or BTCV, found none.",
            hint="Put the images into images/ and their labels, under the same names, into labels/.",
        )
    if not found.cases:
        raise InputError(f"{folder}: expected cases in the layout {found.layout}, found none.", hint="Add images.")
    return found


def _recognise(folder: Path) -> SiteFolder | None:
    data_list = folder / "dataset.json"
    if data_list.is_file():
        return _read_data_list(data_list, "MSD" if (folder / "imagesTr").is_dir() else "data list")
    for layout, images, labels in (("MSD", "imagesTr", "labelsTr"), ("images/labels", "images", "labels")):
        if (folder / images).is_dir():
            return SiteFolder(layout, tuple(_pairs(folder / images, folder / labels)), {})
    for root in (folder, folder / "data"):
        if any(root.glob("case_*")):
            return SiteFolder("KiTS19", tuple(_kits19_cases(root)), KITS19_VALUES)
    for root in (folder, folder / "Training", folder / "RawData" / "Training"):
        if (root / "img").is_dir():
            return SiteFolder("BTCV", tuple(_pairs(root / "img", root / "label", "img", "label")), BTCV_VALUES)
    return None


def _pairs(images: Path, labels: Path, prefix: str = "", label_prefix: str = "") -> Iterator[CaseFiles]:
    by_name = {_stem(path): path for path in _image_paths(labels)} if labels.is_dir() else {}
    seen: dict[str, Path] = {}
    for image in _image_paths(images):
        name = _stem(image)
        if name in seen:
            raise InputError(
                f"{images}: expected one image per name, found {seen[name].name} and {image.name}.",
                hint="Keep one of them.",
            )
        seen[name] = image
        yield CaseFiles(name, image, by_name.get(label_prefix + name.removeprefix(prefix)))


def _image_paths(folder: Path) -> list[Path]:
    """Images and DICOM folders; not hidden files (the archives of MSD hold ._NAME.nii.gz) nor any notes."""
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return [path for path in paths if path.is_dir() or path.name.lower().endswith(READABLE)]


def _stem(path: Path) -> str:
    suffix = max((suffix for suffix in READABLE if path.name.lower().endswith(suffix)), key=len, default="")
    return path.name[: len(path.name) - len(suffix)]


def _kits19_cases(root: Path) -> Iterator[CaseFiles]:
    for folder in sorted(path for path in root.glob("case_*") if path.is_dir()):
        label = folder / "segmentation.nii.gz"
        number = folder.name.removeprefix("case_")
        if label.exists():
            yield CaseFiles(folder.name, folder / "imaging.nii.gz", label)
        elif not number.isdecimal() or int(number) < _KITS19_LABELLED:
            yield CaseFiles(folder.name, folder / "imaging.nii.gz", None)


def _read_data_list(path: Path, layout: str) -> SiteFolder:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = [_entry(path.parent, entry) for entry in content["training"]]
        values = _organ_values(content.get("labels", {}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f'{path}: expected a data list {{"training": [{{"image": ..., "label": ...}}]}}, found another content.',
            hint=f"Write it as MONAI does ({error!r}).",
        ) from error
    names = [_stem(image) for image, _, _ in entries]
    if len(set(names)) < len(names):  # every image named alike, each in a folder of its own
        names = ["_".join((*image.parent.parts[len(path.parent.parts) :], _stem(image))) for image, _, _ in entries]
    cases = (CaseFiles(name, *entry) for name, entry in zip(names, entries, strict=True))
    return SiteFolder(layout, tuple(sorted(cases, key=lambda case: case.name)), values)


def _entry(root: Path, entry: Any) -> tuple[Path, Path | None, tuple[str, ...]]:
    label = entry.get("label")
    return root / entry["image"], root / label if label else None, tuple(entry.get("annotated", ()))


def _organ_values(names: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Label values per organ from a data list's {value: name}. A lesion without an organ in its name belongs to the
    organ where there is only one, as in the tasks of MSD."""
    values: dict[str, tuple[int, ...]] = {}
    lesions: tuple[int, ...] = ()
    for value, name in sorted((int(value), name.lower()) for value, name in names.items()):
        organ = next((organ for organ in ORGANS if organ.removesuffix("s") in name), None)
        if organ:
            values[organ] = (*values.get(organ, ()), value)
        elif any(word in name for word in _LESIONS):
            lesions += (value,)
    if len(values) == 1:
        values = {organ: own + lesions for organ, own in values.items()}
    return values
