"The notebooks are clean, consistent with the modules, and readable"
import ast, json, re, shutil, subprocess, sys

import pytest

from helpers import NBS, PACKAGE, ROOT, notebooks

NOTEBOOKS = notebooks()
each = pytest.mark.parametrize('nb', NOTEBOOKS, ids=lambda p: p.relative_to(NBS).as_posix())
MAX_BYTES = 1_500_000
MACHINE_PATH = re.compile(r'(?<![\w.~-])/(?:tmp|work|root|home|Users)/[\w.-]+')


def load(nb): return json.loads(nb.read_text(encoding='utf-8'))
def code(nb): return [c for c in load(nb)['cells'] if c['cell_type'] == 'code']


def test_there_are_notebooks(): assert len(NOTEBOOKS) >= 13


@pytest.mark.skipif(not (ROOT/'.git').exists(), reason='not a git repository')
def test_git_ignores_no_source():
    "A pattern such as data/ in .gitignore would keep a package of that name out of the repository"
    files = [*NOTEBOOKS, *PACKAGE.rglob('*.py'), *(ROOT/'tests').rglob('*.py')]
    done = subprocess.run(['git', 'check-ignore', *map(str, files)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == []


# ---- consistent with modules and rendered pages ----

@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A copy of the files that nbdev reads and writes"
    to = tmp_path_factory.mktemp('copy')/'repository'
    shutil.copytree(NBS, to/'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints', '_proc', '_quarto.yml'))
    shutil.copytree(PACKAGE, to/'har_fastai', ignore=shutil.ignore_patterns('__pycache__'))
    for f in ('settings.ini', 'setup.py', '_quarto.yml', 'README.md'): shutil.copy(ROOT/f, to/f)
    return to


def nbdev(module, func, folder):
    "Run a command of nbdev in `folder`"
    code = f'from {module} import {func}; {func}()'
    subprocess.run([sys.executable, '-c', code], cwd=folder, check=True, capture_output=True, text=True)


def differing(a, b, pattern):
    "Names of the files that are not the same in two folders"
    found = (f.relative_to(r) for r in (a, b) for f in r.rglob(pattern))
    names = {f.as_posix() for f in found if not {'.ipynb_checkpoints', '_proc'} & set(f.parts)}
    def equal(n): return (a/n).is_file() and (b/n).is_file() and (a/n).read_bytes() == (b/n).read_bytes()
    return sorted(n for n in names if not equal(n))


def test_notebooks_are_clean(copy):
    name = NOTEBOOKS[0].relative_to(NBS).as_posix()
    dirty = copy/'nbs'/name # shows that cleaning has an effect
    text = dirty.read_text(encoding='utf-8')
    dirty.write_text(re.sub('"execution_count": null', '"execution_count": 7', text, count=1), encoding='utf-8')
    assert differing(copy/'nbs', NBS, '*.ipynb') == [name]
    nbdev('nbdev.clean', 'nbdev_clean', copy)
    assert differing(copy/'nbs', NBS, '*.ipynb') == []


def test_modules_match_their_notebooks(copy):
    assert differing(copy/'har_fastai', PACKAGE, '*.py') == []
    for f in (copy/'har_fastai').rglob('*.py'): # otherwise a module that is no longer exported would go unnoticed
        if f.name != '__init__.py': f.unlink()
    nbdev('nbdev.doclinks', 'nbdev_export', copy)
    assert differing(copy/'har_fastai', PACKAGE, '*.py') == []


@pytest.fixture(scope='module')
def rendered(tmp_path_factory):
    "README.md, MODEL_CARD.md, llms.txt and RESULTS.md, rendered again"
    to = tmp_path_factory.mktemp('rendered')
    for script in ('.ci/readme.py', 'benchmarks/results.py'):
        subprocess.run([sys.executable, ROOT/script, to], cwd=ROOT, check=True, capture_output=True, text=True)
    return to


@pytest.mark.parametrize('file', ['README.md', 'MODEL_CARD.md', 'llms.txt', 'benchmarks/RESULTS.md'])
def test_rendered_pages_are_up_to_date(rendered, file):
    new = (rendered/file.split('/')[-1]).read_text(encoding='utf-8')
    assert new == (ROOT/file).read_text(encoding='utf-8'), f'{file} is out of date: make readme'


@pytest.mark.parametrize('page', ['README.md', 'MODEL_CARD.md'])
def test_images_of_a_rendered_page_exist(page):
    "They exist, and git does not ignore them (if this is a git repository)"
    images = re.findall(r'!\[.*?\]\((?!https?:)(.+?)\)', (ROOT/page).read_text(encoding='utf-8'))
    assert images and [s for s in images if not (ROOT/s).is_file()] == []
    if (ROOT/'.git').exists():
        ignored = subprocess.run(['git', 'check-ignore', *images], cwd=ROOT, capture_output=True, text=True).stdout
        assert ignored == ''


# ---- each notebook ----

@each
def test_size(nb): assert nb.stat().st_size < MAX_BYTES, 'outputs are too large: make figures smaller or fewer'


@each
def test_title(nb):
    first = load(nb)['cells'][0]
    text = ''.join(first['source'])
    if first['cell_type'] == 'raw': pytest.fail('the first cell must be markdown with a title and a subtitle')
    assert re.fullmatch(r'# \S.*\n\n?> \S.*\n*', text), f'a title and a subtitle; the site leaves out other text of this cell: {text[:200]}'


@each
def test_kernel(nb): assert load(nb)['metadata']['kernelspec']['name'] == 'python3'


@each
def test_no_error_outputs(nb):
    wrong = [i for i, c in enumerate(code(nb)) if any(o['output_type'] == 'error' for o in c.get('outputs', []))]
    assert wrong == []


def is_lost_figure(output) -> bool:
    "Whether a figure was saved as text only"
    data = output.get('data', {})
    return ''.join(data.get('text/plain', '')).startswith('<Figure') and not any(k.startswith('image/') for k in data)


@each
def test_figures_are_saved(nb):
    wrong = [i for i, c in enumerate(code(nb)) for o in c.get('outputs', []) if is_lost_figure(o)]
    assert wrong == [], 'saved without their images: run the notebook in Jupyter, not with MPLBACKEND=Agg'


def texts(cell) -> str:
    "All text in the outputs of a cell, without the images in it"
    found = []
    for o in cell.get('outputs', []):
        found += [o.get('text', '')] + [v for k, v in o.get('data', {}).items() if not k.startswith('image/')]
    def flat(v): return v if isinstance(v, str) else ''.join(map(str, v)) if isinstance(v, list) else json.dumps(v)
    return re.sub(r'data:[\w/+.-]+;base64,[\w+/=\s]+', '', '\n'.join(map(flat, found)))


@each
def test_no_paths_of_a_machine(nb):
    wrong = {i: m[0] for i, c in enumerate(code(nb)) if (m := MACHINE_PATH.search(texts(c)))}
    assert wrong == {}


def test_the_search_for_paths_finds_them():
    cell = {'outputs': [{'output_type': 'stream', 'text': ['saved to ', '/tmp/x7/run\n']}]}
    assert MACHINE_PATH.search(texts(cell)) and not MACHINE_PATH.search('https://example.org/home/x and data/tmp/x')
    data = {'text/html': '<img src="data:image/png;base64,ab/tmp/cd">', 'image/png': '/tmp/ab'}
    assert not MACHINE_PATH.search(texts({'outputs': [{'output_type': 'display_data', 'data': data}]}))


def crowded(source:str) -> list[str]:
    "The names in an exported cell that defines more than one thing, unless all of them are private helpers"
    tree = ast.parse('\n'.join(l for l in source.splitlines() if not l.lstrip().startswith(('%', '!'))))
    defs = [n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))]
    return defs if len(defs) > 1 and not all(d.startswith('_') for d in defs) else []


@each
def test_one_symbol_per_cell(nb):
    sources = [''.join(c['source']) for c in code(nb)]
    wrong = {i: names for i, s in enumerate(sources) if re.match(r'#\| *export', s.lstrip()) and (names := crowded(s))}
    assert wrong == {}


def test_the_search_for_crowded_cells_finds_them():
    assert crowded('def a(): pass\nclass B: pass') == ['a', 'B']
    assert not crowded('@patch\ndef a(): pass\nX = 1') and not crowded('def _a(): pass\ndef _b(): pass')
