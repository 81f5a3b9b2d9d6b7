"""The two-file Flower app in a study folder: Flower runs nothing without one, so it only imports what is installed."""

from pathlib import Path

from segviz_core import __version__
from segviz_core.federation.kit import FLWR_VERSION

_PROJECT = f"""\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "segviz-study"
version = "{__version__}"
description = "The Flower app of a SegViz study"
license = "Apache-2.0"
dependencies = ["flwr=={FLWR_VERSION}"]

[tool.flwr.app]
publisher = "segviz"

[tool.flwr.app.components]
serverapp = "segviz_study.server_app:app"
clientapp = "segviz_study.client_app:app"

[tool.flwr.app.config]
study = ""
session = ""
"""


_MODULE = '''\
"""The installed SegViz does the work."""

from segviz_core.federation.{name} import app

__all__ = ["app"]
'''


def write_app(folder: Path) -> None:
    """Write the app into the new folder `folder`."""
    package = folder / "segviz_study"
    package.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(_PROJECT, encoding="utf-8")
    for name in ("server_app", "client_app"):
        (package / f"{name}.py").write_text(_MODULE.format(name=name), encoding="utf-8")
