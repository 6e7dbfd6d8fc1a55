# make demo     train the baseline on the synthetic sample and evaluate it (minutes; no network after the first call)
# make test     run the notebooks and the tests, except the slow ones, which it lists by kind (about 10 minutes on two cores)
# make test-all run everything: also the site in a browser, package builds, large architectures, photographs (HAR_DATA)
# make outputs  execute the notebooks and save their outputs; NBS="nbs/a.ipynb …" for some of them
# make readme   render README.md, MODEL_CARD.md, llms.txt and benchmarks/RESULTS.md from their sources
# make docs     build the documentation site in _docs/
# make dist     build and check the packages in dist/
PYTHON ?= python3
THREADS = OMP_NUM_THREADS=1
WORKERS ?= 2
SOURCES = setup.py settings.ini $(shell find har_fastai -name "*.py" -o -path "*/shipped/*")

.PHONY: demo test test-all outputs readme docs notebooks dist clean

demo: .venv/installed
	.venv/bin/har_train --recipe demo

test: SELECT = -m "not slow"
test-all: SELECT =
test test-all: .venv-dev/installed
	$(THREADS) .venv-dev/bin/nbdev_test --n_workers $(WORKERS) --skip_folder_re '^([_.]|tutorials)'
	$(THREADS) .venv-dev/bin/python -m pytest -q -n $(WORKERS) --dist worksteal $(SELECT) tests

outputs: .venv-dev/installed
	.venv-dev/bin/python .ci/notebooks.py $(NBS)

readme: .venv-dev/installed
	.venv-dev/bin/python .ci/readme.py
	.venv-dev/bin/python benchmarks/results.py

docs: .venv-dev/installed
	$(THREADS) .venv-dev/bin/python .ci/site.py

notebooks: .venv-dev/installed
	HAR_NOTEBOOKS=all .venv-dev/bin/python -m pytest -q tests/test_tutorials.py

dist:
	rm -rf dist build
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install --quiet build==1.6.1 twine==7.0.0
	.venv-dist/bin/python -m build
	.venv-dist/bin/python -m twine check --strict dist/*
	rm -rf build .venv-dist

# each environment has a stamp file; it is installed again only when one of its sources has changed
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
