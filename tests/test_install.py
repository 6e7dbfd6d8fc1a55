"The installed package: all modules, all commands, the requirements of settings.ini, and nothing else"
import importlib.util, os, re, shutil, subprocess, sys, tarfile, zipfile
from configparser import ConfigParser
from email import message_from_string
from importlib.metadata import entry_points
from pathlib import Path

import pytest, yaml
from packaging.requirements import Requirement

from helpers import PACKAGE, ROOT, scripts, settings

MODULES = {f.relative_to(ROOT).as_posix() for f in PACKAGE.rglob('*.py')}
FILES = MODULES | {'har_fastai/py.typed'}
SDIST = {'setup.py', 'settings.ini', 'MANIFEST.in', 'README.md', 'LICENSE', 'CHANGELOG.md', 'CITATION.cff'}
NOT_COPIED = {'build', 'dist', 'runs', '__pycache__', '_docs', '_proc'}
slow = pytest.mark.slow('package builds')


def test_the_versions_agree():
    cff, version = yaml.safe_load((ROOT/'CITATION.cff').read_text(encoding='utf-8')), settings()['version']
    assert cff['version'] == version and f'## {version}' in (ROOT/'CHANGELOG.md').read_text(encoding='utf-8')


def test_the_installed_package_has_all_commands():
    installed = {e.name: e.value for e in entry_points(group='console_scripts') if e.value.startswith('har_fastai.')}
    assert installed == {n: ':'.join(t) for n, t in scripts().items()}, 'install again: pip install -e .[dev]'


# ---- the wheel and the sdist ----

def not_copied(folder, names): return [n for n in names if n[0] == '.' or n.endswith('.egg-info') or n in NOT_COPIED]


def build(source, to, kind) -> str:
    "Build an sdist or a wheel with the packages that are installed here"
    argv = [sys.executable, '-m', 'build', f'--{kind}', '--no-isolation', '--outdir', to, source]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr.strip()[-800:]
    [file] = [f for f in Path(to).iterdir() if f.suffix in ('.gz', '.whl')]
    return str(file)


@pytest.fixture(scope='module')
def built(shared):
    """The wheel, the sdist, and the model files that they must hold, built from a copy of the repository

    The copy has a model and an image in a folder for shipped models, whether or not the checkout has models."""
    for need in ('build', 'setuptools'):
        if importlib.util.find_spec(need) is None: pytest.skip(f'{need} is not installed, and tests use no network')
    def make(to):
        shutil.copytree(ROOT, to/'source', ignore=not_copied)
        model = to/'source'/'har_fastai'/'shipped'/'probe'; model.mkdir(parents=True)
        for name in ('probe.safetensors', 'probe.json', 'probe.npy', 'probe.onnx', 'probe.png'): (model/name).write_bytes(b'0')
        kinds = ('.safetensors', '.json', '.npy', '.onnx')
        files = [f'har_fastai/shipped/{f.parent.name}/{f.name}' for f in model.parent.glob('*/*') if f.suffix in kinds]
        return dict(model=files, wheel=build(to/'source', to/'wheel', 'wheel'), sdist=build(to/'source', to/'sdist', 'sdist'))
    return shared('packages', make)


@pytest.fixture
def wheel(built):
    with zipfile.ZipFile(built['wheel']) as z: yield z


def meta(wheel, name) -> str:
    [file] = [n for n in wheel.namelist() if n.endswith(f'.dist-info/{name}')]
    return wheel.read(file).decode()


@slow
def test_the_wheel_holds_the_package_and_nothing_else(wheel, built):
    inside = {n for n in wheel.namelist() if '.dist-info/' not in n}
    assert inside == FILES | set(built['model'])


@slow
def test_the_sdist_holds_what_a_build_needs_and_nothing_else(built):
    with tarfile.open(built['sdist']) as t: inside = {m.name.partition('/')[2] for m in t.getmembers() if m.isfile()}
    made = {n for n in inside if n.startswith('har_fastai.egg-info/')} | {'PKG-INFO', 'setup.cfg'}
    assert inside - made == FILES | set(built['model']) | SDIST


