# run    set up what is missing, then start the bot:            make run ARGS="check"
# stores add the drivers that NONCE_STORE=redis://... or postgresql://... needs to .venv
# test   set up what is missing, then every check and test:     make test ARGS="tests/unit -k nonce"
# soak   the long tests at full size
# bench  the measurements, printed
# audit  what can be looked at for safety without a network: bandit, ignores, locks, workflows, the state folder
# lock   write the locks anew; ARGS=--upgrade takes the newest versions
# clean  remove everything that make and the tools made; never the state of a bot
#
# PYTHON names the interpreter that .venv is made with; without it, the first of python3, python3.13 ... that is new enough.

PYTHON ?=
ARGS ?=
python := .venv/bin/python

.PHONY: run stores test soak bench audit lock clean

run:
	@PYTHON="$(PYTHON)" .ci/setup run
	@exec $(python) main.py $(ARGS)

stores:
	@PYTHON="$(PYTHON)" .ci/setup stores

test: dev
	$(python) -m ruff check
	$(python) -m ruff format --check
	.venv/bin/lint-imports
	$(python) -m mypy
	$(python) -m pytest -n 3 --dist worksteal $(ARGS)

soak: dev
	$(python) -m pytest -n 3 --dist worksteal --full -m soak --timeout=3600 $(ARGS)

bench: dev
	$(python) -m pytest -m bench -s $(ARGS)

audit: dev
	@.ci/audit

lock:
	@PYTHON="$(PYTHON)" .ci/lock $(ARGS)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find bot tests -name __pycache__ -prune -exec rm -rf {} +

.PHONY: dev
dev:
	@PYTHON="$(PYTHON)" .ci/setup dev
