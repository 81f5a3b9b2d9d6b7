"""What sets a run of segviz+ apart from the plain one, by `extension` in an experiment file. Standard library only.

extension = { annotates = { spleen = ["liver", "spleen"] } }   this site labels these organs
extension = { leaves = "kidneys", after = 0.5 }                this site leaves when so much of phase 2 is done
extension = { joins = "aorta", cases_of = "pancreas" }         a new site comes after the end of the plain run or of
                                                               its variant `of`; its CTs are those of another site,
                                                               with the new organ's label
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

LATE = "late"
"""Name of the site that comes late."""


@dataclass(frozen=True)
class Extension:
    """One of the three, or nothing: a plain run."""

    annotates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    leaves: str = ""
    after: float = 0.0
    joins: str = ""
    cases_of: str = ""
    of: str = ""

    def organs_of(self, site: str) -> tuple[str, ...]:
        """The organs that a site of the plain run annotates: its own, unless `annotates` says otherwise."""
        return self.annotates.get(site, (site,))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without those that say nothing."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {
            name: {site: list(organs) for site, organs in value.items()} if name == "annotates" else value
            for name, value in values.items()
            if value
        }


def read_extension(values: Mapping[str, Any], *, organs: Collection[str], sites: Collection[str]) -> Extension:
    """The extension of a run whose sites are called after `organs`; `sites` are all that have CTs.

    Raises:
        ValueError: an unknown name, more or less than one change, or one that does not fit these sites.
    """
    if unknown := set(values) - {f.name for f in fields(Extension)}:
        raise ValueError(f"unknown name {sorted(unknown)[0]} in an extension")
    if len({"annotates", "leaves", "joins"} & set(values)) != 1:
        raise ValueError("expected one of annotates, leaves and joins in an extension")
    annotates = {site: tuple(annotated) for site, annotated in values.get("annotates", {}).items()}
    extension = Extension(**{**values, "annotates": annotates})
    for site, annotated in extension.annotates.items():
        if site not in organs or site not in annotated or not set(annotated) <= set(organs):
            raise ValueError(f"annotates: expected {site} and organs of other sites, found {', '.join(annotated)}")
    if extension.leaves and (extension.leaves not in organs or not 0 < extension.after < 1):
        raise ValueError(f"leaves: expected a site and 0 < after < 1, found {extension.leaves}, {extension.after}")
    if extension.joins and (extension.joins in organs or extension.cases_of not in sites):
        found = f"{extension.joins}, {extension.cases_of or 'none'}"
        raise ValueError(f"joins: expected an organ that no site has, and a site in cases_of, found {found}")
    if extension.of and not extension.joins:
        raise ValueError(f"of: expected it beside joins, found of = {extension.of} alone")
    return extension
