"""Labels flipped at random in the training part: how many the audit finds, and what acting on its suspects is worth.

A share of the training labels is replaced by other classes. Precision: the share of the suspects whose label was flipped; recall: the
share of the flipped labels that are suspects. Wrong labels of the data set itself count against the precision. The same is
measured for the rules of cleanlab that choose the number of suspects. The scores are macro-F1 of a linear probe on the test part,
whose labels are never changed: with the given labels, with the flipped ones, and with the suspects dropped or relabelled as
suggested, without anybody looking at them. Prints one JSON line. Needs --data.
"""
import argparse
import json
import os
import sys
import time
from contextlib import redirect_stdout

import numpy as np
from sklearn.metrics import f1_score, precision_recall_curve

from har_fastai.curate.audit import SUSPECT, suspects
from har_fastai.curate.features import NETWORKS, frozen_features, out_of_fold
from har_fastai.data.checks import check_har, usable
from har_fastai.data.splits import split_har
from har_fastai.data.tables import read_har
from har_fastai.train.probe import fit_linear


def flipped(labels:np.ndarray, share:float, classes:list[str], rng) -> tuple[np.ndarray, np.ndarray]:
    "Labels of which a share is replaced by another class, and which these are"
    changed, new = np.zeros(len(labels), bool), labels.copy()
    changed[rng.choice(len(labels), round(share * len(labels)), replace=False)] = True
    new[changed] = [rng.choice([c for c in classes if c != l]) for l in labels[changed]]
    return new, changed


def macro_f1(x, labels, valid, test, vocab) -> float:
    "Macro-F1 on the test part of a linear probe; `valid` and `test` are features and labels"
    number = {c: i for i, c in enumerate(vocab)}
    y, (xv, yv), (xt, yt) = np.array([number[l] for l in labels]), *((f, np.array([number[l] for l in ls])) for f, ls in (valid, test))
    w, b, _ = fit_linear(x, y, xv, yv, len(vocab))
    return float(f1_score(yt, (xt @ w.T + b).argmax(1), average='macro'))


def cleanlab_rules(labels, probs, vocab, changed) -> dict:
    "Suspects, precision and recall of cleanlab's own rules"
    try:
        import cleanlab
        from cleanlab.filter import find_label_issues
    except ImportError: return {}
    y, found = np.array([vocab.index(l) for l in labels]), dict(version=cleanlab.__version__)
    for rule in ('prune_by_noise_rate', 'confident_learning', 'low_self_confidence'):
        s = find_label_issues(y, probs, filter_by=rule)
        found[rule] = dict(suspects=int(s.sum()), precision=float(changed[s].mean()), recall=float(s[changed].mean()))
    return found


def once(df, x, share, seed) -> tuple[dict, dict]:
    "The scores of one draw of flipped labels, and the results of cleanlab"
    parts = {p: (df.part == p).to_numpy() for p in ('train', 'valid', 'test')}
    valid, test = ((x[parts[p]], df.label[parts[p]].to_numpy()) for p in ('valid', 'test'))
    given, xt, vocab = df.label[parts['train']].to_numpy(object), x[parts['train']], sorted(set(df.label))
    new, changed = flipped(given, share, vocab, np.random.default_rng(seed))
    noisy = df[parts['train']].reset_index(drop=True).assign(label=new)
    probs, names = out_of_fold(noisy, xt)
    s = suspects(noisy, probs, names)
    rows, fixed = s.row.to_numpy(int), new.copy()
    fixed[rows] = s.suggestion.to_numpy()
    kept = ~np.isin(np.arange(len(new)), rows)
    own = probs[np.arange(len(new)), [names.index(l) for l in new]]
    p, r, _ = precision_recall_curve(changed, -own)
    return dict(suspects=len(rows), precision=float(changed[rows].mean()), recall=float(changed[rows].sum() / changed.sum()),
                precision_at_recall_60=float(p[r >= .6].max()), relabelled_right=float((fixed == given)[changed & ~kept].mean()),
                macro_f1=dict(before=macro_f1(xt, given, valid, test, vocab), flipped=macro_f1(xt, new, valid, test, vocab),
                              dropped=macro_f1(xt[kept], new[kept], valid, test, vocab),
                              relabelled=macro_f1(xt, fixed, valid, test, vocab))), cleanlab_rules(new, probs, names, changed)


if __name__ == '__main__':
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('--data', required=True, help='folder or table of labelled images')
    a.add_argument('--share', type=float, default=.05, help='share of the training labels that are flipped')
    a.add_argument('--seeds', type=int, default=1)
    a, start = a.parse_args(), time.perf_counter()
    with redirect_stdout(sys.stderr): # standard output is for the JSON line
        df = split_har(usable(check_har(read_har(a.data))), 'grouped', 42)
        x = frozen_features(df)
        features, draws = time.perf_counter() - start, [once(df, x, a.share, seed) for seed in range(a.seeds)]
    scores = [s for s, _ in draws]
    print(json.dumps(dict(what='audit: labels flipped at random', n=int((df.part == 'train').sum()), share=a.share, threshold=SUSPECT,
                          networks=NETWORKS, seeds=a.seeds, **(dict(draws=scores) if a.seeds > 1 else scores[0]),
                          cleanlab=draws[0][1], seconds=dict(features=round(features), all=round(time.perf_counter() - start)),
                          cores=os.cpu_count())))
