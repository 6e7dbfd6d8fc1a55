"""Coverage of the 95 % confidence intervals of `metrics`, by simulation.

A population of images is simulated, with classes of different difficulty and a second model that is slightly better than the
first, so the true metrics are known. Test sets are sampled from it. Prints one JSON line with the fraction of confidence
intervals that contain the true value.
"""
import argparse
import json

import numpy as np

from har_fastai.evaluate.metrics import (accuracy, bootstrap_interval, confusion, difference_interval, macro_f1, mean_interval,
                                         paired_bootstrap, score_interval, weighted_f1, wilson_interval)


def population(k, recalls, n=1_000_000, seed=0):
    "True classes, predictions of two models with recalls in a range, and whether the true class is among the top 3"
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n); ease = np.linspace(*recalls, k)[y]
    draw, wrong = rng.random(n), (y + rng.geometric(0.3, n)) % k
    a = np.where(draw < ease, y, wrong)
    b = np.where(draw + 0.2 * rng.normal(size=n) < ease + 0.03, y, (y + rng.geometric(0.4, n)) % k)
    return y, a, b, (draw < ease + 0.15).astype(float)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--n', type=int, default=1000, help='images per test set')
    p.add_argument('--classes', type=int, default=15)
    p.add_argument('--recalls', type=float, nargs=2, default=[0.3, 0.9], help='recall of the hardest and of the easiest class')
    p.add_argument('--simulations', type=int, default=2000)
    p.add_argument('--quick', action='store_true', help='200 simulations: under a minute')
    args = p.parse_args()
    if args.quick: args.simulations = 200
    y, a, b, top = population(args.classes, args.recalls)
    whole, other = confusion(y, a, args.classes), confusion(y, b, args.classes)
    stats = dict(macro_f1=macro_f1, weighted_f1=weighted_f1, accuracy=accuracy)
    truth = {k: f(whole) for k, f in stats.items()} | dict(
        macro_f1_bootstrap=macro_f1(whole), top3=top.mean(), difference=macro_f1(other) - macro_f1(whole),
        difference_bootstrap=macro_f1(other) - macro_f1(whole),
        recall=(np.diag(whole) / whole.sum(1))[0])
    held = {k: 0 for k in truth}
    for s in range(args.simulations):
        i = np.random.default_rng(s + 1).integers(0, len(y), args.n)
        cm = confusion(y[i], a[i], args.classes)
        ends = {k: score_interval(cm, f, n_boot=2000, seed=s) for k, f in stats.items()}
        ends['macro_f1_bootstrap'] = bootstrap_interval(cm, n_boot=2000, seed=s)
        ends['top3'] = mean_interval(top[i], n_boot=2000, seed=s)
        ends['difference'] = difference_interval(y[i], a[i], b[i], args.classes, n_boot=2000, seed=s)[1:]
        ends['difference_bootstrap'] = paired_bootstrap(y[i], a[i], b[i], args.classes, n_boot=2000, seed=s)[1:]
        ends['recall'] = [float(e[0]) for e in wilson_interval(cm[:1, 0], cm[:1].sum(1))]
        for k, (low, high) in ends.items(): held[k] += low <= truth[k] <= high
    print(json.dumps(dict(what='share of 95 % confidence intervals that hold the truth', images='simulated', scored=args.n,
                          classes=args.classes, recalls=args.recalls, simulations=args.simulations,
                          truth={k: round(float(v), 4) for k, v in truth.items()},
                          **{k: round(v / args.simulations, 4) for k, v in held.items()})))
