"""Make the model that comes with the package: train a recipe on every image, and take what it can do from runs that kept images back.

A model that was trained on all images can't be scored on any of them. So its figures are those of its sisters: runs of the same recipe on the report's
protocol done honestly (reproduce.py makes them), each scored on the same last 20 % of rows, which it was not trained on. Each figure is the mean
over the sisters, its interval a bootstrap over the test images with all sisters scored on the same draws. The temperature is their geometric
mean. The shipped model saw two fifths more images than they, so it's more likely better than worse; it's that of its last epoch, as no images were left to choose one by. Weights are rounded to 16 bits.

The sisters' runs need not be at hand: their answers are read from the line that reproduce.py printed.
Training goes on from its checkpoint where it was cut short. Prints one JSON line. Needs --data, real images.
"""
import argparse
import json
from pathlib import Path

import numpy as np
from har_fastai.core import train_baseline
from har_fastai.files import HARError
from har_fastai.predict.bundle import load_bundle, save_bundle
from har_fastai.predict.predictor import Predictor
from har_fastai.evaluate.metrics import accuracy, class_f1, classification_table, confused_pairs, confusion, macro_f1, weighted_f1
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


def sisters(file, recipe):
    "The last line of `reproduce.py` about this recipe"
    with open(file, encoding='utf-8') as f: lines = [e for e in map(json.loads, f) if e['what'] == 'reproduced' and same_recipe(e, settings(recipe)) and all('top3' in r for r in e['seeds'])]
    if not lines: raise HARError(f'{file} holds no line about the recipe {recipe.name} as it is now: run reproduce.py with it first, and add what it prints')
    return lines[-1]


def interval(values):
    "Both ends of the 95 % confidence interval, over the first axis"
    return np.quantile(values, [0.025, 0.975], axis=0)


def figures(y, preds, near, n_classes, draws=2000, seed=0):
    "Mean figures of the sisters, by name, and of each class, with intervals"
    rng, n = np.random.default_rng(seed), len(y)
    samples = [rng.integers(0, n, n) for _ in range(draws)]
    drawn = np.array([[confusion(y[i], p[i], n_classes) for p in preds] for i in samples]) # (draws, sisters, n, n)
    own = np.array([confusion(y, p, n_classes) for p in preds])
    def named(value, many): low, high = interval(many); return dict(value=float(value), low=float(low), high=float(high))
    out = {f.__name__: named(f(own).mean(), f(drawn).mean(1)) for f in (macro_f1, weighted_f1, accuracy)}
    top = np.mean(near, 0)
    out['top3'] = named(top.mean(), np.array([top[i].mean() for i in samples]))
    low, high = interval(class_f1(drawn).mean(1))
    return dict(n=n, **out), class_f1(own).mean(0), low, high


def by_class(y, preds, vocab, f1, low, high):
    "Precision, recall and F1 of each class, mean over the sisters"
    tables = [classification_table(y, p, vocab).loc[vocab] for p in preds]
    mean = sum(t[['precision', 'recall']] for t in tables) / len(tables)
    return {v: dict(precision=float(mean.precision[v]), recall=float(mean.recall[v]), f1=float(f1[i]), low=float(low[i]), high=float(high[i]), support=int(tables[0].support[v])) for i, v in enumerate(vocab)}


def told(line, total):
    "Temperature and figures of sister runs; `total` images are there for the model itself"
    vocab, rows, y = line['vocab'], line['seeds'], unpacked(line['truth'])
    preds, near = [unpacked(r['answers']) for r in rows], [np.unpackbits(unpacked(r['top3']).astype(np.uint8), count=len(y)) for r in rows]
    head, f1, low, high = figures(y, preds, near, len(vocab))
    head['calibration'] = {k: float(np.mean([r['calibration'][k] for r in rows])) for k in rows[0]['calibration']}
    pairs = confused_pairs(sum(confusion(y, q, len(vocab)) for q in preds), vocab, 8)
    return float(np.exp(np.mean([np.log(r['temperature']) for r in rows]))), dict(
        test=head, classes=by_class(y, preds, vocab, f1, low, high), confused=[{k: v if isinstance(v, str) else round(float(v), 4) for k, v in r.items()} for r in pairs.to_dict('records')],
        of=f'those of {"one sister run" if len(rows) == 1 else f"{len(rows)} sister runs, their mean"} (seed {", ".join(str(r["seed"]) for r in rows)}), trained on {rows[0]["trained"]:,} images and scored on the last 20 % of rows; the model itself was trained on all {total:,}',
        seeds=[{k: r[k] for k in ('seed', 'macro_f1', 'accuracy', 'temperature')} for r in rows])


if __name__ == '__main__':
    here = Path(__file__).resolve().parent
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='folder or table of labelled images')
    p.add_argument('--recipe', default='best')
    p.add_argument('--sisters', type=Path, default=here/'results.jsonl', help='file of lines that reproduce.py printed; the last one about the recipe counts')
    p.add_argument('--run', type=Path, default=Path('runs/whole'), help='folder of the run on all images')
    p.add_argument('--to', type=Path, default=here.parent/'har_fastai'/'shipped', help='folder of the model')
    p.add_argument('--device')
    a = p.parse_args()
    images, line = read_har(a.data), sisters(a.sisters, find_recipe(a.recipe))
    run = trained(a.data, a.recipe, a.run, a.device)
    if not same_recipe(line, settings(run.recipe)): raise HARError(f'{run.path} holds a run of another recipe than {a.recipe}: give another --run')
    model, card = load_bundle(run.path)
    if line['vocab'] != card.vocab: raise HARError(f'{a.sisters} is of other classes than {run.path}')
    card.temperature, metrics = told(line, len(images))
    card.metrics = dict(**metrics, recipe=vars(run.recipe))
    a.to.mkdir(parents=True, exist_ok=True)
    save_bundle(a.to, model, card, half=True)
    full, short = Predictor(run.path, half=False), Predictor(a.to, half=False)
    full.card.temperature = card.temperature
    few, test = images.path[:200], card.metrics['test']
    change = np.abs(full.probs(few) - short.probs(few)).max()
    print(json.dumps(dict(what='shipped', recipe=run.recipe.name, size_kb=round((a.to/'model.safetensors').stat().st_size / 1e3), largest_change_by_rounding=round(float(change), 5), temperature=round(card.temperature, 4),
                          macro_f1=test['macro_f1'], n=test['n'], minutes=round(run.history.seconds.sum() / 60, 1), **run.info['machine'])))
