"What pip installs: all modules, all commands, the requirements of settings.ini, and nothing else"
import importlib.util, os, re, shutil, subprocess, sys, tarfile, zipfile
from configparser import ConfigParser
from email import message_from_string
from importlib.metadata import entry_points
from pathlib import PurePosixPath

import pytest, yaml
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
    shutil.rmtree(to/'har_fastai.egg-info', ignore_errors=True)
    return to


def build(source, to, kind):
    "Build an sdist or a wheel with what is installed here"
    done = subprocess.run([sys.executable, '-m', 'build', f'--{kind}', '--no-isolation', '--outdir', to, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr.strip()[-800:]
    [file] = [f for f in to.iterdir() if f.suffix in ('.gz', '.whl')]
    return file


@pytest.fixture(scope='module')
def shipped_model(source):
    "A model to come with the package, whether or not the checkout has one, and a file that must not come"
    to = source/'har_fastai'/'shipped'; to.mkdir(exist_ok=True)
    for name in ('probe.safetensors', 'probe.json', 'probe.png'): (to/name).write_bytes(b'0')
    return {f'har_fastai/shipped/{f.name}' for f in to.iterdir() if f.suffix in ('.safetensors', '.json')}


@pytest.fixture(scope='module')
def packed(source, shipped_model, tmp_path_factory):
    "The wheel and the sdist"
    return [build(source, tmp_path_factory.mktemp(kind), kind) for kind in ('wheel', 'sdist')]


@pytest.fixture(scope='module')
def wheel(packed):
    with zipfile.ZipFile(packed[0]) as z: yield z


def meta(wheel, name) -> str:
    [file] = [n for n in wheel.namelist() if n.endswith(f'.dist-info/{name}')]
    return wheel.read(file).decode()


def test_the_wheel_holds_the_package_and_nothing_else(wheel, shipped_model):
    inside = {n for n in wheel.namelist() if '.dist-info/' not in n}
    assert inside == {f'har_fastai/{m}' for m in MODULES} | shipped_model


def test_the_sdist_holds_what_a_build_needs_and_nothing_else(packed, shipped_model):
    with tarfile.open(packed[1]) as t: inside = {m.name.partition('/')[2] for m in t.getmembers() if m.isfile()}
    made = {n for n in inside if n.startswith('har_fastai.egg-info/')} | {'PKG-INFO', 'setup.cfg'}
    assert inside - made == {f'har_fastai/{m}' for m in MODULES} | shipped_model | {'setup.py', 'settings.ini', 'MANIFEST.in', 'README.md', 'LICENSE', 'CHANGELOG.md', 'CITATION.cff'}


def test_twine_finds_nothing_to_complain_of(packed):
    if importlib.util.find_spec('twine') is None: pytest.skip('twine is not installed, and tests use no network')
    done = subprocess.run([sys.executable, '-m', 'twine', 'check', '--strict', *packed], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_page_on_pypi_needs_no_repository(wheel):
    text = message_from_string(meta(wheel, 'METADATA')).get_payload()
    links = re.findall(r'\]\(([^)\s]+)', text)
    assert len(links) > 20 and [l for l in links if not l.startswith(('https://', '#'))] == []
    assert any('/raw/main/nbs/images/' in l for l in links)


def test_the_versions_agree():
    cff, version = yaml.safe_load((ROOT/'CITATION.cff').read_text(encoding='utf-8')), settings()['version']
    assert cff['version'] == version and f'## {version}' in (ROOT/'CHANGELOG.md').read_text(encoding='utf-8')


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
            'from har_fastai.drawing.dataset import draw_har; draw_har("d", n=15, size=32, test=0)\nprint(har_fastai.__version__)')
    env = {**os.environ, 'PYTHONPATH': str(tmp_path/'site')}
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path/'elsewhere', env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *files, version = done.stdout.splitlines()
    assert len(files) == len(MODULES) - 1 and all(f.startswith(str(tmp_path/'site')) for f in files) and version == settings()['version']
    assert len(list((tmp_path/'elsewhere'/'d'/'train').iterdir())) == 15


def test_the_sdist_can_be_built_from(packed, shipped_model, tmp_path):
    (tmp_path/'again').mkdir()
    with tarfile.open(packed[1]) as t: t.extractall(tmp_path/'unpacked', filter='data')
    [folder] = (tmp_path/'unpacked').iterdir()
    with zipfile.ZipFile(build(folder, tmp_path/'again', 'wheel')) as z: assert {f'har_fastai/{m}' for m in MODULES} | shipped_model <= set(z.namelist())
