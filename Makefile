# make demo   the shop mesh, live           make test    everything that has to hold
# make check  the shop's promises, headless make bench   measure beside other proxies
# make lifecycle   50 drains, upgrades, changes of a mesh under load; 20 rotations of leaves and 3 of roots
# make attacks     30 s of each kind of attack, and a table
# make capture     the shop in network namespaces, as root with an Envoy and as an ordinary user, and all of tests/capture
# make test-kubernetes   everything that needs a real Kubernetes API server, in its long form
# make routing     random routes under twenty seeds, judged by second readings of the standards and by Envoy
# make observability   telemetry under every fault, with a real collector and disks in trouble; what istioctl reads
# make seeds       a simulated mesh of three services with faults, under a thousand seeds
# make fuzz        look for inputs that break a promise, ten minutes for each target
# Each target does its own set-up in .venv, dist and .tools; only Python 3.11, Rust, Node.js (and Go for `test`) are
# expected.

PYTHON ?= python3.11
# Test files at a time; most of their time they wait for processes.
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
# `pip` reads the pinned versions from one file, wherever it is called.
PIP := $(BIN)/pip --disable-pip-version-check
SOURCES := $(shell find rust pymesh control -type f \( -name '*.rs' -o -name '*.toml' -o -name '*.py' -o -name '*.pyi' \
	-o -name '*.proto' -o -name '*.binpb' -o -name '*.md' -o -name '*.h' -o -name '*.hpp' -o -name '*.pxd' \
	-o -name '*.html' -o -name '*.js' -o -name '*.css' -o -name '*.json' -o -name '*.yaml' \) -not -path '*/__pycache__/*' -not -path 'rust/fuzz/*')

UI := control/ui/static/index.html
UI_SOURCES := $(shell find ui -type f -not -path 'ui/node_modules/*')

.DEFAULT_GOAL := help
.PHONY: help demo check test test-kubernetes bench lifecycle attacks capture routing observability seeds fuzz wheel lint lock clean
.DELETE_ON_ERROR:

help:
	@sed -n '1,10s/^# //p' Makefile

demo: $(VENV)/installed
	$(BIN)/pymesh up examples/shop

check: $(VENV)/installed
	$(BIN)/pymesh up examples/shop --check

wheel: dist/built

# The order is cheap before dear; pytest is last, so that its summary closes the output.
test: $(VENV)/installed $(VENV)/tools .tools/installed lint
	@echo "== cargo clippy"
	cargo clippy --locked --workspace --all-targets -- -D warnings
	@echo "== cargo test"
	cargo test --locked --workspace
	@echo "== pytest"
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# The API server is built from source when it is not there yet: some minutes.
test-kubernetes: $(VENV)/installed $(VENV)/tools .tools/installed
	PYMESH_KUBERNETES_WHOLE=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest tests/kubernetes

lint: $(VENV)/installed $(VENV)/tools
	@echo "== rustfmt, ruff, mypy, import-linter, tsc"
	cargo fmt --all --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd $(VENV) && bin/lint-imports ../pyproject.toml
	npm run --silent --prefix ui check

# `make fuzz TARGET=engine` runs one; FUZZ_SECONDS is the time for each (600). See docs/fuzzing.md.
fuzz:
	rust/fuzz/run $(TARGET)

bench: $(VENV)/installed $(VENV)/tools .tools/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bench/run

lifecycle: $(VENV)/installed $(VENV)/tools .tools/installed
	PYMESH_LIFECYCLE_ROUNDS=50 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest tests/lifecycle -s

routing: $(VENV)/installed $(VENV)/tools .tools/installed
	for seed in $$(seq 20); do PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest -q tests/routing --seed $$seed || exit 1; done

observability: $(VENV)/installed $(VENV)/tools .tools/installed
	$(BIN)/python tests/tools/install.py istioctl
	PYMESH_OBSERVABILITY_WHOLE=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest tests/observability

seeds: $(VENV)/installed $(VENV)/tools
	PYMESH_SEEDS=1000 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest tests/unit/testing/test_seeds.py -q -s

capture: $(VENV)/installed $(VENV)/tools .tools/installed
	PYMESH_CAPTURE_WHOLE=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pytest tests/e2e/test_up_capture.py tests/capture

attacks: $(VENV)/installed $(VENV)/tools .tools/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests.attacks --seconds 30

# One release build makes the wheel; cargo itself knows what of it is up to date.
dist/built: $(SOURCES) $(UI) Cargo.toml Cargo.lock pyproject.toml README.md | $(VENV)/maturin
	@echo "== wheel (the first release build takes a few minutes)"
	rm -f dist/*.whl
	$(BIN)/maturin build --release --locked --out dist
	@touch $@

# The web UI: bundled here, so that who installs the wheel needs no Node.js. Scripts of packages are not run.
$(UI): $(UI_SOURCES)
	@command -v node >/dev/null && command -v npm >/dev/null || { echo "error: node and npm are not installed, which bundle the web UI; hint: install Node.js 18 or later, with npm (https://nodejs.org)" >&2; exit 1; }
	@echo "== web UI"
	npm ci --prefix ui --ignore-scripts --no-audit --no-fund --loglevel error
	npm run --silent --prefix ui build
	@touch $@

$(VENV)/installed: dist/built requirements.lock
	@echo "== install"
	$(PIP) install --quiet -c requirements.lock dist/*.whl
	$(PIP) install --quiet --force-reinstall --no-deps dist/*.whl
	@touch $@

$(VENV)/python:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not installed; hint: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@command -v cargo >/dev/null || { echo "error: cargo is not installed; hint: install Rust 1.88 or later with rustup" >&2; exit 1; }
	@echo "== virtual environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/maturin: requirements.lock | $(VENV)/python
	$(PIP) install --quiet -c requirements.lock maturin
	@touch $@

# The tools of tests and checks: the pinned file as a whole.
$(VENV)/tools: requirements.lock | $(VENV)/python
	$(PIP) install --quiet -r requirements.lock
	@touch $@

.tools/installed: tests/tools/install.py tests/tools/peers.py $(wildcard tests/tools/*/*.go tests/tools/*/go.*) | $(VENV)/python
	@echo "== foreign peers (Envoy, h2spec, gRPC interop, nginx and others)"
	$(BIN)/python tests/tools/install.py
	@mkdir -p .tools && touch $@

lock: | $(VENV)/python
	$(PIP) install --quiet pip-tools
	$(BIN)/pip-compile --quiet --extra dev --strip-extras --no-emit-index-url --no-emit-trusted-host \
		--no-emit-find-links --no-header --annotation-style=line -o requirements.lock pyproject.toml
	@sed -i '1i # Pinned versions of everything that pyproject.toml names, and of what those need. Made by `make lock`.' requirements.lock

clean:
	rm -rf $(VENV) dist target .tools ui/node_modules control/ui/static
