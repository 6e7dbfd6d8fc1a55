"""Training images per second in complete epochs with loading and validation: har_fastai, plain PyTorch and fastai's `DataBlock` path.

Plain PyTorch is the recipe of the report with torchvision (`plain.py`): images opened with Pillow, torchvision's transforms, no
workers, PyTorch's default memory format. The side of har_fastai is `Learner.fit` as `train_baseline` calls it, with all callbacks
except those that write files. In each round all sides train for one epoch on the same rows, and validate on an eighth as many.
Prints one JSON line. Without --data it uses the synthetic sample.
"""
import argparse
import json
import statistics
import time

import torch
from har_fastai.core import drawn_sample, prepare, recipe_dls
from har_fastai.train.recipes import find_recipe
from har_fastai.train.runs import machine
from har_fastai.train.learner import har_learner

from plain import PlainLoop


def seconds(f):
    "Seconds of a call"
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def library(df, a, cached):
    "A function that trains for an epoch and validates"
    recipe = find_recipe('report', size=a.size, bs=a.bs, epochs=1)
    learn = har_learner(recipe_dls(df, recipe, torch.device(a.device), 0, cached), recipe)
    def epoch():
        with learn.no_bar(), learn.no_logging(): learn.fit_recipe()
    return epoch


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', help='folder or table of labelled images')
    p.add_argument('--size', type=int, default=128, help='side of the images, px')
    p.add_argument('--bs', type=int, default=32, help='batch size')
    p.add_argument('--rows', type=int, default=512, help='training images per round')
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--device', default='cpu')
    p.add_argument('--quick', action='store_true', help='a trial run of under a minute')
    a = p.parse_args()
    if a.quick: a.rows, a.rounds = 128, 3
    df = prepare(a.data or drawn_sample(), 'grouped', 42)
    few = [df[df.part == part].groupby('label').head(max(1, n // 15))
           for part, n in (('train', a.rows), ('valid', a.rows // 8))]
    df = df.loc[[i for d in few for i in d.index]].reset_index(drop=True)
    n = int((df.part == 'train').sum()) // a.bs * a.bs
    sides = dict(packed=library(df, a, True), datablock=library(df, a, False),
                 plain=PlainLoop(df, a.size, a.bs, a.device).epoch)
    for f in sides.values(): f() # warm-up
    times = [{k: seconds(f) for k, f in sides.items()} for _ in range(a.rounds)]
    ratio = {k: sorted(t[k] / t['packed'] for t in times) for k in ('plain', 'datablock')}
    print(json.dumps(dict(what='time of a training epoch, other / packed', size=a.size, bs=a.bs, rows=n, rounds=a.rounds,
                          **{f'vs_{k}': dict(ratio=round(statistics.median(v), 3), least=round(v[0], 3), most=round(v[-1], 3))
                             for k, v in ratio.items()},
                          images_per_s={k: round(n / statistics.median(t[k] for t in times), 1) for k in sides}, **machine())))
