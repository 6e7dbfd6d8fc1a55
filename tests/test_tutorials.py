"""Notebooks run from top to bottom in Jupyter, from a clean kernel

`nbdev_test` runs the notebooks of the modules in a shell of its own, so only the tutorials run here; HAR_NOTEBOOKS=all (`make notebooks`)
runs all of them."""
import os, re, resource

import nbformat, pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from helpers import NBS, mostly_slow, notebooks

ALL = os.environ.get('HAR_NOTEBOOKS') == 'all'
PATHS = [p for p in notebooks() if ALL or p.is_relative_to(NBS/'tutorials')]
FIRST = [p for p in PATHS if p.stem not in ('leak', 'report', 'better')] # those that a new user reads; the others are studies
LEFT_OUT = re.compile(r'(?m)^#\|\s*(eval:\s*false|slow)\s*$|nbdev_export\(\)') # cells that nbdev_test also skips
SECONDS = 120 # of processor time: a minute on two cores


def execute(path) -> float:
    "Run a notebook in its folder; return the processor time it took, in seconds"
    nb = nbformat.read(path, 4)
    nb.cells = [c for c in nb.cells if c.cell_type == 'code' and not LEFT_OUT.search(c.source)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    NotebookClient(nb, timeout=600, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}}).execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize('path', mostly_slow(PATHS, FIRST, 'tutorials that are studies'), ids=lambda p: p.relative_to(NBS).as_posix())
def test_notebook_runs(path, monkeypatch, record_property):
    monkeypatch.delenv('MPLBACKEND') # Jupyter sets its own
    seconds = execute(path); record_property('seconds', round(seconds, 1)); print(f'{seconds:.1f} s of processor time')
    assert seconds < SECONDS, f'{seconds:.0f} s of processor time: make it smaller, or mark slow cells with #| eval: false'


def test_a_broken_notebook_is_found(tmp_path):
    cells = [nbformat.v4.new_code_cell(s) for s in ('#| eval: false\n1/0', 'x = 1', 'assert x == 2')]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path/'broken.ipynb')
    with pytest.raises(CellExecutionError, match='assert x == 2'): execute(tmp_path/'broken.ipynb')
