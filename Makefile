# Two commands: `make run` shows the main job done, `make test` passes the tests. Each sets itself up; nothing else is assumed
# than Debian (or alike), Python 3.11+, git and make.

VENV ?= .venv
BIN := $(VENV)/bin
PORT ?= 8080
PYTEST := $(BIN)/python -m pytest

.PHONY: help run demo test check lint types fast soak audit bench-gateway encoder pages clean

help:            ## list the commands
	@grep -E '^[a-z-]+: .*##' Makefile | sed -E 's/:[^#]*## */\t/' | expand -t 18

run: $(VENV)/.ready-run   ## record, fit, bench, report, then serve on 127.0.0.1:8080 (Ctrl-C ends it)
	@exec $(BIN)/junctor demo --folder demo --port $(PORT)

demo: $(VENV)/.ready-run  ## all of `run` but serving; exits 0
	@exec $(BIN)/junctor demo --folder demo --no-serve

test: $(VENV)/.ready-test ## everything: lint, types, all tests, coverage of at least 90 %
	@scripts/system-packages.sh
	$(MAKE) --no-print-directory lint types audit
	$(PYTEST) -n 2 --cov --cov-report=term --cov-fail-under=90

check: $(VENV)/.ready-test ## the inner loop: lint, types and fast tests, under two minutes
	$(MAKE) --no-print-directory lint types fast

lint: $(VENV)/.ready-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready-test
	$(BIN)/mypy

fast: $(VENV)/.ready-test
	$(PYTEST) -n 2 -q -m "not slow"

soak: $(VENV)/.ready-test  ## the long form of the reliability tests: 100,000 calls through chaos, 40 kills, 15 minutes of fuzzing
	JUNCTOR_SOAK=1 $(PYTEST) -q tests/reliability

audit: $(VENV)/.ready-test ## known vulnerabilities of what is installed
	$(BIN)/pip-audit --skip-editable --progress-spinner off

bench-gateway: $(VENV)/.ready-test ## requests per second against a bare pass-through, in one run
	$(BIN)/python benchmarks/gateway.py --seconds 5 --json -
	$(BIN)/python benchmarks/gateway_limits.py --json -

encoder: $(VENV)/.ready-test ## make the shipped static encoder again from all-MiniLM-L6-v2
	$(BIN)/python scripts/distill_encoder.py

pages: $(VENV)/.ready-test ## write docs/policies again, from the code and docs/board/board.json
	$(BIN)/python scripts/policy_pages.py

clean:           ## remove what these commands made
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache .coverage

$(VENV)/.ready-run: pyproject.toml scripts/make-venv.sh
	@scripts/make-venv.sh $(VENV) "bench"
	@touch $@

$(VENV)/.ready-test: pyproject.toml scripts/make-venv.sh
	@scripts/make-venv.sh $(VENV) "dev" --with-model
	@touch $@ $(VENV)/.ready-run
