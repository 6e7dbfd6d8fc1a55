"""Execute notebooks from a clean kernel and save their outputs: python .ci/notebooks.py [NOTEBOOK ...], by default all.

Cells with `#| eval: false` or a flag of `tst_flags` in settings.ini are not executed and keep their outputs. A notebook whose
execution fails is left unchanged. Afterwards nbdev_clean removes what would be noise in a diff.
"""
import argparse
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from configparser import ConfigParser
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

root = Path(__file__).resolve().parent.parent
os.environ['PYTHONWARNINGS'] = 'ignore:`torch.jit.script` is deprecated:FutureWarning' # raised when fastai is imported
settings = ConfigParser(delimiters=['='])
settings.read(root/'settings.ini', encoding='utf-8')
SKIP = r'eval:\s*false|' + '|'.join(settings['DEFAULT']['tst_flags'].split()) # directives of cells that are not executed


def notebooks():
    "All notebooks of the documentation"
    found = (p for p in (root/'nbs').rglob('*.ipynb') if not any(q[0] in '._' for q in p.relative_to(root/'nbs').parts))
    return sorted(found)


def runs(cell):
    "Whether a cell is executed"
    skipped = re.search(rf'(?m)^#\|\s*(?:{SKIP})\s*$', cell.source)
    return cell.cell_type == 'code' and not skipped and 'nbdev_export()' not in cell.source


def execute(path, timeout=600):
    "Execute a notebook and save its outputs; an error message, or '' on success"
    nb, start = nbformat.read(path, 4), time.perf_counter()
    cells = [c for c in nb.cells if runs(c)]
    copies = [nbformat.v4.new_code_cell(c.source) for c in cells]
    copy = nbformat.v4.new_notebook(cells=copies, metadata=nb.metadata)
    client = NotebookClient(copy, timeout=timeout, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}},
                            store_widget_state=True)
    try: client.execute()
    except (CellExecutionError, CellTimeoutError) as e: return f'{path.relative_to(root)}: {e}'
    for cell, done in zip(cells, copies): cell.outputs = done.outputs
    if 'widgets' in copy.metadata: nb.metadata['widgets'] = copy.metadata['widgets']
    nbformat.write(nb, path)
    print(f'{path.relative_to(root)}: {time.perf_counter() - start:.0f} s', flush=True)
    return ''


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('notebooks', nargs='*', type=Path, help='notebooks to execute (default: all)')
    p.add_argument('--workers', type=int, default=2, help='notebooks executed at the same time (default: 2)')
    a = p.parse_args()
    paths = [q.resolve() for q in a.notebooks] or notebooks()
    os.environ['OMP_NUM_THREADS'] = '1' # several kernels share the cores
    os.environ.pop('MPLBACKEND', None) # figures are drawn inline
    os.chdir(root)
    with ProcessPoolExecutor(a.workers) as pool: errors = [e for e in pool.map(execute, paths) if e]
    from nbdev.clean import nbdev_clean
    for path in paths: nbdev_clean(fname=str(path))
    sys.exit('\n\n'.join(errors) or None)


if __name__ == '__main__': main()
