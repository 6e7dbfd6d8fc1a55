"""Does it matter in what shape images are scored? The validation images of finished runs, by each rule and at several sizes, with one and the same weights.

`squash` makes every image a square, `keep` leaves its proportions alone, for as many pixels (see `eval_shape`). For each the mean over the runs of macro-F1 and
of the negative log-likelihood, in nats, at the temperature that suits it best, as temperatures are fitted on the same images. The difference of the two
rules at the runs' own size has a 95 % confidence interval from draws of each run's images, both rules on the same draws. Runs of several seeds have validation images of their own.
Prints one JSON line. Needs --data, the images that the runs were trained with.
"""
import argparse
import json

import numpy as np
from har_fastai.core import reload_data
from har_fastai.files import HARError
from har_fastai.predict.predictor import Predictor
from har_fastai.evaluate.metrics import confusion, fit_temperature, macro_f1, nll, apply_temperature
from har_fastai.train.runs import Run, machine
from har_fastai.evaluate.scoring import class_indices


def answers(run, df, rule, size):
    "Probabilities at temperature 1"
    predictor = Predictor(run.path, half=False)
    predictor.card.resize, predictor.card.size, predictor.card.temperature = rule, size, 1.
    return predictor.probs(df.path)


def differences(y, kept, squashed, k, draws=2000, seed=0):
    "macro-F1 with proportions kept less squashed, over draws of the images"
    rng, n = np.random.default_rng(seed), len(y)
    f1 = lambda p, i: macro_f1(confusion(y[i], p[i].argmax(1), k))
    return np.array([f1(kept, i) - f1(squashed, i) for i in (rng.integers(0, n, n) for _ in range(draws))])


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('runs', nargs='+', metavar='RUN', help='finished runs')
    p.add_argument('--data', required=True, help='folder or table of labelled images')
    p.add_argument('--sizes', nargs='+', type=int, default=[112, 128, 144], metavar='PX')
    p.add_argument('--name', default='', help='what the runs are')
    a = p.parse_args()
    if len(sizes := {Run(r).recipe.size for r in a.runs}) > 1: raise HARError(f'the runs are of sizes {sorted(sizes)}: compare those of one size')
    rows, drawn, n = {}, [], []
    for run in map(Run, a.runs):
        df, own = reload_data(run, a.data, check=False), run.recipe.size
        df = df[df.part == 'valid'].reset_index(drop=True)
        vocab = Predictor(run.path, half=False).vocab
        y, _ = class_indices(df.assign(predicted=df.label), vocab)
        got = {(rule, s): answers(run, df, rule, s) for rule in ('squash', 'keep') for s in sorted({*a.sizes, own})}
        for key, probs in got.items(): rows.setdefault(key, []).append((macro_f1(confusion(y, probs.argmax(1), len(vocab))), nll(y, apply_temperature(probs, fit_temperature(y, probs))).mean()))
        drawn.append(differences(y, got['keep', own], got['squash', own], len(vocab)))
        n.append(len(df))
    gain = [float(k[0] - s[0]) for k, s in zip(rows['keep', own], rows['squash', own])]
    low, high = np.quantile(np.mean(drawn, 0), [0.025, 0.975])
    print(json.dumps(dict(what='the shape in which images are scored', name=a.name, images='own', part='valid', runs=len(n), n=n, size=own, mirror=Run(a.runs[0]).recipe.tta, **{f'{rule} {s} px': dict(zip(('macro_f1', 'nll'), np.round(np.mean(v, 0), 4).tolist())) for (rule, s), v in rows.items()},
                          keep_less_squash=[round(g, 4) for g in gain], mean=round(float(np.mean(gain)), 4), low=round(float(low), 4), high=round(float(high), 4), **machine())))
