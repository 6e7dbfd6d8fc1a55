"""The optimism of a score on images that were trained on: a random split compared with a leakage-free split.

As in the course report, one side trains on a random 80 % of all rows and is evaluated on the last 20 % of the rows, of which
about four in five are also training images. The other side trains on the rows before, without duplicates of the last 20 %. Both
sides train on the same number of images for the same number of epochs with the same recipe, and are evaluated after the last
epoch, so nothing is selected. Confidence intervals are bootstraps over the images, with the same draws for all seeds and both
sides. Finished runs are kept in --keep, so the script can be interrupted. Prints one JSON line. Without --data it uses the
synthetic sample.
"""
import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from har_fastai.core import drawn_sample, recipe_dls
from har_fastai.data.checks import check_har, usable
from har_fastai.data.splits import tail_split
from har_fastai.evaluate.interpretation import learner_table
from har_fastai.evaluate.metrics import confusion, macro_f1
from har_fastai.evaluate.plots import class_columns
from har_fastai.train.recipes import find_recipe
from har_fastai.train.runs import machine
from har_fastai.evaluate.scoring import class_indices, portable_columns
from har_fastai.data.tables import read_har
from har_fastai.train.learner import har_learner


def training_rows(df, side, seed):
    "The training rows of a side; both sides have the same number"
    honest = tail_split(df, seed=seed)
    honest = df[honest.part.isin(['train', 'valid']).to_numpy()]
    n, rows = min(len(honest), round(0.8 * len(df))), df if side == 'random' else honest
    return rows.sample(n, random_state=seed)


def scored(df, side, recipe):
    "Predictions for the last 20 % of the rows, and whether each was trained on"
    train, tail = training_rows(df, side, recipe.seed), df.tail(round(0.2 * len(df)))
    df = pd.concat([train.assign(part='train'), tail.assign(part='valid')], ignore_index=True)
    learn = har_learner(recipe_dls(df, recipe, torch.device('cpu'), 0), recipe)
    with learn.no_bar(), learn.no_logging(): learn.fit_recipe()
    in_training = learn.recorder.values[-1][list(learn.recorder.metric_names).index('train_macro_f1') - 1]
    table = portable_columns(learner_table(learn))
    return table.assign(seen=tail.sha256.isin(train.sha256).to_numpy(), train_f1=in_training)


def f1(preds, rows=slice(None)):
    "Macro-F1 of predictions"
    vocab = class_columns(preds)
    y, p = class_indices(preds, vocab)
    return float(macro_f1(confusion(y[rows], p[rows], len(vocab))))


def mean_difference(sides, n_boot=1000):
    "The difference of the random and the leakage-free split, mean over seeds, and its 95 % confidence interval"
    rng, n = np.random.default_rng(0), len(sides['random'][0])
    mean = lambda rows: np.mean([f1(r, rows) - f1(h, rows) for r, h in zip(sides['random'], sides['honest'])])
    return mean(np.arange(n)), *np.quantile([mean(rng.integers(0, n, n)) for _ in range(n_boot)], [0.025, 0.975])


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', help='folder or table of labelled images')
    p.add_argument('--size', type=int, default=48, help='side of the images, px')
    p.add_argument('--epochs', type=int, default=20)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--keep', help='folder for the predictions of finished runs')
    p.add_argument('--quick', action='store_true', help='a trial run of under a minute')
    a = p.parse_args()
    df = usable(check_har(read_har(a.data or drawn_sample()))).reset_index(drop=True)
    if a.quick: df, a.epochs, a.seeds = df.iloc[::max(1, len(df) // 600)].reset_index(drop=True), 4, 1
    mark = hashlib.sha256(f'{a.size} {a.epochs} {"".join(df.sha256)}'.encode()).hexdigest()[:16] # of data and settings
    sides = dict(random=[], honest=[])
    for seed in range(a.seeds):
        for side, done in sides.items():
            file = Path(a.keep or '.')/f'{side}-{mark}-{seed}.csv'
            if a.keep and file.exists(): done.append(pd.read_csv(file)); continue
            done.append(scored(df, side, find_recipe('demo', size=a.size, epochs=a.epochs, seed=seed)))
            if a.keep: file.parent.mkdir(parents=True, exist_ok=True); done[-1].to_csv(file, index=False)
            print(f'seed {seed}, {side} split: macro-F1 {f1(done[-1]):.4f}; in training {done[-1].train_f1[0]:.4f}', flush=True)
    seen = [r.seen.to_numpy() for r in sides['random']]
    diff, low, high = mean_difference(sides)
    r4 = lambda values: [round(float(v), 4) for v in values]
    both = list(zip(sides['random'], seen))
    print(json.dumps(dict(what='leak: macro-F1 of the last 20 % of rows', images='own' if a.data else 'drawn',
                          trained=len(training_rows(df, 'random', 0)), scored=len(seen[0]), size=a.size, epochs=a.epochs,
                          seeds=a.seeds, random=r4(map(f1, sides['random'])), honest=r4(map(f1, sides['honest'])),
                          random_seen=r4(f1(r, s) for r, s in both), random_unseen=r4(f1(r, ~s) for r, s in both),
                          share_seen=round(float(np.mean(seen)), 4), in_training=r4(r.train_f1[0] for r in sides['random']),
                          difference=round(float(diff), 4), low=round(float(low), 4), high=round(float(high), 4), **machine())))
