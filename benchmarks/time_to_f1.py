"""Training time to a validation macro-F1 on real images: a recipe of har_fastai, compared with the recipe of the report in plain PyTorch.

The recipe of the report is not trained to the end, which would take hours. Its images per second are measured in the same
process, half before and half after the training of har_fastai, and multiplied by the number of images that it needs according to
its log (29 epochs to 0.45, on augmented images). The training of har_fastai is complete: its time includes loading, validation,
all callbacks and, if the cache does not contain the images yet, decoding, and ends with the first epoch that reaches the goal.
Prints one JSON line. Needs --data.
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
    "Record the time and the macro-F1 of each epoch, and stop at the goal"
    order = 80
    def __init__(self, goal, on): self.goal, self.on, self.curve = goal, on, []
    def before_fit(self): self.start = time.perf_counter()
    def after_epoch(self):
        self.curve.append((round(time.perf_counter() - self.start, 1), round(float(self.recorder.values[-1][-1]), 4)))
        print(f'epoch {self.epoch + 1}: {self.curve[-1][0]:.0f} s, valid macro-F1 {self.curve[-1][1]:.4f}', flush=True)
        if self.curve[-1][1] >= self.goal and not self.on: raise CancelFitException


def plain_rate(loop, steps):
    "Training images per second of the plain loop, after two warm-up steps"
    it = itertools.islice(loop.steps(), steps + 2)
    next(it); next(it)
    start = time.perf_counter()
    for _ in it: pass
    return steps * loop.bs / (time.perf_counter() - start)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='folder or table of labelled images')
    p.add_argument('--recipe', default='cpu')
    p.add_argument('--goal', type=float, default=0.45, help='validation macro-F1')
    p.add_argument('--epochs', type=int, help="number of epochs (default: as the recipe)")
    p.add_argument('--report-epochs', type=int, default=29, help='epochs that the report needs to reach the goal, from its log')
    p.add_argument('--steps', type=int, default=24, help='steps of 32 images in each timing of the plain loop')
    p.add_argument('--seed', type=int, default=42)
    p.add_argument('--device', default='cpu')
    p.add_argument('--on', action='store_true', help='continue to the end of the recipe after the goal')
    p.add_argument('--quick', action='store_true', help='a trial run of under a minute: one epoch of 1,000 rows, goal 0')
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
    print(json.dumps(dict(what="seconds to a valid macro-F1: report's recipe at 256 px in the plain loop / ours", goal=a.goal,
                          recipe=recipe.name, epochs=recipe.epochs, seed=a.seed, reached=ours is not None,
                          ratio=ours and round(theirs / ours, 1), seconds=ours and round(ours), report_seconds=round(theirs),
                          plain_images_per_s=[round(r, 2) for r in rates],
                          setup_seconds=round(setup, 1), curve=until.curve, n_valid=int((df.part == 'valid').sum()), **machine())))
