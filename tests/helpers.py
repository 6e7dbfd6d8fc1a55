"What several test files need: the repository, its commands, images and tables made on the spot"
import csv, os, subprocess, sys
from configparser import ConfigParser
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, NBS = ROOT/'har_fastai', ROOT/'nbs'


def settings() -> dict:
    "What settings.ini says"
    config = ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return dict(config['DEFAULT'])


def scripts() -> dict:
    "Console scripts: name -> (module, function)"
    return {n: tuple(target.split(':')) for n, target in (w.split('=') for w in settings()['console_scripts'].split())}


def start(name, *args, **kwargs) -> subprocess.Popen:
    "Start a command as its console script does, with one computing thread, and with pipes in place of a terminal"
    module, func = scripts()[name]
    code = f'import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); sys.argv[0] = {name!r}; from {module} import {func}; sys.exit({func}())'
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'Agg', 'PYTHONUTF8': '1', **kwargs.pop('env', {})}
    return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, **kwargs)


def run(name, *args, timeout=900, **kwargs) -> subprocess.CompletedProcess:
    "Run a command to its end"
    with start(name, *args, **kwargs) as p:
        try: out, err = p.communicate(timeout=timeout)
        except subprocess.TimeoutExpired: p.kill(); raise
    return subprocess.CompletedProcess([name, *args], p.returncode, out.decode(), err.decode()) # text=True would hide each \r


def image(seed:int, size:int=48) -> Image.Image:
    "An image of coloured clouds that resembles no other seed's"
    a = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    return Image.fromarray(a).resize((size, size), Image.Resampling.BICUBIC)


def write_table(file:Path, rows:list, columns=('filename', 'label')) -> Path:
    "Write a CSV table"
    with open(file, 'w', newline='', encoding='utf-8') as f: csv.writer(f).writerows([columns, *rows])
    return file


def dataset(folder:Path, n:int=24, labels=('running', 'sitting', 'texting'), extra=()) -> Path:
    "A data set in Kaggle's layout: n images, each label in turn, and then the rows `extra`"
    (folder/'train').mkdir(parents=True)
    rows = [(f'Image_{i}.png', labels[i % len(labels)]) for i in range(n)]
    for i, (name, _) in enumerate(rows): image(i).save(folder/'train'/name)
    write_table(folder/'Training_set.csv', [*rows, *extra])
    return folder


def unlike(a:dict, b:dict) -> list:
    "Names of the tensors that are not equal bit for bit in two state dicts"
    return sorted({k for k in a.keys() & b.keys() if a[k].dtype != b[k].dtype or not a[k].equal(b[k])} | (a.keys() ^ b.keys()))


def random_run(folder:Path, images:list, arch:str='baseline', size:int=64, vocab=('running', 'sitting', 'texting'), **card) -> Path:
    "A saved network with random weights, but with the batch norms of a trained one, and answers that differ from image to image"
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
