# `make demo` and `make test` set up .venv by themselves. PYTHON=..., TORCH_INDEX=... and CUDA=1 steer that (README.md).
.PHONY: setup demo test test-312 test-slicer kills screenshots experiments table scale faults faults-long bench-model bench bench-full bench-peers bench-page lint clean

# Any Python that runs may start the set-up; the set-up then finds the right one.
RUNNING := $(shell for p in $(PYTHON) python3 python3.11 python3.12 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null && echo "$$p" && break; done)
HOST_PYTHON := $(or $(RUNNING),python3)
SETUP := $(HOST_PYTHON) Testing/setup_environment.py

# Two files of tests at a time: federations wait more than they work.
AT_ONCE := -n 2 --dist loadfile

setup:
	@$(SETUP) test

demo:
	@$(SETUP) demo
	.venv/bin/python -m segviz_core demo demo

test:
	@$(HOST_PYTHON) Testing/system_packages.py
	@$(SETUP) test
	.venv/bin/python -m pytest Testing/core $(AT_ONCE) --cov --cov-report=term-missing:skip-covered
	.venv/bin/python -m pytest Testing/slicer
	@$(MAKE) --no-print-directory test-312

# What needs no torch, on Slicer's Python; Testing/core/conftest.py leaves out the rest.
test-312:
	@$(SETUP) test-312 --python 3.12 --folder .venv312 --optional
	@! .venv312/bin/python -c '' 2>/dev/null || .venv312/bin/python -m pytest Testing/core $(AT_ONCE)

# The window on another Slicer: make test-slicer PYTHON=python3.12 SLICER_CORE=5.13.31053.0 (the preview). Real child
# processes run in .venv, so that this environment needs no torch.
SLICER_CORE ?= 5.13.31053.0
test-slicer:
	@$(HOST_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || (echo "test-slicer needs Python 3.11 or later: PYTHON=python3.12" >&2; exit 1)
	@test -d .venv-slicer || $(HOST_PYTHON) -m venv .venv-slicer
	.venv-slicer/bin/python -m pip install -q -e ".[images,pytest]" cryptography slicer-core==$(SLICER_CORE) "PySide6-Essentials>=6.8,!=6.12.0"
	.venv-slicer/bin/python -m pytest Testing/slicer

# Every process of a click and of a site, killed ten times each under full load; prints the counts.
kills:
	@$(SETUP) test
	KILLS=10 .venv/bin/python -m pytest -s Testing/slicer/test_kills.py Testing/slicer/test_site_kills.py

# Resources/Screenshots/*.png from the real module; look at each one afterwards.
screenshots:
	@$(SETUP) test
	.venv/bin/python Testing/slicer/screenshots.py

# Rows of the table: make experiments PROFILE=small (goes on where it was stopped), then make table PROFILE=small.
PROFILE ?= small
experiments:
	@$(SETUP) demo
	OMP_NUM_THREADS=1 .venv/bin/python -m segviz_core experiment --all $(PROFILE)

table:
	@$(SETUP) demo
	.venv/bin/python -m segviz_core table $(PROFILE)

# The server's seconds and memory against the number of sites: build/scale.json, build/scale.png.
scale:
	@$(SETUP) test
	OMP_NUM_THREADS=1 .venv/bin/python Testing/scale/run.py build

# The 1.5 mm model that benchmarks segment with, trained on phantoms: 30 minutes on two cores, once; it resumes.
bench-model:
	@$(SETUP) test
	.venv/bin/python Testing/benchmarks/model.py

# Ours beside the stock pipeline and peers: build/bench/*.json. Rows that are there are kept: an interrupted run goes on.
bench: bench-model bench-peers
	.venv/bin/python Testing/benchmarks/inference.py
	.venv/bin/python Testing/benchmarks/training.py
	.venv/bin/python Testing/benchmarks/aggregation.py
	.venv/bin/python Testing/benchmarks/rounds.py

bench-full: bench-model bench-peers
	.venv/bin/python Testing/benchmarks/inference.py --full

bench-peers:
	.venv/bin/python -m pip install -q --no-deps -r Testing/benchmarks/requirements-peers.txt

# The README's table and plot from build/bench; look at docs/pictures/bench.png afterwards.
bench-page:
	.venv/bin/python Testing/benchmarks/page.py

# Every fault of the matrix on real processes, at most 40 minutes: build/faults.json. The long one adds SIGSTOP, long
# cuts and slow lines. Rows that came out as expected are kept; delete the file to play all of them again.
faults:
	@$(SETUP) test
	OMP_NUM_THREADS=1 .venv/bin/python Testing/faults/run.py build

faults-long:
	@$(SETUP) test
	OMP_NUM_THREADS=1 .venv/bin/python Testing/faults/run.py build --long

lint:
	@$(SETUP) test
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

clean:
	rm -rf demo build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
