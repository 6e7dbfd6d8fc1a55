"""Try a change of a recipe on images that no figure is claimed for.

Four fifths of the rows that `tail_split` leaves for training and validation are trained on, the last fifth (exact copies on one side) is scored
after the last epoch, with and without the horizontal flip; the test rows are never looked at. The temperature is the best of a grid, on the
same images, so the negative log-likelihoods compare recipes and nothing else. Changes are written as fields of `Recipe`, such as
epochs=24 growth='()' opt=muon cutmix=0.5; --sizes scores in other sizes as well. Prints one JSON line. Needs --data, real images; on two cores 24 epochs at 64 px take a quarter of an hour.
"""
import argparse
import ast
import json
import time
from dataclasses import asdict

import numpy as np
import torch
from har_fastai.core import prepare, recipe_dls
from har_fastai.files import HARError
from har_fastai.data.loaders import CachedDL
from har_fastai.evaluate.metrics import accuracy, confusion, macro_f1
from har_fastai.models import torch_device
from har_fastai.train.recipes import find_recipe
from har_fastai.train.runs import machine
from har_fastai.train.learner import har_learner
from sklearn.model_selection import StratifiedGroupKFold


def value(text):
    "A number, a tuple, True, False; else the text itself"
    try: return ast.literal_eval(text)
    except (ValueError, SyntaxError): return text


def settings(recipe):
    "All that a recipe says, but for the seed, as JSON reads it back"
    return json.loads(json.dumps({k: v for k, v in asdict(recipe).items() if k != 'seed'}))


def explored(data, seed=0):
    "The rows that may be explored on: four fifths train, one fifth valid"
    df = prepare(data, 'tail', 42)
    df = df[df.part.isin(['train', 'valid'])].reset_index(drop=True)
    _, held = next(StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(df, df.label, df.sha256))
    return df.assign(part=np.where(df.index.isin(held), 'valid', 'train'))


@torch.inference_mode()
def outputs(learn):
    "Logits of the held images, of their horizontal flips, and their classes, in the order of the table"
    model, rows, order = learn.model.eval(), [], torch.tensor(learn.dls.valid.get_idxs()).argsort() # images of one shape come together
    for x, y in learn.dls.valid:
        x = x.as_subclass(torch.Tensor)
        rows.append((model(x).float().cpu(), model(x.flip(-1)).float().cpu(), y.as_subclass(torch.Tensor).cpu()))
    return [torch.cat(r)[order] for r in zip(*rows)]


def figures(z, y):
    "Accuracy, macro-F1, and the negative log-likelihood at the best temperature"
    cm = confusion(y.numpy(), z.argmax(1).numpy(), z.shape[1])
    nll = min(torch.nn.functional.cross_entropy(z / t, y).item() for t in np.arange(0.4, 1.4, 0.05))
    return dict(nll=round(nll, 4), acc=round(float(accuracy(cm)), 4), f1=round(float(macro_f1(cm)), 4))


def sized(learn, size):
    "Figures of the held images in another size, mirror image included"
    if not isinstance(learn.dls.valid, CachedDL): raise HARError('--sizes needs decoded images: make room in the cache')
    learn.dls.valid.size = size
    z, mirrored, y = outputs(learn)
    return figures((z + mirrored) / 2, y)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('changes', nargs='*', metavar='FIELD=VALUE', help='fields of the recipe to set otherwise')
    p.add_argument('--data', required=True, help='folder or table of labelled images')
    p.add_argument('--name', default='', help='what to call the experiment')
    p.add_argument('--recipe', default='cpu')
    p.add_argument('--sizes', nargs='*', type=int, default=[], metavar='PX', help='sides in which to score as well, mirror image included')
    p.add_argument('--device')
    a = p.parse_args()
    changes = {k: value(v) for k, v in (c.split('=', 1) for c in a.changes)}
    recipe, df = find_recipe(a.recipe, **changes), explored(a.data)
    learn = har_learner(recipe_dls(df, recipe, torch_device(a.device)), recipe)
    start = time.perf_counter()
    learn.fit_recipe()
    seconds, (z, mirrored, y) = time.perf_counter() - start, outputs(learn)
    print(json.dumps(dict(what='explored', name=a.name, recipe=a.recipe, changes=changes, settings=settings(recipe), images='own', split='explore.py', seed=recipe.seed, epochs=recipe.epochs, n=len(y), seconds=round(seconds), train_accuracy=round(float(learn.recorder.values[-1][1]), 4),
                          one=figures(z, y), flip=figures((z + mirrored) / 2, y), **{f'flip {s} px': sized(learn, s) for s in a.sizes}, **machine())))
