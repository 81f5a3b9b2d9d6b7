"""Imports slicer_harness without Testing/ on sys.path: the wheel would take Testing/slicer for a part of `slicer`."""

import importlib.util
import sys
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent.parent / "slicer_harness"
_spec = importlib.util.spec_from_file_location(
    "slicer_harness", _FOLDER / "__init__.py", submodule_search_locations=[str(_FOLDER)]
)
assert _spec is not None
assert _spec.loader is not None
slicer_harness = importlib.util.module_from_spec(_spec)
sys.modules["slicer_harness"] = slicer_harness
_spec.loader.exec_module(slicer_harness)
