"""Do both ways of loading train equally good networks? Macro-F1 of `CachedDL` against fastai's `DataBlock` path, seed by seed.

Both sides train by the same recipe with the report's augmentation on the same training images and are scored on the same others, valid and
test part together, after the last epoch: choosing the best epoch would favour whichever side is noisier. Prints one JSON line with the mean
difference over the seeds and its 95 % t interval. Without --data the drawn sample is used.
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


def final_f1(df, recipe, packed):
    "Macro-F1 of the images that were not trained on, after the last epoch"
    learn = har_learner(recipe_dls(df, recipe, torch.device('cpu'), 0, packed), recipe)
    with learn.no_bar(), learn.no_logging(): learn.fit_recipe()
    return float(learn.recorder.values[-1][-1])


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', help='folder or table of labelled images')
    p.add_argument('--rows', type=int, help='train on so many images only')
    p.add_argument('--size', type=int, default=48, help='side of the images, px')
    p.add_argument('--epochs', type=int, default=10)
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--quick', action='store_true', help='under a minute; proves nothing')
    a = p.parse_args()
    if a.quick: a.rows, a.epochs, a.seeds = 400, 2, 2
    df = prepare(a.data or drawn_sample(), 'grouped', 42)
    df = pd.concat([df[df.part == 'train'].head(a.rows or len(df)), df[df.part.isin(['valid', 'test'])].assign(part='valid')], ignore_index=True)
    scores = []
    for seed in range(a.seeds):
        recipe = find_recipe('report', size=a.size, epochs=a.epochs, lr=2e-3, per_batch=True, dropout=0.2, seed=seed)
        scores.append([final_f1(df, recipe, packed) for packed in (True, False)])
        print(f'seed {seed}: packed {scores[-1][0]:.4f}, one by one {scores[-1][1]:.4f}', flush=True)
    diff = np.subtract(*np.array(scores).T)
    half = t.ppf(0.975, len(diff) - 1) * diff.std(ddof=1) / len(diff)**0.5
    print(json.dumps(dict(what='macro-F1, packed - DataBlock', images='own' if a.data else 'drawn', rows=int((df.part == 'train').sum()), scored=int((df.part == 'valid').sum()), size=a.size, epochs=a.epochs, seeds=a.seeds, packed=round(float(np.mean(scores, 0)[0]), 4),
                          one_by_one=round(float(np.mean(scores, 0)[1]), 4), difference=round(float(diff.mean()), 4),
                          low=round(float(diff.mean() - half), 4), high=round(float(diff.mean() + half), 4), **machine())))
