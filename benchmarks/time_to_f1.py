"""Seconds of training until a valid macro-F1 on real images: a recipe of har_fastai against the report's recipe in a plain loop.

The report's side is not trained to the end, which would take hours: its images per second are measured in this same process, half before and
half after our training, and multiplied by the images that it needs by its own log (29 epochs until 0.45, on augmented images). Our side is a real training; its clock
runs from the first step, loading, validation and all callbacks included, and stops at the end of the first epoch that reaches the goal.
Decoding the images once is counted, too, where the cache does not hold them yet. Prints one JSON line. Needs --data, real images.
"""
import argparse
import itertools
import json
import time

import torch
from har_fastai.core import prepare, recipe_dls
from har_fastai.train.recipes import find_recipe
from har_fastai.train.runs import machine
from har_fastai.train.learner import har_learner
from fastai.vision.all import Callback, CancelFitException

from plain import PlainLoop


class Until(Callback):
    "Note the time and the figure of each epoch, and stop where the goal is reached"
    order = 80
    def __init__(self, goal, on): self.goal,self.on,self.curve = goal,on,[]
    def before_fit(self): self.start = time.perf_counter()
    def after_epoch(self):
        self.curve.append((round(time.perf_counter() - self.start, 1), round(float(self.recorder.values[-1][-1]), 4)))
        print(f'epoch {self.epoch + 1}: {self.curve[-1][0]:.0f} s, valid macro-F1 {self.curve[-1][1]:.4f}', flush=True)
        if self.curve[-1][1] >= self.goal and not self.on: raise CancelFitException


def plain_rate(loop, steps):
    "Training images a second of the plain loop, after two steps to warm up"
    it = itertools.islice(loop.steps(), steps + 2)
    next(it); next(it)
    start = time.perf_counter()
    for _ in it: pass
    return steps * loop.bs / (time.perf_counter() - start)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='folder or table of labelled images')
    p.add_argument('--recipe', default='cpu')
    p.add_argument('--goal', type=float, default=0.45, help='valid macro-F1')
    p.add_argument('--epochs', type=int, help="of our training (default: the recipe's)")
    p.add_argument('--report-epochs', type=int, default=29, help='epochs that the report needs to the goal, by its log')
    p.add_argument('--steps', type=int, default=24, help='steps of 32 images that the plain loop is timed for, each time')
    p.add_argument('--seed', type=int, default=42)
    p.add_argument('--device', default='cpu')
    p.add_argument('--on', action='store_true', help='train on to the end of the recipe when the goal is reached')
    p.add_argument('--quick', action='store_true', help='under a minute: one epoch of 1,000 rows, goal 0; proves nothing')
    a = p.parse_args()
    df = prepare(a.data, 'grouped', 42)
    if a.quick: a.goal, a.epochs, a.steps, df = 0, 1, 2, df.iloc[:1000].reset_index(drop=True)
    recipe = find_recipe(a.recipe, epochs=a.epochs, seed=a.seed)
    loop = PlainLoop(df, 256, 32, a.device)
    rates = [plain_rate(loop, a.steps)]
    start = time.perf_counter()
    learn, until = har_learner(recipe_dls(df, recipe, torch.device(a.device)), recipe), Until(a.goal, a.on)
    setup = time.perf_counter() - start
    with learn.no_bar(), learn.no_logging(): learn.fit_recipe(cbs=[until])
    rates.append(plain_rate(loop, a.steps))
    ours = next((s + setup for s, f1 in until.curve if f1 >= a.goal), None)
    rate = sum(rates) / 2
    theirs = a.report_epochs * int((df.part == 'train').sum()) / rate
    print(json.dumps(dict(what="seconds to a valid macro-F1: report's recipe at 256 px in the plain loop / ours", goal=a.goal, recipe=recipe.name, epochs=recipe.epochs, seed=a.seed,
                          reached=ours is not None, ratio=ours and round(theirs / ours, 1), seconds=ours and round(ours), report_seconds=round(theirs), plain_images_per_s=[round(r, 2) for r in rates],
                          setup_seconds=round(setup, 1), curve=until.curve, n_valid=int((df.part == 'valid').sum()), **machine())))
