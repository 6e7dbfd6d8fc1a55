"""Train a recipe with several seeds on the report's protocol done honestly (the last 20 % of rows are test), and say what it reaches.

Each seed has a run of its own in --out; a finished one is not trained again and an interrupted one goes on from its checkpoint, so the script may be
stopped and started at will, on another machine too if the folder is taken along. Seeds change weights, sampling and augmentation, and which rows are valid; the test rows are
always the same. The interval of the mean is a bootstrap over the test images, with all seeds scored on the same draws; the spread over seeds stands beside it.
Prints one JSON line, which holds each seed's learning curve, its answer to every test image, whether the right one was among its first three, and the confusion matrix of all seeds together as well. Seeds of the same recipe that an earlier line
holds may be taken from there (--earlier results.jsonl), so that they need not be trained again where their runs are gone. Needs --data, real images.

The recipes: `report` (R1), `best` (R2, the same network), `scratch` (R3, a residual network; these want a GPU), `cpu` (R4), any other with --changes, as in explore.py.
"""
import argparse
import base64
import json
from pathlib import Path

import numpy as np
from har_fastai.core import train_baseline
from har_fastai.data.splits import read_split
from har_fastai.files import HARError
from har_fastai.predict.bundle import read_card
from har_fastai.evaluate.metrics import confusion, top_k_hits, macro_f1
from har_fastai.train.recipes import Recipe, find_recipe
from har_fastai.train.runs import Run
from har_fastai.evaluate.scoring import class_indices

from explore import settings, value


def trained(data, recipe, seed, out, device, changes):
    "The finished run of a seed"
    run = Run(out/f'{recipe}-{"-".join(f"{k}={v}" for k, v in changes.items())}-seed{seed}'.replace('--', '-').replace('/', '_'))
    if run.exists and settings(run.recipe) != settings(find_recipe(recipe, **changes)): raise SystemExit(f'{run.path} holds a run of another recipe: move it away, or give another --out')
    if run.file('metrics.json').is_file(): return run
    if run.exists: return train_baseline(data, out=run.path, resume=True, device=device).run
    return train_baseline(data, recipe, split='tail', out=run.path, seed=seed, device=device, faithful=0, **changes).run


def mean_interval(answers, n_classes, draws=2000, seed=0):
    "95 % confidence interval of the seeds' mean macro-F1, over draws of the images"
    rng, n = np.random.default_rng(seed), len(answers[0][0])
    means = []
    for _ in range(draws):
        i = rng.integers(0, n, n)
        means.append(np.mean([macro_f1(confusion(y[i], p[i], n_classes)) for y, p in answers]))
    return [round(float(v), 4) for v in np.percentile(means, [2.5, 97.5])]


def packed(classes):
    "Classes, one byte each, as text"
    return base64.b64encode(np.asarray(classes, np.uint8)).decode()


def unpacked(text):
    "The classes that `packed` wrote"
    return np.frombuffer(base64.b64decode(text), np.uint8).astype(int)


def test_table(run):
    "A run's answers to the test images, in the order of their file names"
    return run.predictions.query('part == "test"').sort_values('filename')


def same_recipe(line, own):
    "Is a line about the recipe with these settings? Fields that recipes did not have when it was printed count as their defaults"
    try: return settings(Recipe(**line['settings'])) == own
    except (KeyError, TypeError, HARError): return False # a line from before settings were printed, or with a field that is gone


def row(run, answers):
    "What one run reached, its learning curve and its answers to the test images in the order of their file names"
    m, h, card, table = run.metrics, run.history, read_card(run.path), test_table(run)
    f, near = m['test']['macro_f1'], top_k_hits(class_indices(table, card.vocab)[0], table[card.vocab].to_numpy(), 3)
    return dict(seed=run.recipe.seed, macro_f1=round(f['value'], 6), low=round(f['low'], 4), high=round(f['high'], 4), accuracy=round(m['test']['accuracy']['value'], 6), valid=round(m['valid']['macro_f1']['value'], 4),
                best_epoch=m['best_epoch'] + 1, minutes=round(h.seconds.sum() / 60, 1), threads=run.info['machine']['threads'], gpu=run.info['machine']['gpu'],
                trained=int((read_split(run.file('split.csv')).part == 'train').sum()), temperature=card.temperature, calibration={k: round(float(m['test']['calibration'][k]), 6) for k in ('ece', 'ece_before', 'nll', 'nll_before')},
                curve=[[round(float(v), 4) for v in h[k]] for k in ('train_macro_f1', 'valid_macro_f1')], answers=packed(answers), top3=packed(np.packbits(near)))


def earlier_rows(file, line, seeds):
    "Rows of other seeds of the same recipe, scored on the same images, that a file of such lines holds; the last of each seed"
    said = [json.loads(t) for t in file.read_text(encoding='utf-8').splitlines() if t.startswith('{')] if file else []
    same = [r for e in said if all(e.get(k) == line[k] for k in ('what', 'vocab', 'truth')) and same_recipe(e, line['settings']) for r in e['seeds']]
    return [r for s, r in {r['seed']: r for r in same}.items() if s not in seeds]


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='folder or table of labelled images')
    p.add_argument('--recipe', default='best')
    p.add_argument('--changes', nargs='*', default=[], metavar='FIELD=VALUE', help='fields of the recipe to set otherwise')
    p.add_argument('--seeds', nargs='+', type=int, default=[42, 43, 44])
    p.add_argument('--out', type=Path, default=Path('runs'), help='folder for the runs')
    p.add_argument('--earlier', type=Path, help='file of lines that this script printed, for further seeds')
    p.add_argument('--device')
    p.add_argument('--name', default='', help='what the figure is for, such as R2')
    a = p.parse_args()
    changes = {k: value(v) for k, v in (c.split('=', 1) for c in a.changes)}
    runs = [trained(a.data, a.recipe, s, a.out, a.device, changes) for s in a.seeds]
    vocab = read_card(runs[0].path).vocab
    truth, answers = zip(*(class_indices(test_table(r), vocab) for r in runs))
    line = dict(what='reproduced', name=a.name, recipe=a.recipe, changes=changes, settings=settings(runs[0].recipe), images='own', split='tail', n=len(truth[0]), vocab=vocab, truth=packed(truth[0]))
    rows = sorted([*map(row, runs, answers), *earlier_rows(a.earlier, line, a.seeds)], key=lambda r: r['seed'])
    f1, pairs = [r['macro_f1'] for r in rows], [(truth[0], unpacked(r['answers'])) for r in rows]
    low, high = mean_interval(pairs, len(vocab))
    print(json.dumps(dict(**line, confusion=sum(confusion(y, p, len(vocab)) for y, p in pairs).tolist(), mean=round(float(np.mean(f1)), 4), low=low, high=high, sd=round(float(np.std(f1, ddof=1)), 4) if len(f1) > 1 else None, seeds=rows, **runs[0].info['machine'])))
