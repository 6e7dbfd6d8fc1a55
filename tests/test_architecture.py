"Imports follow the layers, light modules import nothing heavy, and modules, functions and lines are short"
import ast, json, re, subprocess, sys
from pathlib import Path
from statistics import median

import pytest

from helpers import NBS, PACKAGE, ROOT

# each layer imports only from earlier ones; within a package, modules import only from those with a lower number
LAYERS = ['files', 'command', 'images', 'figures', 'efficientnet_lite', 'models', 'distributed', 'drawing', 'data', 'train',
          'predict', 'pose', 'evaluate', 'explain', 'report', 'fusion', 'serve', 'core', 'estimators', 'curate', 'scale', 'cli']
APART = {'testing', 'docs'} # for tests and the site; no module that users call imports them
PREDICTS = {'predict', 'explain', 'serve'} # must work without the training code
FASTAI = {'data.augment', 'data.batch_augment', 'data.loaders', 'train.optim', 'train.callbacks', 'train.probe', 'train.learner',
          'train.distillation', 'train.pretraining', 'train.parallel', 'train.tracking', 'evaluate.interpretation', 'fusion.training',
          'fusion.fuse', 'core', 'estimators'}
HEAVY = {'fastai', 'torchvision'}
MAX_CELL, MAX_MODULE, MAX_LINE, MAX_FUNCTION = 80, 500, 140, 50 # lines, lines, columns, lines


