"""`python -m segviz_core`, but its sites train with Testing/core's toy trainer: real processes, no minutes of training.

Called by a launcher (children.py) with the arguments that Slicer gives to Python.
"""

import sys
from functools import partial
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1] / "core"))

from segviz_core import __main__
from segviz_core.federation import site

if __name__ == "__main__":
    trainer = (sys.executable, str(Path(__file__).parents[1] / "core" / "toy_trainer.py"))
    site.SiteOptions = partial(site.SiteOptions, trainer=trainer)  # type: ignore[misc,assignment]
    sys.argv[1:] = sys.argv[sys.argv.index("segviz_core") + 1 :]
    sys.exit(__main__.main())
