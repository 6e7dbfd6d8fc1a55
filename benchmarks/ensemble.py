"""Average the probabilities of several trained models on the last 20 % of rows, the test images.

The weights of the average are chosen on validation images, which none of the models may have been trained on: the validation part of
the split with --seed, which is that of the runs. Each model uses its own size and temperature. Prints one JSON line with the scores of
each model and of the average. Needs --data, unless all models are given as files of predictions for the test images (predictions.csv of
a run, or a file of `har_evaluate --split tail --csv`). These are averaged with equal weights, as for runs with different seeds, which
have no validation images in common.
"""
import argparse
import json
import sys
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from har_fastai.data.checks import check_har, usable
from har_fastai.data.splits import split_har
from har_fastai.data.tables import read_har
from har_fastai.evaluate.metrics import prob_array, prob_columns
from har_fastai.evaluate.scoring import class_indices, predict_table, score
from har_fastai.predict.predictor import Predictor
from har_fastai.train.runs import machine


def average(tables, weights, vocab):
    "A table of predictions with the weighted mean of the probabilities"
    mean, columns = tables[0].copy(), prob_columns(vocab)
    mean[columns] = sum(w * t[columns] for w, t in zip(weights, tables)) / sum(weights)
    mean['predicted'] = np.array(vocab)[prob_array(mean, vocab).argmax(1)]
    return mean


def loss(table, vocab):
    "Mean negative log-likelihood"
    y, _ = class_indices(table, vocab)
    return float(-np.log(np.maximum(prob_array(table, vocab)[np.arange(len(y)), y], 1e-9)).mean())


def scores(table, vocab):
    s = score(table, vocab, 1.)
    return {k: s[k] for k in ('n', 'macro_f1', 'accuracy', 'top3')}


def average_files(files):
    "Scores of the predictions in files for the test images, and of their average with equal weights"
    tables = [pd.read_csv(f) for f in files]
    tables = [t[t.part == 'test'] if 'part' in t else t for t in tables]
    tables = [t.drop_duplicates('filename').sort_values('filename').reset_index(drop=True) for t in tables]
    if any(list(t.filename) != list(tables[0].filename) for t in tables): raise SystemExit('the files list different images')
    vocab = [c.removeprefix('p_') for c in tables[0] if c.startswith('p_')]
    return dict(models=[Path(f).parent.name if Path(f).name == 'predictions.csv' else Path(f).stem for f in files],
                weights=[1] * len(files), alone=[scores(t, vocab) for t in tables], **scores(average(tables, [1] * len(files), vocab), vocab))


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('models', nargs='+', help='folders of runs or models, names of included models, or files of predictions')
    p.add_argument('--data', help='folder or table of labelled photographs')
    p.add_argument('--seed', type=int, default=42, help='seed of the split of all models')
    a = p.parse_args()
    if all(m.endswith('.csv') for m in a.models):
        print(json.dumps(dict(what='average of several models', **average_files(a.models))))
        sys.exit()
    if not a.data: p.error('--data is needed')
    with redirect_stdout(sys.stderr): # standard output is for the JSON line
        df = split_har(usable(check_har(read_har(a.data))), 'tail', a.seed)
        predictors = [Predictor(m) for m in a.models]
        vocab = predictors[0].vocab
        valid, test = ([predict_table(m, df[df.part == part]) for m in predictors] for part in ('valid', 'test'))
    candidates = [w for w in product((1, 2, 3), repeat=len(a.models)) if np.gcd.reduce(w) == 1]
    weights = min(candidates, key=lambda w: loss(average(valid, w, vocab), vocab))
    models = [dict(arch=m.card.arch, size=m.card.size) for m in predictors]
    print(json.dumps(dict(what='average of several models', models=models, seed=a.seed,
                          weights=weights, valid_loss=round(loss(average(valid, weights, vocab), vocab), 4),
                          alone=[scores(t, vocab) for t in test], **scores(average(test, weights, vocab), vocab), **machine())))
