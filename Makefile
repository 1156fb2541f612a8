# `make demo` and `make test` each work alone in a fresh clone; they share .venv and don't reinstall what is there.
PYTHON ?= python3
BIN := .venv/bin
# The release with a CPU build on the registry; without a version pip brings gigabytes of CUDA.
TORCH ?= torch==2.13.0

.PHONY: demo test peers lint clean

demo: .venv/.installed
	$(BIN)/python -m experiments.demo

test: .venv/.installed
	$(BIN)/python -m pytest --ignore=tests/peers

peers: .venv/.peers
	$(BIN)/python -m pytest tests/peers

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

.venv/.peers: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)' 'pytorch-crf>=0.7.2' 'torch-struct>=0.5'
	touch $@
