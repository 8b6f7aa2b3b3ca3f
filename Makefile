# Everything a contributor or CI runs. PYTHON picks the interpreter (3.11 or 3.12) of the environment in .venv.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3,$(shell command -v $(name))))
BIN := .venv/bin
RUN := demo-run
# Test processes: most of their time is other processes' imports.
JOBS ?= 2

.PHONY: demo test test-all chaos lint generate lock bench bench-prepare test-container test-gpu gpu-tests gpu-memory gpu-speed image clean

demo: .venv/.installed ## make a tiny base model, fine-tune it through the real entrypoint, compare
	@examples/demo/run.sh $(BIN)/python $(RUN)

test: .venv/.installed ## what needs no container engine and no GPU, each kind of case once
	$(BIN)/python -m pytest -m "not container and not gpu and not thorough" --numprocesses $(JOBS) --dist loadfile --durations 40

test-all: .venv/.installed ## every test that needs no container engine and no GPU; after a new lock, before a release
	$(BIN)/python -m pytest -m "not container and not gpu" --numprocesses $(JOBS) --dist loadfile --durations 100

chaos: .venv/.installed ## every fault of docs/chaos.md, which it writes; about an hour
	$(BIN)/python -m tests.chaos
	$(BIN)/python -m tests.chaos.figures

test-container: .venv/.installed ## build the image and run the demo in it
	$(BIN)/python -m pytest -m container

test-gpu: ## every check that needs a GPU, in an environment that has torch for it; a failure keeps none of the others back
	$(MAKE) --keep-going gpu-tests gpu-memory gpu-speed

gpu-tests:
	python3 -m pytest -m gpu tests/gpu

gpu-memory:
	python3 bench/memory_grid.py

gpu-speed:
	python3 bench/gpu.py

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

generate: .venv/.installed ## docs and names that are generated from code
	$(BIN)/python scripts/generate.py

lock: .venv/.installed ## resolve pyproject.toml into locks/; what is locked stays without UPGRADE=--upgrade
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/lock.sh $(UPGRADE)

bench: .venv/.installed ## the figures of docs/benchmarks.md, on this machine
	$(BIN)/python bench/run.py

bench-prepare: .venv/.installed ## rows/s, fill and memory of preparation, with up to 3 GB of rows
	$(BIN)/python bench/prepare.py
	$(BIN)/python bench/memory.py

image: ## the production image
	DOCKER_BUILDKIT=1 docker build --tag graft --build-arg REVISION="$$(git rev-parse HEAD)" \
		--build-arg VERSION="$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" .

# The locked packages with their hashes first, then torch by name (its CPU build's hash is not among the public ones).
# deepspeed and antlr come as source: setuptools, which builds them, is installed from the same lock before.
.venv/.installed: locks/dev.txt locks/torch.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 13), "Python 3.11 or 3.12 is needed: make PYTHON=…"'
	$(PYTHON) -m venv .venv
	awk '/^[a-z]/ { wanted = /^setuptools==/ } wanted' locks/dev.txt > .venv/setuptools.txt
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement .venv/setuptools.txt
	DS_BUILD_OPS=0 $(BIN)/pip install --quiet --no-deps --require-hashes --no-build-isolation --use-pep517 --requirement locks/dev.txt
	$(BIN)/pip install --quiet --requirement locks/torch.txt
	touch $@

clean:
	rm -rf .venv $(RUN)
