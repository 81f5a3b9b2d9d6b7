"""A study's present state as a meta-model: one representation, all heads, the data contract and their provenance."""

from segviz_core import __version__
from segviz_core.errors import InputError
from segviz_core.federation.packets import Arrays
from segviz_core.federation.schedule import schedule, steps_per_site
from segviz_core.federation.settings import StudySettings
from segviz_core.federation.state import StudyState
from segviz_core.labels import ORGANS, Organ, organs_named
from segviz_core.meta_model import MetaModel, OrganEntry


def meta_model_of(state: StudyState, settings: StudySettings) -> MetaModel:
    """The meta-model that a study has reached so far: the same file at the coordinator and, delivered, at every site.

    In FEDBN mode the norm layers of the sites are averaged once here (one pass of the representation; untested by the
    publication, so the provenance says `norm: averaged at export`).

    Raises:
        InputError: no site has sent a head yet.
    """
    training = [r for r in schedule(settings, state.amendments) if r.stage != "deliver"]
    if not state.heads:
        raise InputError(
            f"The study {settings.name!r} has no trained head after {state.finished} of {len(training)} rounds.",
            hint="Let it run until its first shared round is finished.",
        )
    weights: Arrays = {f"representation.{key}": array for key, array in state.representation.items()}
    for organ in _in_order(state):
        weights |= {f"heads.{organ}.{key}": array for key, array in state.heads[organ].items()}
    return MetaModel(
        contract=settings.contract,
        network=settings.network,
        patch_size=settings.patch_size,
        organs=tuple(_entry(organ, state) for organ in organs_named(_in_order(state)).values()),
        weights=weights,
        provenance={
            "study": settings.name,
            "mode": settings.mode,
            "norm": "averaged at export" if settings.fedbn else "shared",
            "sites": [
                {"site": m.site, "organs": list(m.organs), "cases": m.cases}
                for m in sorted(state.members.values(), key=lambda m: m.site)
            ],
            "rounds": min(state.finished, len(training)),
            "rounds_planned": len(training),
            "steps_per_site": steps_per_site(settings, state.amendments, state.finished),
            "validation_dice": {organ: round(dice, 4) for organ, dice in state.dice.items()},
            "versions": {"segviz": __version__},
        },
    )


def _in_order(state: StudyState) -> list[str]:
    """Known organs by label value, then new ones in the order in which their sites joined."""
    new = [organ for member in state.members.values() for organ in member.organs if organ not in ORGANS]
    return [organ for organ in dict.fromkeys([*ORGANS, *new]) if organ in state.heads]


def _entry(organ: Organ, state: StudyState) -> OrganEntry:
    temperature, threshold = state.calibration.get(organ.name, (1.0, 0.5))
    return OrganEntry.of(organ, temperature=temperature, threshold=threshold)
