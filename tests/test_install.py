"What pip installs: all modules, all commands, the requirements of settings.ini, and nothing else"
import importlib.util, os, shutil, subprocess, sys, tarfile, zipfile
from configparser import ConfigParser
from email import message_from_string
from importlib.metadata import entry_points
from pathlib import PurePosixPath

import pytest
from packaging.requirements import Requirement

from helpers import PACKAGE, ROOT, scripts, settings

MODULES = {f.name for f in PACKAGE.glob('*.py')}


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    "A copy of the repository, so that building leaves nothing behind in it"
    for need in ('build', 'setuptools'):
        if importlib.util.find_spec(need) is None: pytest.skip(f'{need} is not installed, and tests use no network')
    to = tmp_path_factory.mktemp('source')/'repository'
    shutil.copytree(ROOT, to, ignore=lambda folder, names: [n for n in names if n.startswith('.') or n.endswith('.egg-info') or n in ('build', 'dist', 'runs', '__pycache__', '_docs', '_proc')])
    return to


def build(source, to, kind):
    "Build an sdist or a wheel with what is installed here"
    done = subprocess.run([sys.executable, '-m', 'build', f'--{kind}', '--no-isolation', '--outdir', to, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr.strip()[-800:]
    [file] = [f for f in to.iterdir() if f.suffix in ('.gz', '.whl')]
    return file


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    with zipfile.ZipFile(build(source, tmp_path_factory.mktemp('wheel'), 'wheel')) as z: yield z


def meta(wheel, name) -> str:
    [file] = [n for n in wheel.namelist() if n.endswith(f'.dist-info/{name}')]
    return wheel.read(file).decode()


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    inside = {n for n in wheel.namelist() if '.dist-info/' not in n}
    assert {PurePosixPath(n).parts[0] for n in inside} == {'har_fastai'}
    assert {PurePosixPath(n).name for n in inside if n.endswith('.py') and n.count('/') == 1} == MODULES
    assert [n for n in wheel.namelist() if n.endswith(('.ipynb', '.pyc')) or 'test_bad' in n or '/nbs/' in n] == []


def test_the_wheel_has_all_commands(wheel):
    config = ConfigParser(); config.optionxform = str
    config.read_string(meta(wheel, 'entry_points.txt'))
    assert dict(config['console_scripts']) == {n: ':'.join(t) for n, t in scripts().items()}
    assert dict(config['nbdev']) == {'har_fastai': 'har_fastai._modidx:d'}


def test_the_installed_package_has_all_commands():
    installed = {e.name: e.value for e in entry_points(group='console_scripts') if e.value.startswith('har_fastai.')}
    assert installed == {n: ':'.join(t) for n, t in scripts().items()}, 'install anew: pip install -e .[dev]'


def test_the_wheel_asks_for_what_settings_say(wheel):
    m, ini = message_from_string(meta(wheel, 'METADATA')), settings()
    asked = [Requirement(r) for r in m.get_all('Requires-Dist')]
    def named(reqs): return sorted((r.name, str(r.specifier)) for r in reqs)
    def told(key): return named(map(Requirement, ini[key].split()))
    assert named(r for r in asked if not r.marker) == told('requirements')
    extras = {k.removesuffix('_requirements') for k in ini if k.endswith('_requirements')}
    assert set(m.get_all('Provides-Extra')) == extras >= {'dev', 'download'}
    for e in extras: assert named(r for r in asked if r.marker and r.marker.evaluate({'extra': e})) == told(f'{e}_requirements')


def test_the_metadata_are_those_of_settings(wheel):
    m, ini = message_from_string(meta(wheel, 'METADATA')), settings()
    assert (m['Name'], m['Version'], m['Requires-Python'], m['Summary']) == (ini['lib_name'], ini['version'], f'>={ini["min_python"]}', ini['description'])
    assert m.get_payload().strip(), 'the page on PyPI would be empty: README.md is'


def test_the_wheel_works_elsewhere(wheel, tmp_path):
    wheel.extractall(tmp_path/'site'); (tmp_path/'elsewhere').mkdir()
    code = ('import importlib, pathlib, pkgutil, har_fastai\n'
            'for m in pkgutil.iter_modules(har_fastai.__path__): print(importlib.import_module(f"har_fastai.{m.name}").__file__)\n'
            'from har_fastai.sample import draw_har; draw_har("d", n=15, size=32, test=0)\nprint(har_fastai.__version__)')
    env = {**os.environ, 'PYTHONPATH': str(tmp_path/'site')}
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path/'elsewhere', env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *files, version = done.stdout.splitlines()
    assert len(files) == len(MODULES) - 1 and all(f.startswith(str(tmp_path/'site')) for f in files) and version == settings()['version']
    assert len(list((tmp_path/'elsewhere'/'d'/'train').iterdir())) == 15


def test_the_sdist_can_be_built_from(source, tmp_path):
    (tmp_path/'sdist').mkdir(); (tmp_path/'again').mkdir()
    with tarfile.open(build(source, tmp_path/'sdist', 'sdist')) as t: t.extractall(tmp_path/'unpacked', filter='data')
    [folder] = (tmp_path/'unpacked').iterdir()
    assert {'setup.py', 'settings.ini', 'README.md', 'LICENSE'} <= {f.name for f in folder.iterdir()}
    with zipfile.ZipFile(build(folder, tmp_path/'again', 'wheel')) as z: assert {f'har_fastai/{m}' for m in MODULES} <= set(z.namelist())
