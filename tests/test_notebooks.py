"The notebooks are clean, in step with the modules, and readable"
import ast, json, re, shutil, subprocess, sys

import pytest

from helpers import NBS, PACKAGE, ROOT

NOTEBOOKS = sorted(p for p in NBS.rglob('*.ipynb') if not any(part.startswith(('.', '_')) for part in p.relative_to(NBS).parts))
each = pytest.mark.parametrize('nb', NOTEBOOKS, ids=lambda p: p.relative_to(NBS).as_posix())
MAX_BYTES = 1_500_000
MACHINE_PATH = re.compile(r'(?<![\w.~-])/(?:tmp|work|root|home|Users)/[\w.-]+')


def load(nb): return json.loads(nb.read_text(encoding='utf-8'))
def code(nb): return [c for c in load(nb)['cells'] if c['cell_type'] == 'code']


def texts(cell) -> str:
    "All text in the outputs of a cell, without the images in it"
    found = []
    for o in cell.get('outputs', []):
        found += [o.get('text', '')] + [v for k, v in o.get('data', {}).items() if not k.startswith('image/')]
    flat = '\n'.join(v if isinstance(v, str) else ''.join(map(str, v)) if isinstance(v, list) else json.dumps(v) for v in found)
    return re.sub(r'data:[\w/+.-]+;base64,[\w+/=\s]+', '', flat)


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A copy of what nbdev reads and writes"
    to = tmp_path_factory.mktemp('copy')/'repository'
    shutil.copytree(NBS, to/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints', '_proc', '_quarto.yml')); shutil.copytree(PACKAGE, to/'har_fastai', ignore=shutil.ignore_patterns('__pycache__'))
    for f in ('settings.ini', 'setup.py', '_quarto.yml', 'README.md'): shutil.copy(ROOT/f, to/f)
    return to


def nbdev(what, folder):
    "Run a command of nbdev in `folder`"
    module, func = what
    subprocess.run([sys.executable, '-c', f'from {module} import {func}; {func}()'], cwd=folder, check=True, capture_output=True, text=True)


def differing(a, b, pattern):
    "Names of the files that are not the same in two folders"
    names = {f.relative_to(r).as_posix() for r in (a, b) for f in r.rglob(pattern) if '.ipynb_checkpoints' not in f.parts and '_proc' not in f.parts}
    return sorted(n for n in names if not ((a/n).is_file() and (b/n).is_file() and (a/n).read_bytes() == (b/n).read_bytes()))


def test_there_are_notebooks(): assert len(NOTEBOOKS) >= 13


@pytest.mark.parametrize('page', ['README.md', 'MODEL_CARD.md'])
def test_images_of_a_rendered_page_are_there(page):
    "And in the repository, where this is one: what's ignored or was forgotten is no use to readers"
    display_name = re.findall(r'!\[.*?\]\((?!https?:)(.+?)\)', (ROOT/page).read_text(encoding='utf-8'))
    assert display_name and [s for s in display_name if not (ROOT/s).is_file()] == []
    if (ROOT/'.git').exists():
        ignored = subprocess.run(['git', 'check-ignore', *display_name], cwd=ROOT, capture_output=True, text=True).stdout
        assert ignored == ''


def test_notebooks_are_clean(copy):
    dirty = copy/'nbs'/'00_files.ipynb' # shows that the cleaning takes place
    dirty.write_text(re.sub('"execution_count": null', '"execution_count": 7', dirty.read_text(encoding='utf-8'), count=1), encoding='utf-8')
    assert differing(copy/'nbs', NBS, '00_files.ipynb') == ['00_files.ipynb']
    nbdev(('nbdev.clean', 'nbdev_clean'), copy)
    assert differing(copy/'nbs', NBS, '*.ipynb') == []


def test_modules_are_in_step(copy):
    assert differing(copy/'har_fastai', PACKAGE, '*.py') == []
    for f in (copy/'har_fastai').glob('*.py'): # else a module that is no longer exported would go unnoticed
        if f.name != '__init__.py': f.unlink()
    nbdev(('nbdev.doclinks', 'nbdev_export'), copy)
    assert differing(copy/'har_fastai', PACKAGE, '*.py') == []


@each
def test_size(nb): assert nb.stat().st_size < MAX_BYTES, 'outputs are too large: make figures smaller or fewer'


@each
def test_title(nb):
    first = load(nb)['cells'][0]
    text = ''.join(first['source'])
    if first['cell_type'] == 'raw': pytest.fail('the first cell is no markdown with a title and a subtitle')
    assert re.match(r'# \S.*\n\n?> \S.*', text), text[:200]


@each
def test_kernel(nb): assert load(nb)['metadata']['kernelspec']['name'] == 'python3'


@each
def test_no_error_outputs(nb):
    wrong = [i for i, c in enumerate(code(nb)) if any(o['output_type'] == 'error' for o in c.get('outputs', []))]
    assert wrong == []


@each
def test_figures_are_shown(nb):
    wrong = [i for i, c in enumerate(code(nb)) for o in c.get('outputs', []) if ''.join(o.get('data', {}).get('text/plain', '')).startswith('<Figure') and not any(k.startswith('image/') for k in o['data'])]
    assert wrong == [], 'saved without their images: run the notebook in Jupyter, not with MPLBACKEND=Agg'


@each
def test_no_paths_of_a_machine(nb):
    wrong = {i: m[0] for i, c in enumerate(code(nb)) if (m := MACHINE_PATH.search(texts(c)))}
    assert wrong == {}


def test_the_search_for_paths_finds_them():
    cell = {'outputs': [{'output_type': 'stream', 'text': ['saved to ', '/tmp/x7/run\n']}]}
    assert MACHINE_PATH.search(texts(cell)) and not MACHINE_PATH.search('https://example.org/home/x and data/tmp/x')
    html = {'outputs': [{'output_type': 'display_data', 'data': {'text/html': '<img src="data:image/png;base64,ab/tmp/cd">', 'image/png': '/tmp/ab'}}]}
    assert not MACHINE_PATH.search(texts(html))


def crowded(source:str) -> list[str]:
    "The names in an exported cell that defines more than one thing, unless all of them are private helpers"
    tree = ast.parse('\n'.join(l for l in source.splitlines() if not l.lstrip().startswith(('%', '!'))))
    defs = [n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))]
    return defs if len(defs) > 1 and not all(d.startswith('_') for d in defs) else []


@each
def test_one_symbol_a_cell(nb):
    sources = [''.join(c['source']) for c in code(nb)]
    wrong = {i: names for i, s in enumerate(sources) if re.match(r'#\| *export', s.lstrip()) and (names := crowded(s))}
    assert wrong == {}


def test_the_search_for_crowded_cells_finds_them():
    assert crowded('def a(): pass\nclass B: pass') == ['a', 'B'] and not crowded('@patch\ndef a(): pass\nX = 1') and not crowded('def _a(): pass\ndef _b(): pass')


@pytest.mark.parametrize('renderer, file', [('.ci/readme.py', 'README.md'), ('.ci/readme.py', 'MODEL_CARD.md'), ('benchmarks/results.py', 'benchmarks/RESULTS.md')])
def test_rendered_pages_are_in_step(renderer, file, tmp_path):
    subprocess.run([sys.executable, ROOT/renderer, tmp_path], cwd=ROOT, check=True, capture_output=True, text=True)
    assert (tmp_path/file.split("/")[-1]).read_text(encoding='utf-8') == (ROOT/file).read_text(encoding='utf-8'), f'{file} is old: make readme'
