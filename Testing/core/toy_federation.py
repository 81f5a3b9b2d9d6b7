"""A study of three toy sites with torch, in one process."""

from toy_cases import toy_settings, toy_site

from segviz_core.experiments.runner import run_study
from segviz_core.federation.session import SiteSession
from segviz_core.federation.study import Study
from segviz_core.federation.weights import create_study

SITES = {"1": ("north", "liver"), "2": ("south", "spleen"), "3": ("west", "kidneys")}


def sessions(folder, settings):
    return {
        node: SiteSession(settings.for_site(site), toy_site(organ), folder / "sites" / site)
        for node, (site, organ) in SITES.items()
    }


def run(folder, **values) -> tuple[Study, dict]:
    settings = toy_settings(**values)
    create_study(folder / "study", settings)
    study = Study(folder / "study")
    sites = sessions(folder, settings)
    run_study(study, {node: site.handle for node, site in sites.items()})
    return study, sites
