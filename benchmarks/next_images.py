"""Which images to label next: the number of labels to a macro-F1, random choice / `next_images`.

Labels of the training part are revealed in steps, at random or as chosen by `next_images`, and a classifier that is fitted to them
is scored on the images of the other parts. For the macro-F1 that random choice reaches at several numbers of labels, the ratio says
how many times fewer labels the choice needs (interpolated between the steps; means over the seeds). Prints one JSON line. Needs --data.
"""
import argparse
import json
import os
import sys
import time
import warnings
from contextlib import redirect_stdout

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from har_fastai.curate.choose import SOFTNESS, next_images, principal_components
from har_fastai.curate.features import frozen_features
from har_fastai.data.checks import check_har, usable
from har_fastai.data.splits import split_har
from har_fastai.data.tables import read_har


def curve(z, y, train, test, steps, seed, choose) -> list[float]:
    "Macro-F1 after each step"
    rng, labels, scores = np.random.default_rng(seed), np.full(len(train), None, dtype=object), []
    for n in steps:
        known = np.array([l is not None for l in labels])
        need = n - known.sum()
        new = next_images(z[train], labels, need, seed)[0] if choose else rng.choice(np.flatnonzero(~known), need, replace=False)
        labels[new] = y[train][new]
        known[new] = True
        model = LogisticRegression(C=SOFTNESS, max_iter=200).fit(z[train][known], labels[known].astype(str))
        scores.append(float(f1_score(y[test].astype(str), model.predict(z[test]), average='macro')))
    return scores


if __name__ == '__main__':
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--data', required=True, help='folder or table of labelled images')
    a.add_argument('--seeds', type=int, default=3)
    a.add_argument('--steps', type=int, nargs='+', default=[75, 150, 300, 500, 750, 1000, 1500])
    a, start = a.parse_args(), time.perf_counter()
    with redirect_stdout(sys.stderr): # standard output is for the JSON line
        df = split_har(usable(check_har(read_har(a.data))), 'grouped', 42)
        z = principal_components(frozen_features(df))
    warnings.simplefilter('ignore')
    y, train, test = df.label.to_numpy(object), np.flatnonzero(df.part == 'train'), np.flatnonzero(df.part != 'train')
    curves = {k: [curve(z, y, train, test, a.steps, s, k == 'chosen') for s in range(a.seeds)] for k in ('random', 'chosen')}
    random, chosen = (np.mean(curves[k], 0) for k in ('random', 'chosen'))
    reached = {n: round(n / float(np.interp(f, np.maximum.accumulate(chosen), a.steps)), 2) for n, f in zip(a.steps[1:], random[1:])}
    print(json.dumps(dict(what='labels to a macro-F1, random / chosen', n=len(test), seeds=a.seeds, labels=a.steps, ratio=reached,
                          random_choice=[round(float(v), 4) for v in random], chosen=[round(float(v), 4) for v in chosen],
                          seconds=round(time.perf_counter() - start), cores=os.cpu_count())))
