# make demo    train the baseline on drawn images and score it (minutes, no network after the first call)
# make test    run every notebook and every test
# make readme  render README.md, MODEL_CARD.md and benchmarks/RESULTS.md from what they're made of
PYTHON ?= python3
THREADS = OMP_NUM_THREADS=1
SOURCES = setup.py settings.ini $(wildcard har_fastai/*.py har_fastai/shipped/*)

.PHONY: demo test readme docs notebooks dist clean

demo: .venv/installed
	.venv/bin/har_train --recipe demo

test: .venv-dev/installed
	$(THREADS) .venv-dev/bin/nbdev_test --n_workers 2 --skip_folder_re '^([_.]|tutorials)'
	.venv-dev/bin/python -m pytest -q tests

readme: .venv-dev/installed
	.venv-dev/bin/python .ci/readme.py
	.venv-dev/bin/python benchmarks/results.py

docs: .venv-dev/installed
	$(THREADS) .venv-dev/bin/python .ci/site.py

notebooks: .venv-dev/installed
	HAR_NOTEBOOKS=all .venv-dev/bin/python -m pytest -q tests/test_run.py

dist:
	rm -rf dist build
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install --quiet build==1.6.1 twine==7.0.0
	.venv-dist/bin/python -m build
	.venv-dist/bin/python -m twine check --strict dist/*
	rm -rf build .venv-dist

# a stamp in each environment: it is made anew only when what it was made from has changed
.venv/installed: $(SOURCES)
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --upgrade pip
	rm -rf build
	.venv/bin/python -m pip install --quiet .
	rm -rf build
	touch $@

.venv-dev/installed: setup.py settings.ini
	test -x .venv-dev/bin/python || $(PYTHON) -m venv .venv-dev
	.venv-dev/bin/python -m pip install --quiet --upgrade pip
	.venv-dev/bin/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .venv-dev build dist *.egg-info _proc _docs .venv-dist
