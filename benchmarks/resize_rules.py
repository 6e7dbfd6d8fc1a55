"""The effect of the resize rule in evaluation: the validation images of finished runs, with each rule at several sizes.

`squash` makes every image a square, `keep` keeps the aspect ratio with about as many pixels (see `eval_shape`). For each rule and
size the script computes the mean over the runs of macro-F1 and of the negative log-likelihood in nats, at the temperature fitted on
the same images. The difference between the rules at the size of the runs has a 95 % confidence interval, a bootstrap over the images
with the same draws for both rules. Runs with different seeds have different validation images. Prints one JSON line. Needs --data,
the images that the runs were trained with.
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


def predicted(run, df, rule, size):
    "Probabilities at temperature 1"
    predictor = Predictor(run.path, half=False)
    predictor.card.resize, predictor.card.size, predictor.card.temperature = rule, size, 1.
    return predictor.probs(df.path)


def differences(y, kept, squashed, k, draws=2000, seed=0):
    "Bootstrap of the difference in macro-F1, aspect ratio kept minus not kept"
    rng, n = np.random.default_rng(seed), len(y)
    f1 = lambda p, i: macro_f1(confusion(y[i], p[i].argmax(1), k))
    return np.array([f1(kept, i) - f1(squashed, i) for i in (rng.integers(0, n, n) for _ in range(draws))])


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('runs', nargs='+', metavar='RUN', help='finished runs')
    p.add_argument('--data', required=True, help='folder or table of labelled images')
    p.add_argument('--sizes', nargs='+', type=int, default=[112, 128, 144], metavar='PX')
    p.add_argument('--name', default='', help='name of the result')
    a = p.parse_args()
    if len(sizes := {Run(r).recipe.size for r in a.runs}) > 1:
        raise HARError(f'the runs have sizes {sorted(sizes)}: give runs of one size')
    rows, drawn, n = {}, [], []
    for run in map(Run, a.runs):
        df, own = reload_data(run, a.data, check=False), run.recipe.size
        df = df[df.part == 'valid'].reset_index(drop=True)
        vocab = Predictor(run.path, half=False).vocab
        y, _ = class_indices(df.assign(predicted=df.label), vocab)
        got = {(rule, s): predicted(run, df, rule, s) for rule in ('squash', 'keep') for s in sorted({*a.sizes, own})}
        for key, probs in got.items():
            f1 = macro_f1(confusion(y, probs.argmax(1), len(vocab)))
            calibrated = apply_temperature(probs, fit_temperature(y, probs))
            rows.setdefault(key, []).append((f1, nll(y, calibrated).mean()))
        drawn.append(differences(y, got['keep', own], got['squash', own], len(vocab)))
        n.append(len(df))
    gain = [float(k[0] - s[0]) for k, s in zip(rows['keep', own], rows['squash', own])]
    low, high = np.quantile(np.mean(drawn, 0), [0.025, 0.975])
    means = {f'{rule} {s} px': dict(zip(('macro_f1', 'nll'), np.round(np.mean(v, 0), 4).tolist())) for (rule, s), v in rows.items()}
    print(json.dumps(dict(what='the shape in which images are scored', name=a.name, images='own', part='valid', runs=len(n), n=n,
                          size=own, mirror=Run(a.runs[0]).recipe.tta, **means,
                          keep_less_squash=[round(g, 4) for g in gain], mean=round(float(np.mean(gain)), 4),
                          low=round(float(low), 4), high=round(float(high), 4), **machine())))
