"""Leaves out what an environment without torch (the job on Slicer's Python 3.12) cannot run."""

from importlib.util import find_spec

from import_rules import FLOWER, TESTS_THAT_NEED_TORCH, TORCH

if find_spec("torch") is None:
    _modules = {module.rpartition(".")[2] for module in TORCH | FLOWER}
    collect_ignore = sorted({f"test_{module}.py" for module in _modules} | TESTS_THAT_NEED_TORCH)
