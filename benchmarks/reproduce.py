"""Train a recipe with several seeds on the protocol of the report without leakage (the last 20 % of rows are test), and score it.

Each seed has a run in --out. A finished run is not trained again and an interrupted one resumes from its checkpoint, so the
script can be stopped and restarted, also on another machine with the same folder. A seed determines weights, sampling,
augmentation and the validation rows; the test rows are always the same. The confidence interval of the mean is a bootstrap over
the test images, with the same draws for all seeds; the standard deviation over seeds is reported beside it. Prints one JSON line,
which also contains the learning curve of each seed, its prediction for every test image, whether the label was among the top 3,
and the confusion matrix of all seeds together. Results of further seeds of the same recipe, from an earlier line (--earlier
results.jsonl), are included without training. Needs --data.

Recipes include `report`, `best` (the same network), `scratch` (a residual network) and `cpu`; `report` and `scratch` take many
hours per seed without a GPU. --changes sets other fields, as in explore.py.
"""
import argparse
import base64
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from har_fastai.core import train_baseline
from har_fastai.data.splits import read_split
from har_fastai.files import HARError
from har_fastai.predict.bundle import read_card
from har_fastai.evaluate.metrics import prob_array, confusion, top_k_hits, macro_f1
from har_fastai.train.recipes import Recipe, find_recipe
from har_fastai.train.runs import Run
from har_fastai.evaluate.scoring import class_indices

from explore import settings, value


def trained(data, recipe, seed, out, device, changes):
    "The finished run of a seed"
    name = '-'.join([recipe, *(f'{k}={v}' for k, v in changes.items()), f'seed{seed}'])
    run = Run(out/name.replace('/', '_'))
    if run.exists and settings(run.recipe) != settings(find_recipe(recipe, **changes)):
        raise SystemExit(f'{run.path} contains a run of another recipe: move it, or give another --out')
    if run.file('metrics.json').is_file(): return run
    if run.exists: return train_baseline(data, out=run.path, resume=True, device=device).run
    return train_baseline(data, recipe, split='tail', out=run.path, seed=seed, device=device, faithfulness=0, **changes).run


def mean_interval(pairs, n_classes, draws=2000, seed=0):
    "95 % confidence interval of the mean macro-F1 over seeds, a bootstrap over the images"
    rng, n = np.random.default_rng(seed), len(pairs[0][0])
    means = []
    for _ in range(draws):
        i = rng.integers(0, n, n)
        means.append(np.mean([macro_f1(confusion(y[i], p[i], n_classes)) for y, p in pairs]))
    return [round(float(v), 4) for v in np.percentile(means, [2.5, 97.5])]


def packed(classes):
    "Class indices as text, base64 of one byte each"
    return base64.b64encode(np.asarray(classes, np.uint8)).decode()


def unpacked(text):
    "The inverse of `packed`"
    return np.frombuffer(base64.b64decode(text), np.uint8).astype(int)


def test_table(run):
    "The predictions of a run for the test images, sorted by file name"
    return run.predictions.query('part == "test"').sort_values('filename')


def same_recipe(line, own):
    "Whether a line is for the recipe with these settings; fields that did not exist when it was printed have their defaults"
    try: return settings(Recipe(**line['settings'])) == own
    except (KeyError, TypeError, HARError): return False # a line without settings, or with a field that no longer exists


def rounded(values):
    "Values as JSON, with null for missing ones"
    return [round(float(v), 4) if v == v else None for v in values]


def row(run, preds):
    "The scores of a run, its learning curve and its predictions for the test images, sorted by file name"
    m, h, card, table = run.metrics, run.history, read_card(run.path), test_table(run)
    f, near = m['test']['macro_f1'], top_k_hits(class_indices(table, card.vocab)[0], prob_array(table, card.vocab), 3)
    calibration = {k: round(float(m['test']['calibration'][k]), 6) for k in ('ece', 'ece_before', 'nll', 'nll_before')}
    return dict(seed=run.recipe.seed, macro_f1=round(f['value'], 6), low=round(f['low'], 4), high=round(f['high'], 4),
                accuracy=round(m['test']['accuracy']['value'], 6), valid=round(m['valid']['macro_f1']['value'], 4),
                best_epoch=m['best_epoch'] + 1, minutes=round(h.seconds.sum() / 60, 1),
                threads=run.info['machine']['threads'], gpu=run.info['machine']['gpu'],
                trained=int((read_split(run.file('split.csv')).part == 'train').sum()), temperature=card.temperature,
                calibration=calibration, curve=[rounded(h[k]) for k in ('train_macro_f1', 'valid_macro_f1')],
                answers=packed(preds), top3=packed(np.packbits(near)))


def earlier_rows(file, line, seeds):
    "Rows of other seeds of the same recipe and test images in a file of such lines; the last of each seed"
    lines = [json.loads(t) for t in file.read_text(encoding='utf-8').splitlines() if t.startswith('{')] if file else []
    def agrees(e): return all(e.get(k) == line[k] for k in ('what', 'vocab', 'truth')) and same_recipe(e, line['settings'])
    same = [r for e in lines if agrees(e) for r in e['seeds']]
    return [r for s, r in {r['seed']: r for r in same}.items() if s not in seeds]


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='folder or table of labelled images')
    p.add_argument('--recipe', default='best')
    p.add_argument('--changes', nargs='*', default=[], metavar='FIELD=VALUE', help='fields of the recipe to change')
    p.add_argument('--seeds', nargs='+', type=int, default=[42, 43, 44])
    p.add_argument('--out', type=Path, default=Path('runs'), help='folder for the runs')
    p.add_argument('--earlier', type=Path, help='file of lines of this script, with further seeds')
    p.add_argument('--device')
    p.add_argument('--name', default='', help='name of the result')
    a = p.parse_args()
    changes = {k: value(v) for k, v in (c.split('=', 1) for c in a.changes)}
    with redirect_stdout(sys.stderr): # standard output is for the JSON line
        runs = [trained(a.data, a.recipe, s, a.out, a.device, changes) for s in a.seeds]
    vocab = read_card(runs[0].path).vocab
    truth, preds = zip(*(class_indices(test_table(r), vocab) for r in runs))
    line = dict(what='reproduced', name=a.name, recipe=a.recipe, changes=changes, settings=settings(runs[0].recipe),
                images='own', split='tail', n=len(truth[0]), vocab=vocab, truth=packed(truth[0]))
    rows = sorted([*map(row, runs, preds), *earlier_rows(a.earlier, line, a.seeds)], key=lambda r: r['seed'])
    f1, pairs = [r['macro_f1'] for r in rows], [(truth[0], unpacked(r['answers'])) for r in rows]
    low, high = mean_interval(pairs, len(vocab))
    sd = round(float(np.std(f1, ddof=1)), 4) if len(f1) > 1 else None
    print(json.dumps(dict(**line, confusion=sum(confusion(y, p, len(vocab)) for y, p in pairs).tolist(),
                          mean=round(float(np.mean(f1)), 4), low=low, high=high, sd=sd, seeds=rows, **runs[0].info['machine'])))
