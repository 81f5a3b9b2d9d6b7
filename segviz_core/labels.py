"""Organs, their label values, codes and colours: the one place where both sides of the process boundary look.

Standard library only: Slicer's process imports this module.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_ANATOMY = "Segmentation category and type - 3D Slicer General Anatomy list"
_DICOM = "Segmentation category and type - DICOM master list"


@dataclass(frozen=True)
class Organ:
    """One anatomical structure that a head can segment.

    `value` is its voxel value in every label file of SegViz. Organs of one `group` exclude each other; a task of
    another group (a tumour inside the liver, say) may overlap them. `type_code` and `modifier` are SNOMED CT entries
    in the form that Slicer's terminology tag uses; `context` names the list they come from.
    """

    name: str
    title: str
    value: int
    color: tuple[int, int, int]
    type_code: str
    modifier: str = ""
    context: str = _ANATOMY
    group: str = "organs"

    @property
    def terminology(self) -> str:
        """Slicer's terminology tag of a segment of this organ (Slicer 5.12, Terminologies module)."""
        return (
            f"{self.context}~SCT^123037004^Anatomical Structure~{self.type_code}~{self.modifier or '^^'}"
            "~Anatomic codes - DICOM master list~^^~^^"
        )


_KIDNEY, _KIDNEY_COLOR = "SCT^64033007^Kidney", (185, 102, 83)

ORGANS: Mapping[str, Organ] = MappingProxyType(
    {
        organ.name: organ
        for organ in (
            Organ("liver", "Liver", 1, (221, 130, 101), "SCT^10200004^Liver"),
            Organ("spleen", "Spleen", 2, (157, 108, 162), "SCT^78961009^Spleen"),
            Organ("kidneys", "Kidneys", 3, _KIDNEY_COLOR, _KIDNEY, "SCT^51440002^Right and left", _DICOM),
            Organ("pancreas", "Pancreas", 4, (249, 180, 111), "SCT^15776009^Pancreas"),
        )
    }
)
"""The organs every meta-model of the published study has, by name, in the order of their label values."""

SPLIT_KIDNEYS: tuple[Organ, Organ] = (
    Organ("left_kidney", "Left kidney", 5, _KIDNEY_COLOR, _KIDNEY, "SCT^7771000^Left"),
    Organ("right_kidney", "Right kidney", 6, _KIDNEY_COLOR, _KIDNEY, "SCT^24028007^Right"),
)
"""What takes the place of `kidneys` in a result when the user asks for left and right."""

FIRST_FREE_VALUE = 7
"""New organs of a federation get this label value and up, stored in the model's header."""

_NEW_COLORS = ((128, 174, 128), (111, 184, 210), (216, 101, 79), (192, 104, 88), (244, 214, 49), (78, 63, 0))

CURVE_COLORS: Mapping[str, str] = MappingProxyType(
    {"liver": "#d55e00", "spleen": "#0072b2", "kidneys": "#009e73", "pancreas": "#cc79a7"}
)
"""Lines of plots: Okabe and Ito's colours, which people with any colour vision tell apart (Color Universal Design,
2008), at least 3:1 on white and on black. Slicer's own colours of liver and kidneys are too close for that."""

OTHER_CURVE_COLOR = "#808080"
"""Lines of organs without a colour of their own; their marks and dashes differ."""


@dataclass(frozen=True)
class LabelSet:
    """Which organs a site annotates, and which voxel values stand for each of them in the site's label files.

    >>> LabelSet({"kidneys": (2, 3)}).organs
    ('kidneys',)
    """

    values: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a label set needs at least one organ, found none")
        seen: dict[int, str] = {}
        for organ, values in self.values.items():
            if not values or any(value <= 0 for value in values):
                raise ValueError(f"{organ}: expected label values above 0, found {list(values)}")
            for value in values:
                if value in seen:
                    raise ValueError(f"label value {value} stands for both {seen[value]} and {organ}")
                seen[value] = organ

    @property
    def organs(self) -> tuple[str, ...]:
        """Names of the annotated organs, in the order given."""
        return tuple(self.values)


LABEL_SETS: Mapping[str, LabelSet] = MappingProxyType(
    {name: LabelSet({name: (organ.value,)}) for name, organ in ORGANS.items()}
)
"""The one-organ label sets of the published study, with SegViz's own label values."""


def organs_named(names: Iterable[str]) -> dict[str, Organ]:
    """The organs of these names: those of ORGANS, and unknown ones with the next free values in the order given.

    >>> [organ.value for organ in organs_named(["spleen", "aorta", "stomach"]).values()]
    [2, 7, 8]
    """
    organs: dict[str, Organ] = {}
    new = 0
    for name in names:
        if name in ORGANS:
            organs[name] = ORGANS[name]
            continue
        title, color = name.replace("_", " ").capitalize(), _NEW_COLORS[new % len(_NEW_COLORS)]
        organs[name] = Organ(name, title, FIRST_FREE_VALUE + new, color, "SCT^85756007^Tissue")
        new += 1
    return organs
