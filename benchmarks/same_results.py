"""Scores after training with cached images (`CachedDL`) and with fastai's `DataBlock` path, seed by seed.

Both sides train with the same recipe and the augmentation of the report on the same images. They are evaluated on the validation
and test parts together after the last epoch, since selecting the best epoch would favour the noisier side. Prints one JSON line
with the mean difference over the seeds and its 95 % confidence interval (Student's t). Without --data it uses the synthetic
sample.
"""
import argparse
import json

import numpy as np
import pandas as pd
import torch
from scipy.stats import t

from har_fastai.core import drawn_sample, prepare, recipe_dls
from har_fastai.train.recipes import find_recipe
from har_fastai.train.runs import machine
from har_fastai.train.learner import har_learner


def final_f1(df, recipe, cached):
    "Macro-F1 on the images that were not trained on, after the last epoch"
    learn = har_learner(recipe_dls(df, recipe, torch.device('cpu'), 0, cached), recipe)
    with learn.no_bar(), learn.no_logging(): learn.fit_recipe()
    return float(learn.recorder.values[-1][-1])


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', help='folder or table of labelled images')
    p.add_argument('--rows', type=int, help='number of training images (default: all)')
    p.add_argument('--size', type=int, default=48, help='side of the images, px')
    p.add_argument('--epochs', type=int, default=10)
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--quick', action='store_true', help='a trial run of under a minute')
    a = p.parse_args()
    if a.quick: a.rows, a.epochs, a.seeds = 400, 2, 2
    df = prepare(a.data or drawn_sample(), 'grouped', 42)
    train, others = df[df.part == 'train'].head(a.rows or len(df)), df[df.part.isin(['valid', 'test'])].assign(part='valid')
    df = pd.concat([train, others], ignore_index=True)
    scores = []
    for seed in range(a.seeds):
        recipe = find_recipe('report', size=a.size, epochs=a.epochs, lr=2e-3, per_batch=True, dropout=0.2, seed=seed)
        scores.append([final_f1(df, recipe, cached) for cached in (True, False)])
        print(f'seed {seed}: cached {scores[-1][0]:.4f}, DataBlock {scores[-1][1]:.4f}', flush=True)
    diff = np.subtract(*np.array(scores).T)
    half = t.ppf(0.975, len(diff) - 1) * diff.std(ddof=1) / len(diff)**0.5
    print(json.dumps(dict(what='macro-F1, packed - DataBlock', images='own' if a.data else 'drawn', rows=len(train),
                          scored=len(others), size=a.size, epochs=a.epochs, seeds=a.seeds,
                          packed=round(float(np.mean(scores, 0)[0]), 4),
                          one_by_one=round(float(np.mean(scores, 0)[1]), 4), difference=round(float(diff.mean()), 4),
                          low=round(float(diff.mean() - half), 4), high=round(float(diff.mean() + half), 4), **machine())))
