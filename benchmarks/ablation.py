"""The gain of each part of a recipe: from the recipe of the report to another one, one part at a time, with several seeds.

Each step takes a group of fields from the goal recipe (--recipe) and keeps those of the steps before. All steps train on the same
rows with the same size and number of epochs. They are evaluated after the last epoch, so nothing is selected, on rows that are
neither trained on nor test images of a published score (see `explored` in explore.py). The gain of a step is a mean over the
seeds; its 95 % confidence interval is a bootstrap over the images, with the same draws for both steps and all seeds. Finished
trainings are kept in --keep, so the script can be interrupted. Prints one JSON line. Without --data it uses the synthetic sample.
"""
import argparse
import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from har_fastai.core import drawn_sample, recipe_dls
from har_fastai.evaluate.metrics import confusion, macro_f1
from har_fastai.train.recipes import find_recipe
from har_fastai.train.runs import machine
from har_fastai.train.learner import har_learner

from explore import explored, outputs, value

STEPS = {'recipe report': (),
         'other augmentation, less dropout': ('crop_scale', 'num_ops', 'magnitude', 'flip', 'erase', 'dropout'),
         'higher learning rate, larger batches': ('bs', 'lr', 'warmup', 'per_batch'), # updated per batch, with a shorter warm-up
         'Muon in place of AdamW': ('opt', 'wd'), 'model averaging (EMA)': ('ema',),
         'uniform sampling': ('weighted',), 'aspect ratio kept in evaluation': ('resize',)} # fields of each step
LAST = 'test-time augmentation (flip)' # needs no training of its own


def recipes(goal, size, epochs):
    "The recipe of each step that changes a field"
    taken, out = {}, {}
    for name, names in STEPS.items():
        taken |= {k: getattr(goal, k) for k in names}
        recipe = find_recipe('report', size=size, epochs=epochs, **taken)
        if recipe not in out.values(): out[name] = recipe
    return out


def mark(df, recipe):
    "A file name for a training, from a hash of its recipe and rows"
    rows = df.loc[df.part.isin(['train', 'valid']), ['filename', 'part']].to_csv(index=False)
    return hashlib.sha256((json.dumps(asdict(recipe)) + rows).encode()).hexdigest()[:16]


def trained(df, recipe, seed, file):
    "Classes, logits, logits of the horizontal flips and seconds of one training; read from `file` if it exists"
    if file and file.exists(): return dict(np.load(file, allow_pickle=False))
    recipe = find_recipe(recipe, seed=seed)
    learn = har_learner(recipe_dls(df, recipe, torch.device('cpu'), 0), recipe)
    start = time.perf_counter()
    with learn.no_bar(), learn.no_logging(): learn.fit_recipe()
    z, flipped, y = (v.numpy() for v in outputs(learn))
    done = dict(y=y, z=z, flipped=flipped, seconds=time.perf_counter() - start)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix('.part.npz')
        np.savez(part, **done); part.rename(file)
    return done


def gains(preds, y, draws=2000):
    "For each step the mean macro-F1 over seeds and its difference to the step before, with bootstrap confidence intervals"
    n, k = len(y), int(y.max()) + 1
    f1 = lambda p, i=slice(None): [macro_f1(confusion(y[i], q[i], k)) for q in p]
    rng = np.random.default_rng(0)
    drawn = np.array([[np.mean(f1(p, i)) for p in preds.values()] for i in (rng.integers(0, n, n) for _ in range(draws))])
    ends = lambda v: [round(float(e), 4) for e in np.quantile(v, [0.025, 0.975])]
    steps = []
    for j, (name, p) in enumerate(preds.items()):
        own = f1(p)
        steps.append(dict(step=name, f1=round(float(np.mean(own)), 4), interval=ends(drawn[:, j]), seeds=[round(float(v), 4) for v in own]))
        if j: steps[-1] |= dict(gain=round(steps[j]['f1'] - steps[j - 1]['f1'], 4), gain_interval=ends(drawn[:, j] - drawn[:, j - 1]))
    return steps


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', help='folder or table of labelled images')
    p.add_argument('--recipe', default='best', help='goal of the steps')
    p.add_argument('--changes', nargs='*', default=[], metavar='FIELD=VALUE', help='fields of that recipe to change')
    p.add_argument('--size', type=int, default=48, help='side of the images, px')
    p.add_argument('--epochs', type=int, default=8)
    p.add_argument('--rows', type=int, help='number of training images (default: all)')
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--keep', type=Path, help='folder for finished trainings')
    p.add_argument('--quick', action='store_true', help='a trial run of under a minute')
    a = p.parse_args()
    if a.quick: a.size, a.epochs, a.seeds = 32, 1, 1
    df, preds, seconds = explored(a.data or drawn_sample()), {}, []
    df = df.drop(df[df.part == 'train'].index[a.rows:]) if a.rows else df
    changes = {k: value(v) for k, v in (c.split('=', 1) for c in a.changes)}
    for name, recipe in recipes(find_recipe(a.recipe, **changes), a.size, a.epochs).items():
        done = [trained(df, recipe, s, a.keep and a.keep/f'{mark(df, recipe)}-{s}.npz') for s in range(a.seeds)]
        preds[name] = [d['z'].argmax(1) for d in done]
        seconds.append(round(float(np.mean([d['seconds'] for d in done]))))
        accuracies = [round(float((d['z'].argmax(1) == d['y']).mean()), 4) for d in done]
        print(f'{name}: {accuracies}, {seconds[-1]} s', flush=True)
    preds[LAST] = [(d['z'] + d['flipped']).argmax(1) for d in done]
    print(json.dumps(dict(what='what each part of a recipe gains', images='own' if a.data else 'drawn', recipe=a.recipe,
                          changes=changes, trained=int((df.part == 'train').sum()), scored=len(done[0]['y']), size=a.size,
                          epochs=a.epochs, seeds=a.seeds, seconds=seconds, steps=gains(preds, done[0]['y']), **machine())))