def code_cells(nb:Path) -> list[str]:
    return [''.join(c['source']) for c in json.loads(nb.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']


def notebooks(nbs:Path) -> dict[str, Path]:
    "The notebook of each module, such as data/03_checks.ipynb of data.checks"
    found = ((nb, re.search(r'^#\| *default_exp +(\S+)', c, re.M)) for nb in sorted(nbs.rglob('[0-9]*.ipynb')) for c in code_cells(nb))
    return {m[1]: nb for nb, m in found if m}


def modules(package:Path) -> dict[str, Path]:
    "The file of each module, by its dotted name within the package"
    files = (f for f in package.rglob('*.py') if f.name not in ('__init__.py', '_modidx.py'))
    return {'.'.join(f.relative_to(package).with_suffix('').parts): f for f in files}


def imported(package:Path, module:str) -> set[str]:
    "The modules of the package that `module` imports, at the top or inside functions"
    here, known, found = ['har_fastai', *module.split('.')[:-1]], modules(package), set()
    for node in ast.walk(ast.parse(known[module].read_text(encoding='utf-8'))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            base = '.'.join([*here[:len(here) - node.level + 1], *([node.module] if node.module else [])]) if node.level else node.module
            names = [base] if base.removeprefix('har_fastai.') in known else [f'{base}.{a.name}' for a in node.names]
        found |= {n.removeprefix('har_fastai.') for n in names if n.startswith('har_fastai.')}
    return found - {'__version__'}


def place(module:str, numbers:dict[str, int]) -> tuple:
    "The position of a module: its layer, and its number within the package"
    top = module.split('.')[0]
    return (LAYERS.index(top) if top in LAYERS else len(LAYERS), numbers.get(module, 999))


def upward(package:Path, numbers:dict[str, int]) -> list[str]:
    "Imports of modules that are not at a lower position"
    return [f'{m} imports {to}' for m in modules(package) if m.split('.')[0] not in APART
            for to in sorted(imported(package, m)) if place(to, numbers) >= place(m, numbers)]


def numbers() -> dict[str, int]: return {m: int(nb.name.split('_')[0]) for m, nb in notebooks(NBS).items()}


def test_a_module_and_its_notebook_are_found_from_each_other():
    expected = {m: '/'.join([*m.split('.')[:-1], f'{nb.name[:2]}_{m.split(".")[-1]}.ipynb']) for m, nb in notebooks(NBS).items()}
    assert {m: nb.relative_to(NBS).as_posix() for m, nb in notebooks(NBS).items()} == expected
    assert set(modules(PACKAGE)) == set(expected)


def test_notebooks_of_a_folder_have_numbers_of_their_own():
    places = [(nb.parent, nb.name.split('_')[0]) for nb in notebooks(NBS).values()]
    assert sorted(p for p in set(places) if places.count(p) > 1) == []


def test_imports_follow_the_layers(): assert upward(PACKAGE, numbers()) == []


@pytest.mark.parametrize('line', [
    'from ..train.learner import f', 'from har_fastai.train.learner import f', 'import har_fastai.train.learner',
    'from ..train import learner', 'from .. import core', 'def f():\n    from har_fastai.train import learner',
    'from .splits import x', 'from .unknown import x'])
def test_an_upward_import_is_seen(tmp_path, line):
    for d in ('data', 'train'): (tmp_path/d).mkdir()
    (tmp_path/'files.py').write_text('import os\n'); (tmp_path/'core.py').write_text('from .train.learner import f\n')
    (tmp_path/'train'/'learner.py').write_text('from ..data.tables import g\n')
    (tmp_path/'data'/'splits.py').write_text('from .tables import g\n')
    (tmp_path/'data'/'tables.py').write_text(f'from ..files import HARError\n{line}\n')
    assert len(upward(tmp_path, {'data.tables': 0, 'data.splits': 2, 'train.learner': 4})) == 1


def test_prediction_imports_nothing_that_trains():
    of = {m: imported(PACKAGE, m) for m in modules(PACKAGE) if m.split('.')[0] in PREDICTS}
    wrong = {m: bad for m, found in of.items() if (bad := {f for f in found if f.split('.')[0] in ('train', 'core') or f in FASTAI})}
    assert wrong == {}


def test_nothing_imports_the_commands_or_the_tools_of_tests():
    of = {m: imported(PACKAGE, m) for m in modules(PACKAGE) if m not in APART}
    wrong = {m: bad for m, found in of.items() if (bad := {f for f in found if f.startswith('cli') or f in APART})}
    assert wrong == {}


def loaded(names:list[str], watch:set[str]) -> dict[str, list[str]]:
    "Which packages of `watch` have been imported after importing each module in turn, in a process of its own"
    code = (f'import importlib, json, sys\nseen = {{}}\nfor m in {names!r}:\n    importlib.import_module(m)\n'
            f'    seen[m] = sorted({watch!r} & set(sys.modules))\nprint(json.dumps(seen))')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_light_modules_load_no_fastai():
    light = [f'har_fastai.{m}' for m in sorted(modules(PACKAGE), key=lambda m: place(m, numbers())) if m not in FASTAI]
    needed = {'files', 'data.checks', 'drawing.dataset', 'models', 'train.runs', 'predict.predictor', 'explain.gradcam', 'serve.web', 'cli'}
    assert {f'har_fastai.{m}' for m in needed} <= set(light)
    found = loaded(light, HEAVY) # all in one process: if none of them imports fastai, each of them is light
    assert {m: a for m, a in found.items() if a} == {}


def test_a_heavy_import_is_seen():
    assert loaded(['har_fastai.files', 'torchvision'], HEAVY) == {'har_fastai.files': [], 'torchvision': ['torchvision']}


def long_things(package:Path) -> list[str]:
    "Modules, lines and functions that are longer than allowed"
    found = []
    for m, file in modules(package).items():
        text = file.read_text(encoding='utf-8'); lines = text.splitlines()
        if len(lines) > MAX_MODULE: found.append(f'{m}: {len(lines)} lines')
        found += [f'{m}, line {i}: {len(l)} columns' for i, l in enumerate(lines, 1) if len(l) > MAX_LINE]
        functions = (n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
        found += [f'{m}.{n.name}: {k} lines' for n in functions if (k := n.end_lineno - n.lineno + 1) > MAX_FUNCTION]
    return found


def test_nothing_is_long(): assert long_things(PACKAGE) == []


def test_most_functions_are_short():
    trees = [ast.parse(f.read_text(encoding='utf-8')) for f in modules(PACKAGE).values()]
    functions = [n for t in trees for n in ast.walk(t) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert median(n.end_lineno - n.lineno + 1 for n in functions) <= 7


def test_no_line_of_the_tests_is_long():
    lines = {f'{f.name}, line {i}': len(l) for f in (ROOT/'tests').rglob('*.py')
             for i, l in enumerate(f.read_text(encoding='utf-8').splitlines(), 1)}
    assert {where: n for where, n in lines.items() if n > MAX_LINE} == {}


def test_long_things_are_seen(tmp_path):
    (tmp_path/'a.py').write_text('x = 1\n' * 501); (tmp_path/'b.py').write_text(f'x = {"1" * 137}\n')
    (tmp_path/'c.py').write_text('def f():\n' + '    pass\n' * 50)
    assert [t.split(':')[0] for t in sorted(long_things(tmp_path))] == ['a', 'b, line 1', 'c.f']


def test_no_exported_cell_is_long():
    long = {f'{nb.name}, cell {i}': n for nb in NBS.rglob('*.ipynb') for i, c in enumerate(code_cells(nb))
            if re.match(r'#\| *export', c.lstrip()) and (n := len(c.splitlines())) > MAX_CELL}
    assert long == {}


def public_names(package:Path) -> dict[str, list[str]]:
    "Each public name, and the modules that define it"
    found = {}
    for m, file in sorted(modules(package).items()):
        names = re.search(r'__all__ = (\[.*?\])', file.read_text(encoding='utf-8'), re.S)
        for name in ast.literal_eval(names[1]) if names else (): found.setdefault(name, []).append(m)
    return found


def test_a_public_name_is_defined_once():
    assert {n: ms for n, ms in public_names(PACKAGE).items() if len(ms) > 1} == {}, 'the site links each name to one definition'


def test_a_name_defined_twice_is_seen(tmp_path):
    for m in 'ab': (tmp_path/f'{m}.py').write_text("__all__ = ['one',\n           'two']\n" if m == 'a' else "__all__ = ['two']\n")
    assert public_names(tmp_path) == {'one': ['a'], 'two': ['a', 'b']}
