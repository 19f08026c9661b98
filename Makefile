# smartorders_lab. Everything runs from a virtual environment that the first target makes and later ones reuse.
#
#     make demo        a ladder replayed from many starts: table, out/demo.html, out/demo.duckdb
#     make test        lint, types, tests, tests without the JIT, notebooks: what CI runs
#     make lint | types | notebooks      one of them
#     make simulate SEEDS=10000 STEPS=1000     sessions through every fault and crash, long; BROKER=live: with the broker of live trading
#     make kill KILLS=200                      real processes killed with -9; LIVE=--live: at eight exchanges of our own
#     make faults                              a whole life at each exchange, with every fault at every request; RESTS=levels, RESTS=stops
#     make clean       what was made here goes; the environment stays
#     make distclean   and the environment too
#
# Another interpreter (3.11 to 3.13): make test PYTHON=python3.12 VENV=.venv312

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# compiles the kernel once, so that test workers find it in the cache instead of each compiling it
WARM_UP := import smartorders_lab as so; so.replay(so.SmartOrder(symbol="A/B", side="buy", quantity=1, \
	stop_loss="-5%"), so.Ticks.from_arrays([1, 2], [10.0, 10.5], unit="ns"))
# test workers; the suite is bound by CPU
WORKERS ?= 2
# also run as plain Python, without the compiler between the rules and the test
WITHOUT_JIT ?= tests/test_rules.py tests/test_kernel.py
NOTEBOOK_TIMEOUT ?= 120
# of the long runs
SEEDS ?= 10000
BROKER ?= paper
STEPS ?= 1000
KILLS ?= 200
LIVE ?=
RESTS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint types tests tests-without-jit notebooks simulate kill faults clean distclean

help:
	@sed -n '/^#  /s/^# *//p; /^# Another/s/^# //p' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.demo
	$(BIN)/python examples/demo.py

test: lint types tests tests-without-jit notebooks

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb

types: $(VENV)/.dev
	$(BIN)/mypy

tests: $(VENV)/.dev
	$(BIN)/python -c '$(WARM_UP)'
	$(BIN)/python -m pytest -n $(WORKERS)

tests-without-jit: $(VENV)/.dev
	NUMBA_DISABLE_JIT=1 $(BIN)/python -m pytest -n $(WORKERS) $(wildcard $(WITHOUT_JIT))

notebooks: $(VENV)/.dev
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=$(NOTEBOOK_TIMEOUT) notebooks

simulate: $(VENV)/.dev
	$(BIN)/python -m tests.simulation --broker $(BROKER) --seeds $(SEEDS) --steps $(STEPS) --workers $(WORKERS)

kill: $(VENV)/.dev
	$(BIN)/python tests/killing.py $(LIVE) --kills $(KILLS)

faults: $(VENV)/.dev
	$(BIN)/python tests/live_faults.py --workers $(WORKERS) --rests "$(RESTS)"

clean:
	rm -rf out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "smartorders_lab needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# stamps: set-up runs once, and again when pyproject.toml changes
$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all]'
	@touch $@
