"""Two studies of linear probes on the features of EfficientNet-Lite0 (ImageNet weights), evaluated on the last 20 % of rows.

Few images: a probe is fitted to 10, 50 and 200 random training images of each class, without validation images. Unseen actions: a probe
is fitted to 12 classes, and the AUROC says how well test images of these classes are told from those of the other three, by the
probability of the predicted class, by the similarity to the training images, and by both (the sum of the standardised values). Each
is repeated with random draws. Prints two JSON lines. Needs --data.
"""
import argparse
import json
import sys
from contextlib import redirect_stdout

import numpy as np
from sklearn.metrics import roc_auc_score

from har_fastai.data.checks import check_har, usable
from har_fastai.data.splits import split_har
from har_fastai.data.tables import read_har
from har_fastai.evaluate.metrics import confusion, macro_f1
from har_fastai.evaluate.unsure import class_means, similarities
from har_fastai.models import create_model, find_arch
from har_fastai.predict.bundle import Card
from har_fastai.predict.features import FeatureExtractor, cached_features
from har_fastai.train.probe import fit_linear
from har_fastai.train.recipes import RECIPES
from har_fastai.train.runs import machine


def data(path):
    "Features, classes and parts of the images"
    df, r = split_har(usable(check_har(read_har(path))), 'tail', 42), RECIPES['probe']
    df, arch = df[df.part.isin(['train', 'valid', 'test'])], find_arch(r.arch)
    card = Card(arch.name, sorted(df.label.unique()), r.size, list(arch.mean), list(arch.std), r.resize_rule, tta=r.tta)
    extractor = FeatureExtractor((create_model(arch, len(card.vocab), True), card))
    return cached_features(extractor, df.sha256, df.path.tolist()), df.label.map(card.vocab.index).to_numpy(), df.part.to_numpy()


def few_images(x, y, part, k, seed):
    "Macro-F1 of a probe on `k` images of each class"
    rng, n = np.random.default_rng(seed), y.max() + 1
    rows = np.concatenate([rng.choice(np.flatnonzero((part != 'test') & (y == c)), k, replace=False) for c in range(n)])
    weight, bias, _ = fit_linear(x[rows], y[rows], n_classes=n)
    test = part == 'test'
    return float(macro_f1(confusion(y[test], (x[test] @ weight.T + bias).argmax(1), n)))


def unseen_actions(x, y, part, seed):
    "AUROC of three measures for three classes that are held out"
    held = np.random.default_rng(seed).choice(y.max() + 1, 3, replace=False)
    known = ~np.isin(y, held)
    new = np.cumsum(~np.isin(np.arange(y.max() + 1), held)) - 1 # numbers of the other classes
    train, valid, test = (part == p for p in ('train', 'valid', 'test'))
    weight, bias, _ = fit_linear(x[train & known], new[y[train & known]], x[valid & known], new[y[valid & known]])
    z = x[test] @ weight.T + bias
    probability = 1 / np.exp(z - z.max(1, keepdims=True)).sum(1)
    similarity = similarities(x[test], class_means(x[train & known], new[y[train & known]], 12))
    both = sum((v - v.mean()) / v.std() for v in (probability, similarity))
    return {k: roc_auc_score(known[test], v) for k, v in dict(probability=probability, similarity=similarity, both=both).items()}


def summary(values):
    "Mean, smallest and largest value"
    return dict(mean=round(float(np.mean(values)), 4), least=round(float(np.min(values)), 4), most=round(float(np.max(values)), 4))


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='folder or table of labelled photographs')
    p.add_argument('--draws', type=int, default=10, help='number of random draws')
    a = p.parse_args()
    with redirect_stdout(sys.stderr): x, y, part = data(a.data)
    n = int((part == 'test').sum())
    few = {str(k): summary([few_images(x, y, part, k, s) for s in range(a.draws)]) for k in (10, 50, 200)}
    print(json.dumps(dict(what='probe: macro-F1 with few images of each class', n=n, draws=a.draws, per_class=few, **machine())))
    found = [unseen_actions(x, y, part, s) for s in range(a.draws)]
    unseen = {k: summary([f[k] for f in found]) for k in found[0]}
    print(json.dumps(dict(what='probe: AUROC for actions that it was not trained on', n=n, draws=a.draws, **unseen, **machine())))
