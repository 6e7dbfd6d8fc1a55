"Arrows between rooms point one way, light rooms stay light, and nothing grows too long"
import ast, json, re, subprocess, sys
from pathlib import Path

import pytest

from helpers import NBS, PACKAGE

FASTAI_ROOMS = {'augment', 'batch_augment', 'loaders', 'speed', 'schedule', 'training', 'evaluate', 'explain', 'report', 'core'} # every other room must be light
APART = {'inference', 'apps', 'webapp', 'service'} # must work without what trains
HEAVY = {'fastai', 'torchvision'}
MAX_CELL, MAX_MODULE = 60, 350 # lines


def code_cells(nb:Path) -> list[str]:
    return [''.join(c['source']) for c in json.loads(nb.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']


def numbers(nbs:Path) -> dict[str, int]:
    "The number of each module, from the name of the notebook that exports it"
    return {m[1]: int(nb.name.split('_')[0]) for nb in sorted(nbs.glob('[0-9]*.ipynb'))
            for c in code_cells(nb) if (m := re.search(r'^#\| *default_exp +(\S+)', c, re.M))}


def imported(file:Path, package='har_fastai') -> set[str]:
    "The modules of the package that `file` imports, at the top or inside functions"
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        names = []
        if isinstance(node, ast.Import): names = [a.name for a in node.names]
        if isinstance(node, ast.ImportFrom):
            base = package + ('.' + node.module if node.module else '') if node.level else node.module
            names = [f'{base}.{a.name}' for a in node.names] if base == package else [base]
        found |= {n.split('.')[1] for n in names if n.startswith(package + '.')}
    return found - {'__version__'}


def upward(package:Path, number:dict[str, int]) -> list[str]:
    "Imports that do not go to a lower number"
    return [f'{m} ({number[m]}) imports {to} ({number.get(to, "no notebook")})' for m in number
            for to in sorted(imported(package/f'{m}.py')) if number.get(to, 999) >= number[m]]


def test_each_module_has_one_notebook():
    modules = {f.stem for f in PACKAGE.glob('*.py')} - {'__init__', '_modidx'}
    assert modules == set(numbers(NBS))


def test_imports_go_to_lower_numbers(): assert upward(PACKAGE, numbers(NBS)) == []


@pytest.mark.parametrize('line', ['from .training import Recipe', 'from har_fastai.training import Recipe', 'import har_fastai.training', 'from . import training',
                                  'def f():\n    from har_fastai import training', 'from .data import x', 'from .unknown import x'])
def test_the_check_sees_an_upward_import(tmp_path, line):
    (tmp_path/'data.py').write_text(f'from .files import HARError\n{line}\n')
    (tmp_path/'training.py').write_text('from .data import read_har\n'); (tmp_path/'files.py').write_text('import os\n')
    assert len(upward(tmp_path, dict(files=0, data=3, training=25))) == 1


def test_rooms_apart_import_nothing_that_trains():
    wrong = {m: bad for m in APART if (PACKAGE/f'{m}.py').exists() and (bad := imported(PACKAGE/f'{m}.py') & {'core', 'training', 'loaders', 'augment'})}
    assert wrong == {}


def test_nothing_imports_the_commands():
    assert [f.stem for f in PACKAGE.glob('*.py') if 'cli' in imported(f)] == []


def arrivals(modules:list[str], watch:set[str]) -> dict[str, list[str]]:
    "Which packages of `watch` are in memory after importing each module in turn, in a process of its own"
    code = (f'import importlib, json, sys\nseen = {{}}\nfor m in {modules!r}:\n    importlib.import_module(m)\n'
            f'    seen[m] = sorted({watch!r} & set(sys.modules))\nprint(json.dumps(seen))')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_light_rooms_load_no_fastai():
    light = [f'har_fastai.{m}' for m, _ in sorted(numbers(NBS).items(), key=lambda kv: kv[1]) if m not in FASTAI_ROOMS]
    assert {'har_fastai.files', 'har_fastai.data', 'har_fastai.sample', 'har_fastai.models', 'har_fastai.runs', 'har_fastai.inference', 'har_fastai.cli'} <= set(light)
    arrived = arrivals(light, HEAVY) # together: if none of them brings fastai, then each of them is light
    assert {m: a for m, a in arrived.items() if a} == {}


def test_the_rooms_apart_bring_no_training():
    apart = [f'har_fastai.{m}' for m in sorted(APART) if (PACKAGE/f'{m}.py').exists()]
    assert not any(arrivals(apart, {'har_fastai.core', 'har_fastai.training'}).values())


def test_the_watch_sees_a_heavy_import():
    assert arrivals(['har_fastai.files', 'torchvision'], HEAVY) == {'har_fastai.files': [], 'torchvision': ['torchvision']}


def test_no_exported_cell_is_long():
    long = {f'{nb.name}, cell {i}': n for nb in NBS.rglob('*.ipynb') for i, c in enumerate(code_cells(nb))
            if re.match(r'#\| *export', c.lstrip()) and (n := len(c.splitlines())) > MAX_CELL}
    assert long == {}


def test_no_module_is_long():
    long = {f.name: n for f in PACKAGE.glob('*.py') if f.name != '_modidx.py' and (n := len(f.read_text(encoding='utf-8').splitlines())) > MAX_MODULE}
    assert long == {}


def public_names(package:Path) -> dict[str, list[str]]:
    "Each public name, and the modules that have it"
    found = {}
    for file in sorted(package.glob('*.py')):
        told = re.search(r'__all__ = (\[.*?\])', file.read_text(encoding='utf-8'), re.S)
        for name in ast.literal_eval(told[1]) if told else (): found.setdefault(name, []).append(file.stem)
    return found


def test_a_public_name_means_one_thing():
    assert {n: ms for n, ms in public_names(PACKAGE).items() if len(ms) > 1} == {}, 'the site links a name to one place'


def test_a_name_twice_is_seen(tmp_path):
    for m in 'ab': (tmp_path/f'{m}.py').write_text("__all__ = ['one',\n           'two']\n" if m == 'a' else "__all__ = ['two']\n")
    assert public_names(tmp_path) == {'one': ['a'], 'two': ['a', 'b']}