@slow
def test_the_sdist_can_be_built_from(built, tmp_path):
    with tarfile.open(built['sdist']) as t: t.extractall(tmp_path/'unpacked', filter='data')
    [folder] = (tmp_path/'unpacked').iterdir()
    with zipfile.ZipFile(build(folder, tmp_path/'again', 'wheel')) as z: assert FILES | set(built['model']) <= set(z.namelist())


@slow
def test_twine_check_passes(built):
    if importlib.util.find_spec('twine') is None: pytest.skip('twine is not installed, and tests use no network')
    argv = [sys.executable, '-m', 'twine', 'check', '--strict', built['wheel'], built['sdist']]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@slow
def test_the_page_on_pypi_needs_no_repository(wheel):
    text = message_from_string(meta(wheel, 'METADATA')).get_payload()
    links = re.findall(r'\]\(([^)\s]+)', text)
    assert len(links) > 20 and [l for l in links if not l.startswith(('https://', '#'))] == []
    assert any('/raw/main/nbs/images/' in l for l in links)


@slow
def test_the_wheel_has_all_commands(wheel):
    config = ConfigParser(); config.optionxform = str
    config.read_string(meta(wheel, 'entry_points.txt'))
    assert dict(config['console_scripts']) == {n: ':'.join(t) for n, t in scripts().items()}
    assert dict(config['nbdev']) == {'har_fastai': 'har_fastai._modidx:d'}


@slow
def test_the_wheel_requires_what_settings_list(wheel):
    m, ini = message_from_string(meta(wheel, 'METADATA')), settings()
    required = [Requirement(r) for r in m.get_all('Requires-Dist')]
    def named(reqs): return sorted((r.name, str(r.specifier)) for r in reqs)
    def listed(key): return named(map(Requirement, ini[key].split()))
    assert named(r for r in required if not r.marker) == listed('requirements')
    extras = {k.removesuffix('_requirements') for k in ini if k.endswith('_requirements')}
    assert set(m.get_all('Provides-Extra')) == extras >= {'dev', 'download'}
    for e in extras: assert named(r for r in required if r.marker and r.marker.evaluate({'extra': e})) == listed(f'{e}_requirements')


@slow
def test_the_metadata_are_those_of_settings(wheel):
    m, ini = message_from_string(meta(wheel, 'METADATA')), settings()
    expected = (ini['lib_name'], ini['version'], f'>={ini["min_python"]}', ini['description'])
    assert (m['Name'], m['Version'], m['Requires-Python'], m['Summary']) == expected
    assert m.get_payload().strip(), 'README.md is empty, so the page on PyPI would be too'


IMPORT_ALL = '''import importlib, pkgutil, har_fastai
for m in pkgutil.walk_packages(har_fastai.__path__, 'har_fastai.'): print(importlib.import_module(m.name).__file__)
from har_fastai.drawing.dataset import draw_har; draw_har('d', n=15, size=32, test=0)
print(har_fastai.__version__)'''


@slow
def test_the_wheel_works_elsewhere(wheel, tmp_path):
    wheel.extractall(tmp_path/'site'); (tmp_path/'elsewhere').mkdir()
    env = {**os.environ, 'PYTHONPATH': str(tmp_path/'site')}
    done = subprocess.run([sys.executable, '-c', IMPORT_ALL], cwd=tmp_path/'elsewhere', env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *files, version = done.stdout.splitlines()
    imported = {Path(f).relative_to(tmp_path/'site').as_posix() for f in files}
    assert imported == MODULES - {'har_fastai/__init__.py'} and version == settings()['version']
    assert len(list((tmp_path/'elsewhere'/'d'/'train').iterdir())) == 15


def test_the_conda_recipe_agrees_with_the_settings():
    recipe = yaml.safe_load((ROOT/'conda'/'meta.yaml').read_text(encoding='utf-8').replace('{{ PYTHON }}', 'python'))
    names, own = {'pytorch': 'torch', 'matplotlib-base': 'matplotlib'}, settings()
    def pip_name(line):
        name, _, versions = line.partition(' ')
        return names.get(name, name) + versions
    assert {pip_name(r) for r in recipe['requirements']['run']} == {*own['requirements'].split(), f'python>={own["min_python"]}'}
    assert {e.replace(' ', '') for e in recipe['build']['entry_points']} == {*own['console_scripts'].split()}
    assert recipe['package']['version'] == own['version']
