"""Make the included model baseline: train a recipe on all images, and take its scores from runs that were tested on other images.

A model that was trained on all images cannot be tested on any of them. Its scores are therefore those of separate evaluation
runs: runs of the same recipe by reproduce.py, each tested on the same last 20 % of rows, which it was not trained on. Each score
is the mean over the evaluation runs, with a bootstrap confidence interval over the test images (the same draws for all runs); the
temperature is their geometric mean. The included model has two fifths more training images than these runs, so it probably scores
slightly higher. It is the model of the last epoch, as no images were left to select one. Weights are rounded to 16 bits.

The predictions of the evaluation runs are read from the line that reproduce.py printed. Interrupted training resumes from its
checkpoint. Prints one JSON line. Needs --data.
"""
import argparse
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
from har_fastai.core import train_baseline
from har_fastai.files import HARError
from har_fastai.data.splits import read_split
from har_fastai.predict.bundle import load_bundle, save_bundle, save_trained_on
from har_fastai.predict.export import export_graph
from har_fastai.predict.predictor import Predictor
from har_fastai.evaluate.metrics import (accuracy, class_f1, classification_table, confused_pairs, confusion, macro_f1,
                                         weighted_f1)
from har_fastai.train.recipes import find_recipe
from har_fastai.train.runs import Run
from har_fastai.data.tables import read_har

from explore import settings
from reproduce import same_recipe, unpacked


def trained(data, recipe, out, device):
    "The finished run on all images"
    run = Run(out)
    if run.file('model.json').is_file(): return run
    return train_baseline(data, None if run.exists else recipe, split='whole', out=out, resume=run.exists, device=device).run


def evaluation_runs(file, recipe):
    "The last line of `reproduce.py` for this recipe"
    def fits(e): return e['what'] == 'reproduced' and same_recipe(e, settings(recipe)) and all('top3' in r for r in e['seeds'])
    with open(file, encoding='utf-8') as f: lines = [e for e in map(json.loads, f) if fits(e)]
    if not lines:
        raise HARError(f'{file} has no line for the current recipe {recipe.name}: run reproduce.py, and append its output')
    return lines[-1]


def interval(values):
    "Lower and upper end of a 95 % confidence interval, over the first axis"
    return np.quantile(values, [0.025, 0.975], axis=0)


def mean_scores(y, preds, near, n_classes, draws=2000, seed=0):
    "Mean scores of the evaluation runs, by name and by class, with confidence intervals"
    rng, n = np.random.default_rng(seed), len(y)
    samples = [rng.integers(0, n, n) for _ in range(draws)]
    drawn = np.array([[confusion(y[i], p[i], n_classes) for p in preds] for i in samples]) # (draws, runs, n, n)
    own = np.array([confusion(y, p, n_classes) for p in preds])
    def named(value, many):
        low, high = interval(many)
        return dict(value=float(value), low=float(low), high=float(high))
    out = {f.__name__: named(f(own).mean(), f(drawn).mean(1)) for f in (macro_f1, weighted_f1, accuracy)}
    top = np.mean(near, 0)
    out['top3'] = named(top.mean(), np.array([top[i].mean() for i in samples]))
    low, high = interval(class_f1(drawn).mean(1))
    return dict(n=n, **out), class_f1(own).mean(0), low, high


def by_class(y, preds, vocab, f1, low, high):
    "Precision, recall and F1 of each class, mean over the evaluation runs"
    tables = [classification_table(y, p, vocab).loc[vocab] for p in preds]
    mean = sum(t[['precision', 'recall']] for t in tables) / len(tables)
    return {v: dict(precision=float(mean.precision[v]), recall=float(mean.recall[v]), f1=float(f1[i]), low=float(low[i]),
                    high=float(high[i]), support=int(tables[0].support[v])) for i, v in enumerate(vocab)}


def card_metrics(line, total):
    "Temperature and metrics of the evaluation runs; `total` is the number of training images of the included model"
    vocab, rows, y = line['vocab'], line['seeds'], unpacked(line['truth'])
    preds = [unpacked(r['answers']) for r in rows]
    near = [np.unpackbits(unpacked(r['top3']).astype(np.uint8), count=len(y)) for r in rows]
    head, f1, low, high = mean_scores(y, preds, near, len(vocab))
    head['calibration'] = {k: float(np.mean([r['calibration'][k] for r in rows])) for k in rows[0]['calibration']}
    pairs = confused_pairs(sum(confusion(y, q, len(vocab)) for q in preds), vocab, 8)
    confused = [{k: v if isinstance(v, str) else round(float(v), 4) for k, v in r.items()} for r in pairs.to_dict('records')]
    which = 'scores of one run' if len(rows) == 1 else f'mean scores of {len(rows)} runs'
    seeds = ', '.join(str(r['seed']) for r in rows)
    return float(np.exp(np.mean([np.log(r['temperature']) for r in rows]))), dict(
        test=head, classes=by_class(y, preds, vocab, f1, low, high), confused=confused,
        of=f'{which} of the same recipe (seed {seeds}), trained on {rows[0]["trained"]:,} images and evaluated on the last 20 % of '
           f'rows; the model itself was trained on all {total:,}',
        seeds=[{k: r[k] for k in ('seed', 'macro_f1', 'accuracy', 'temperature')} for r in rows])


if __name__ == '__main__':
    here = Path(__file__).resolve().parent
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='folder or table of labelled images')
    p.add_argument('--recipe', default='best')
    p.add_argument('--results', type=Path, default=here/'results.jsonl',
                   help='output of reproduce.py (JSON lines); the last line for the recipe is used')
    p.add_argument('--run', type=Path, default=Path('runs/whole'), help='folder of the run on all images')
    p.add_argument('--to', type=Path, default=here.parent/'har_fastai'/'shipped'/'baseline', help='folder for the model')
    p.add_argument('--device')
    a = p.parse_args()
    images, line = read_har(a.data), evaluation_runs(a.results, find_recipe(a.recipe))
    with redirect_stdout(sys.stderr): run = trained(a.data, a.recipe, a.run, a.device) # standard output is for the JSON line
    if not same_recipe(line, settings(run.recipe)):
        raise HARError(f'{run.path} was trained with another recipe than {a.recipe}: give another --run')
    model, card = load_bundle(run.path)
    if line['vocab'] != card.vocab: raise HARError(f'{a.results} and {run.path} have different classes')
    card.temperature, metrics = card_metrics(line, len(images))
    card.metrics = dict(**metrics, recipe=vars(run.recipe))
    a.to.mkdir(parents=True, exist_ok=True)
    save_bundle(a.to, model, card, half=True)
    save_trained_on(a.to, read_split(run.file('split.csv')).sha256)
    export_graph(a.to)
    full, rounded = Predictor(run.path, half=False), Predictor(a.to, half=False)
    full.card.temperature = card.temperature
    few, test = images.path[:200], card.metrics['test']
    change = np.abs(full.probs(few) - rounded.probs(few)).max()
    size = (a.to/'model.safetensors').stat().st_size
    print(json.dumps(dict(what='shipped', recipe=run.recipe.name, size_kb=round(size / 1e3),
                          largest_change_by_rounding=round(float(change), 5), temperature=round(card.temperature, 4),
                          macro_f1=test['macro_f1'], n=test['n'],
                          minutes=round(run.history.seconds.sum() / 60, 1), **run.info['machine'])))
