"""Evaluate a change of a recipe on images that are not used for published scores.

The network is trained on four fifths of the rows that `tail_split` assigns to training and validation. The other fifth is
evaluated after the last epoch, with and without test-time augmentation; exact duplicates are on one side, and test rows are not
used. The temperature is the best of a grid on the same images, so negative log-likelihoods can be compared only with those of
this script. Changes are fields of `Recipe`, such as epochs=24 growth='()' opt=muon cutmix=0.5; --sizes evaluates at other sizes
as well. Prints one JSON line. Needs --data. On two cores, 24 epochs at 64 px take a quarter of an hour.
"""
import argparse
import ast
import json
import time
from dataclasses import asdict

import numpy as np
import torch
from har_fastai.core import prepare, probe_features, recipe_dls
from har_fastai.files import HARError
from har_fastai.data.loaders import CachedDL
from har_fastai.evaluate.metrics import accuracy, confusion, macro_f1
from har_fastai.models import torch_device
from har_fastai.train.recipes import find_recipe
from har_fastai.train.runs import machine
from har_fastai.train.learner import har_learner
from har_fastai.train.probe import FitProbe
from sklearn.model_selection import StratifiedGroupKFold


def value(text):
    "Parse a number, a tuple, True or False; other text is returned unchanged"
    try: return ast.literal_eval(text)
    except (ValueError, SyntaxError): return text


def settings(recipe):
    "The fields of a recipe except the seed, as JSON returns them"
    return json.loads(json.dumps({k: v for k, v in asdict(recipe).items() if k != 'seed'}))


def explored(data, seed=0):
    "The rows for experiments: four fifths train, one fifth valid"
    df = prepare(data, 'tail', 42)
    df = df[df.part.isin(['train', 'valid'])].reset_index(drop=True)
    _, held = next(StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(df, df.label, df.sha256))
    return df.assign(part=np.where(df.index.isin(held), 'valid', 'train'))


@torch.inference_mode()
def outputs(learn):
    "Logits of the validation images, logits of their horizontal flips, and classes, in the order of the table"
    model, rows = learn.model.eval(), []
    order = torch.tensor(learn.dls.valid.get_idxs()).argsort() # the loader groups images by shape
    for x, y in learn.dls.valid:
        x = x.as_subclass(torch.Tensor)
        rows.append((model(x).float().cpu(), model(x.flip(-1)).float().cpu(), y.as_subclass(torch.Tensor).cpu()))
    return [torch.cat(r)[order] for r in zip(*rows)]


def scores(z, y):
    "Accuracy, macro-F1 and the negative log-likelihood at the best temperature"
    cm = confusion(y.numpy(), z.argmax(1).numpy(), z.shape[1])
    nll = min(torch.nn.functional.cross_entropy(z / t, y).item() for t in np.arange(0.4, 1.4, 0.05))
    return dict(nll=round(nll, 4), acc=round(float(accuracy(cm)), 4), f1=round(float(macro_f1(cm)), 4))


def sized(learn, size):
    "Scores of the validation images at another size, with test-time augmentation"
    if not isinstance(learn.dls.valid, CachedDL): raise HARError('--sizes needs cached images: increase the limit of the cache')
    learn.dls.valid.size = size
    z, flipped, y = outputs(learn)
    return scores((z + flipped) / 2, y)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('changes', nargs='*', metavar='FIELD=VALUE', help='fields of the recipe to change')
    p.add_argument('--data', required=True, help='folder or table of labelled images')
    p.add_argument('--name', default='', help='name of the experiment')
    p.add_argument('--recipe', default='cpu')
    p.add_argument('--sizes', nargs='*', type=int, default=[], metavar='PX',
                   help='other sizes to evaluate at, with test-time augmentation')
    p.add_argument('--device')
    a = p.parse_args()
    changes = {k: value(v) for k, v in (c.split('=', 1) for c in a.changes)}
    recipe, df = find_recipe(a.recipe, **changes), explored(a.data)
    learn = har_learner(recipe_dls(df, recipe, torch_device(a.device)), recipe)
    probe = [FitProbe(probe_features(learn, df), recipe.architecture.head, recipe.weighted)] if recipe.probe else []
    start = time.perf_counter()
    learn.fit_recipe(cbs=probe)
    seconds, (z, flipped, y) = time.perf_counter() - start, outputs(learn)
    print(json.dumps(dict(what='explored', name=a.name, recipe=a.recipe, changes=changes, settings=settings(recipe), images='own',
                          split='explore.py', seed=recipe.seed, epochs=recipe.epochs, n=len(y), seconds=round(seconds),
                          train_accuracy=round(float(learn.recorder.values[-1][1]), 4),
                          one=scores(z, y), flip=scores((z + flipped) / 2, y),
                          **{f'flip {s} px': sized(learn, s) for s in a.sizes}, **machine())))
