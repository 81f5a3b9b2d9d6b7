"""One thread per process, Ctrl-C as in a terminal; leaves out what Slicer's Python 3.12, without torch, cannot run."""

import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from import_rules import FLOWER, TESTS_THAT_NEED_TORCH, TORCH

# Tiny networks on several threads are ten times slower than on one while other processes work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Started in the background by a script, tests inherit an ignored SIGINT, and so would the processes they interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

if find_spec("torch") is None:
    _modules = {module.rpartition(".")[2] for module in TORCH | FLOWER}
    collect_ignore = sorted({f"test_{module}.py" for module in _modules} | TESTS_THAT_NEED_TORCH)


@pytest.fixture(scope="module")
def unmeasured_children() -> Iterator[None]:
    """Child processes without coverage, which makes each start of a Flower process a third slower.

    On a full disk it cannot write its own file either, and says so at length.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        yield
