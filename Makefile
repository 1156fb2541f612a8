# `make demo` and `make test` each work alone in a fresh clone; they share .venv and don't reinstall what is there.
PYTHON ?= python3
BIN := .venv/bin
# The release with a CPU build on the registry; without a version pip brings gigabytes of CUDA.
TORCH ?= torch==2.13.0

# A file of tests stays in one process: what its tests share is trained and compiled once.
PYTEST := -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --durations 15

.PHONY: demo test slow peers docs wheel lint clean

demo: .venv/.installed
	$(BIN)/python -m experiments.demo

test: .venv/.installed
	$(BIN)/python $(PYTEST) --ignore=tests/peers

# What `make test` leaves out: trainings that are stopped and gone on with, guides and examples of docstrings, most transformations,
# second derivatives, a browser.
slow: .venv/.installed
	$(BIN)/python $(PYTEST) --ignore=tests/peers -m slow

peers: .venv/.peers
	$(BIN)/python $(PYTEST) tests/peers

# The site, into site/; a warning is an error, and so is a script, style or picture from a network. The variable silences a
# notice about successors of mkdocs.
docs: .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	! grep -rE '<(script|link|img)[^>]*(src|href)="?(https?:)?//' site --include='*.html'

# The wheel holds colnorm alone and needs nothing of experiments/: installed into an environment of its own, it computes.
wheel: .venv/.installed
	rm -rf build dist .venv-wheel
	$(BIN)/python -m build --wheel --installer pip . >/dev/null
	$(PYTHON) -m zipfile --list dist/*.whl
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd dist && ../.venv-wheel/bin/python ../tests/wheel.py
	rm -rf build dist .venv-wheel

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv .venv-wheel site

.venv/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[study,test]'
	touch $@

.venv/.peers: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)' 'pytorch-crf>=0.7.2' 'torch-struct>=0.5' 'spacy>=3.8' \
		'tensorflow-datasets>=4.9.7' 'tensorflow-cpu>=2.18' 'importlib_resources>=6.0'
	touch $@

.venv/.docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@
