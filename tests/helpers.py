"Helpers shared by the tests: paths of the repository, commands, and generated images, tables and models"
import contextlib, csv, io, os, shutil, socket, subprocess, sys, warnings
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, NBS = ROOT/'har_fastai', ROOT/'nbs'
DATA = os.environ.get('HAR_DATA') # the folder of the Kaggle data set, for tests on photographs
REAL = [pytest.mark.skipif(not DATA, reason='HAR_DATA does not name the folder of the photographs'), pytest.mark.slow('photographs')]


def mostly_slow(values, quick, reason:str) -> list:
    "Parameters of a test of which only those in `quick` run in `make test`"
    return [v if v in quick else pytest.param(v, marks=pytest.mark.slow(reason)) for v in values]


def free_port() -> int:
    "A port of this machine that nobody uses"
    with socket.create_server(('127.0.0.1', 0)) as s: return s.getsockname()[1]


# ---- the repository ----

def settings() -> dict:
    "The default section of settings.ini"
    config = ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return dict(config['DEFAULT'])


def scripts() -> dict:
    "Console scripts: name -> (module, function)"
    return {n: tuple(target.split(':')) for n, target in (w.split('=') for w in settings()['console_scripts'].split())}


def notebooks() -> list[Path]:
    "All notebooks, except those in hidden folders and in nbdev's working folders"
    return sorted(p for p in NBS.rglob('*.ipynb') if not any(part[0] in '._' for part in p.relative_to(NBS).parts))


def modules() -> list[str]:
    "Names of the modules within the package, such as data.checks"
    files = (f for f in PACKAGE.rglob('*.py') if f.name[0] != '_')
    return sorted('.'.join(f.relative_to(PACKAGE).with_suffix('').parts) for f in files)


def chromium() -> str|None:
    "Path of a Chromium, or None"
    return next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)


# ---- commands ----

def call(name, *args) -> subprocess.CompletedProcess:
    "Run a command in this process: much faster than `run`, which imports PyTorch and fastai again"
    module, func = scripts()[name]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        try: getattr(import_module(module), func)([*map(str, args)])
        except SystemExit as e: code = e.code or 0
    return subprocess.CompletedProcess([name, *args], code, out.getvalue(), err.getvalue())


def start(name, *args, **kwargs) -> subprocess.Popen:
    "Start a command as its console script does, with one thread for computation, and with pipes instead of a terminal"
    module, func = scripts()[name]
    code = ('import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); '
            f'sys.argv[0] = {name!r}; from {module} import {func}; sys.exit({func}())')
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg', 'PYTHONUTF8': '1', **kwargs.pop('env', {})}
    argv = [sys.executable, '-c', code, *map(str, args)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, **kwargs)


def run(name, *args, timeout=900, **kwargs) -> subprocess.CompletedProcess:
    "Run a command in a process of its own until it ends"
    with start(name, *args, **kwargs) as p:
        try: out, err = p.communicate(timeout=timeout)
        except subprocess.TimeoutExpired: p.kill(); raise
    return subprocess.CompletedProcess([name, *args], p.returncode, out.decode(), err.decode()) # text=True would hide each \r


# ---- files and folders ----

def contents(folder:Path) -> dict[Path, bytes]:
    "All files of a folder and their bytes"
    return {f: f.read_bytes() for f in folder.rglob('*') if f.is_file()}


def read_rows(file) -> list[dict]:
    "The rows of a CSV file"
    with open(file, encoding='utf-8-sig', newline='') as f: return list(csv.DictReader(f))


def image(seed:int, size:int=48) -> Image.Image:
    "An image of random colours; images of different seeds are not near-duplicates"
    a = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return Image.fromarray(a).resize((size, size), Image.Resampling.BICUBIC)


def write_table(file:Path, rows:list, columns=('filename', 'label')) -> Path:
    "Write a CSV table"
    with open(file, 'w', newline='', encoding='utf-8') as f: csv.writer(f).writerows([columns, *rows])
    return file


def dataset(folder:Path, n:int=24, labels=('running', 'sitting', 'texting'), extra=()) -> Path:
    "A data set in Kaggle's layout: n images, with the labels in turn, then the rows `extra`"
    (folder/'train').mkdir(parents=True)
    rows = [(f'Image_{i}.png', labels[i % len(labels)]) for i in range(n)]
    for i, (name, _) in enumerate(rows): image(i).save(folder/'train'/name)
    write_table(folder/'Training_set.csv', [*rows, *extra])
    return folder


# ---- models ----

def unlike(a:dict, b:dict) -> list:
    "Names of the tensors that are not bit-identical in two state dicts"
    return sorted({k for k in a.keys() & b.keys() if a[k].dtype != b[k].dtype or not a[k].equal(b[k])} | (a.keys() ^ b.keys()))


def random_run(folder:Path, images:list, arch:str='baseline', size:int=64, vocab=('running', 'sitting', 'texting'), **card) -> Path:
    "A saved model with random weights, but with batch-norm statistics of `images`, and predictions that differ from image to image"
    import torch
    from har_fastai.images import preprocess, open_image
    from har_fastai.predict.bundle import Card, save_bundle
    from har_fastai.models import create_model, find_arch
    torch.manual_seed(1)
    a, model = find_arch(arch), create_model(arch, len(vocab)).eval()
    x = torch.from_numpy(np.stack([preprocess(open_image(p), size, a.mean, a.std) for p in images]))
    x = torch.cat([x, x.flip(-1)])
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.train(); m.momentum = None
    with torch.no_grad():
        model(x); model.eval()
        head, z = model.get_submodule(a.head), model(x)
        scale = .5 / z.std(0).mean()
        head.weight.mul_(scale); head.bias.copy_((head.bias - z.mean(0)) * scale)
    return save_bundle(folder, model, Card(arch, list(vocab), size, list(a.mean), list(a.std), **card))
