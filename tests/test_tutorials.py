"""Notebooks run from top to bottom in Jupyter, from a clean kernel

nbdev_test runs the modules' notebooks in a shell of its own, so here it's the tutorials that run; HAR_NOTEBOOKS=all (make notebooks) runs all."""
import os, re, resource

import nbformat, pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from helpers import NBS

ALL = os.environ.get('HAR_NOTEBOOKS') == 'all'
PATHS = sorted(p for p in (NBS if ALL else NBS/'tutorials').rglob('*.ipynb') if not any(part[0] in '._' for part in p.relative_to(NBS).parts))
LEFT_OUT = re.compile(r'(?m)^#\|\s*(eval:\s*false|slow)\s*$|nbdev_export\(\)') # as nbdev_test does
SECONDS = 120 # of computing: a minute on two cores


def run(path):
    "Run a notebook in its folder; give the processor time it took"
    nb = nbformat.read(path, 4)
    nb.cells = [c for c in nb.cells if c.cell_type == 'code' and not LEFT_OUT.search(c.source)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    NotebookClient(nb, timeout=600, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}}).execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize('path', PATHS, ids=lambda p: p.relative_to(NBS).as_posix())
def test_notebook_runs(path, monkeypatch, record_property):
    monkeypatch.delenv('MPLBACKEND') # Jupyter brings its own
    seconds = run(path); record_property('seconds', round(seconds, 1)); print(f'{seconds:.1f} s of computing')
    assert seconds < SECONDS, f'{seconds:.0f} s of computing: make it smaller, or mark heavy cells with #| eval: false'


def test_a_broken_notebook_is_seen(tmp_path):
    cells = [nbformat.v4.new_code_cell(s) for s in ('#| eval: false\n1/0', 'x = 1', 'assert x == 2')]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path/'broken.ipynb')
    with pytest.raises(CellExecutionError, match='assert x == 2'): run(tmp_path/'broken.ipynb')
