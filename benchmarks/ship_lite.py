"""Make the included model lite2: EfficientNet-Lite2, fine-tuned on photographs and drawings.

The photographs are split as reproduce.py does (tail: the last 20 % of the rows are test images); 1,200 drawings are trained on as well,
100 are validation images and 1,000 test images. The evaluation size is chosen on the validation photographs, and temperature and limits
are fitted on them; the test images are evaluated once. Interrupted training resumes from its checkpoint. Weights are
rounded to 16 bits. Prints one JSON line. Needs --data.

This makes the evaluated model. With --evaluated, a second run makes the included model: the same recipe, trained on the test
photographs as well, but not on the validation photographs, on which its temperature and limits are fitted again. Its scores are
those of the evaluated model, which had a fifth fewer training images. With --average, the weights are averaged with those of another
such model, such as the evaluated one: at equal shares or others, as the loss on the validation photographs decides (Wortsman et al.,
2022, Model soups, arXiv:2203.05482).
"""
import argparse
import ast
import json
import os
import shutil
import sys
from contextlib import redirect_stdout
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from har_fastai.core import drawn_sample, train_baseline
from har_fastai.data.checks import check_har, usable
from har_fastai.data.splits import read_split, split_har
from har_fastai.data.tables import read_har
from har_fastai.evaluate.metrics import class_intervals, prob_array, classification_table, confused_pairs, confusion
from har_fastai.evaluate.scoring import calibrate, class_indices, predict_table, score
from har_fastai.evaluate.unsure import class_means, fit_unsure, similarities, unsure_scores
from har_fastai.predict.bundle import TRAINED_ON, load_bundle, read_card, save_bundle, save_trained_on
from har_fastai.predict.export import export_graph
from har_fastai.predict.features import FeatureExtractor
from har_fastai.predict.predictor import Predictor
from har_fastai.train.recipes import find_recipe
from har_fastai.train.runs import Run

PARTS = ('train', 'valid', 'test')


def link(source, to):
    "A hard link, or a copy on another file system"
    if to.exists(): return
    try: os.link(source, to)
    except OSError: shutil.copy(source, to)


def mix(data, to, whole):
    "A data set of photographs and drawings with their parts; if `whole`, the test photographs are for training; returns its table"
    photos = split_har(usable(check_har(read_har(data))), 'tail', 42)
    if whole: photos['part'] = photos.part.replace('test', 'train')
    drawings = read_har(drawn_sample()).sample(frac=1, random_state=0).reset_index(drop=True)
    drawings = drawings.assign(part=np.repeat([*PARTS, ''], [1200, 100, 1000, len(drawings) - 2300]))
    rows = []
    for folder, df in (('photos', photos), ('drawings', drawings)):
        (to/folder).mkdir(parents=True, exist_ok=True)
        for r in df[df.part.isin(PARTS)].itertuples():
            name = f'{folder}/{Path(r.path).name}'
            link(r.path, to/name)
            rows.append((name, r.label, r.part))
    table = pd.DataFrame(rows, columns=['filename', 'label', 'part'])
    table.to_csv(to/'table.csv', index=False)
    return to/'table.csv'


def valid_scores(model, card, photos, size):
    "Loss and accuracy on the validation photographs at a size, after calibration on them"
    preds = calibrate(c := replace(card, size=size, temperature=1.), predict_table(Predictor((model, c)), photos))
    y, predicted = class_indices(preds, card.vocab)
    p = prob_array(preds, card.vocab)[np.arange(len(y)), y]
    return dict(loss=float(-np.log(np.maximum(p, 1e-9)).mean()), accuracy=float((y == predicted).mean()))


def best_size(model, card, photos, sizes):
    "The size with the lowest loss on the validation photographs, and that loss at each size"
    losses = {size: valid_scores(model, card, photos, size) for size in sizes}
    return min(losses, key=lambda s: losses[s]['loss']), losses


def averaged(model, card, other, photos, shares=(0, 0.25, 0.5, 0.75)):
    "The network, with its weights averaged with those of another model at the share of lowest validation loss, and all scores"
    (start, _), own, scores = load_bundle(other), model.state_dict(), {}
    def mean(share):
        new = deepcopy(model)
        new.load_state_dict({k: torch.lerp(v, start.state_dict()[k], share) if v.is_floating_point() else v for k, v in own.items()})
        return new
    for share in shares: scores[share] = valid_scores(mean(share), card, photos, card.size)
    return mean(best := min(scores, key=lambda s: scores[s]['loss'])), dict(share=best, scores=scores)


def own_metrics(model, card, photos, drawings):
    "Scores of the evaluated model for the card"
    test, drawn = (predict_table(Predictor((model, card), half=False), df) for df in (photos['test'], drawings))
    return dict(**metrics(test, card), drawings=dict(images=len(drawn), accuracy=float((drawn.label == drawn.predicted).mean())),
                unsure=unsure_scores(test, card))


def metrics(preds, card):
    "Scores, scores by class and confusions for the card"
    y, predicted = class_indices(preds, card.vocab)
    cm = confusion(y, predicted, len(card.vocab))
    table = classification_table(y, predicted, card.vocab).loc[card.vocab]
    ends = class_intervals(cm, card.vocab)
    classes = {v: dict(precision=float(table.precision[v]), recall=float(table.recall[v]), f1=float(table.f1[v]), low=float(ends.f1_low[v]),
                       high=float(ends.f1_high[v]), support=int(table.support[v])) for v in card.vocab}
    confused = [{k: v if isinstance(v, str) else round(float(v), 4) for k, v in r.items()}
                for r in confused_pairs(cm, card.vocab, 8).to_dict('records')]
    return dict(test=score(preds, card.vocab, card.temperature), classes=classes, confused=confused)


def limits(model, card, df, valid, each=40, most=500):
    "Means of the classes, of photographs and of drawings apart, and the limits for unsure predictions"
    extractor = FeatureExtractor((model, card), half=False)
    means = []
    for folder in ('photos', 'drawings'):
        train = df[(df.part == 'train') & df.filename.str.startswith(folder)]
        train = train.groupby('label', group_keys=False).sample(frac=1, random_state=0).groupby('label').head(each)
        means.append(class_means(extractor.features(train.path), train.label.map(card.vocab.index).to_numpy(), len(card.vocab)))
    means = np.concatenate(means)
    some = valid.sample(min(most, len(valid)), random_state=0)
    return means, fit_unsure(valid, card.vocab, similarities(extractor.features(some.path), means))


def add_trained_on(to, other):
    "Count the training images of another model, with which the weights were averaged, as those of this one"
    both = [np.load(Path(d)/TRAINED_ON, allow_pickle=False) for d in (to, other)]
    np.save(Path(to)/TRAINED_ON, np.unique(np.concatenate(both)))


def scores_of(evaluated, trained, share):
    "Which model the scores are those of"
    text = (f'scores of a model with the same recipe, trained on {evaluated["photographs"]:,} photographs; this model was trained on '
            f'{trained["photographs"]:,}, among them those test images')
    return text + (f'; its weights are averaged with those of another training, which have a share of {share:.0%}' if share else '')


if __name__ == '__main__':
    here = Path(__file__).resolve().parent
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='folder or table of labelled photographs')
    p.add_argument('--recipe', default='finetune')
    p.add_argument('--arch', default='efficientnet_lite2')
    p.add_argument('--epochs', type=int, default=12)
    p.add_argument('--growth', type=ast.literal_eval, default=((192, 0.5), (224, 0.5)),
                   help='progressive resizing: pairs of px and share of the epochs')
    p.add_argument('--seed', type=int, default=42, help='seed of the training; the split has seed 42 always')
    p.add_argument('--teacher', default='', help='folder of a model whose probabilities are learned as well')
    p.add_argument('--distill', type=float, default=0.7, help='weight of these probabilities in the loss, 0–1')
    p.add_argument('--mixed', type=Path, default=Path('runs/mixed'), help='folder for the photographs and drawings')
    p.add_argument('--run', type=Path, default=Path('runs/lite2'), help='folder of the run')
    p.add_argument('--sizes', type=int, nargs='+', default=[224, 256, 288], help='sizes to choose from on validation photographs, px')
    p.add_argument('--to', type=Path, default=here.parent/'har_fastai'/'shipped'/'lite2', help='folder for the model')
    p.add_argument('--evaluated', type=Path, help='folder of the evaluated model: train on its test images too, and take its scores')
    p.add_argument('--average', type=Path, help='folder of a model with the same network: average the weights with its weights')
    p.add_argument('--device')
    a = p.parse_args()
    start, whole = find_recipe(a.recipe), a.evaluated is not None # another network keeps its sizes
    recipe = find_recipe(a.recipe, arch=a.arch, epochs=a.epochs, size=start.size, growth=a.growth, seed=a.seed, teacher=a.teacher,
                         distill=a.distill)
    with redirect_stdout(sys.stderr): # standard output is for the JSON line
        table, run = mix(a.data, a.mixed, whole), Run(a.run)
        if not run.file('model.json').is_file():
            train_baseline(table, None if run.exists else recipe, out=a.run, resume=run.exists, device=a.device, faithfulness=0)
    df = read_har(table)
    photos = {part: df[(df.part == part) & df.filename.str.startswith('photos')].reset_index(drop=True) for part in PARTS}
    drawings = df[(df.part == 'test') & df.filename.str.startswith('drawings')].reset_index(drop=True)
    model, card = load_bundle(run.path)
    averages = {}
    if a.average: model, averages = averaged(model, card, a.average, photos['valid'])
    size, losses = best_size(model, card, photos['valid'], a.sizes)
    card = replace(card, size=size, temperature=1.)
    valid = calibrate(card, predict_table(Predictor((model, card), half=False), photos['valid']))
    means, card.unsure = limits(model, card, df, valid)
    card.means = torch.from_numpy(means)
    scores = read_card(a.evaluated).metrics if whole else own_metrics(model, card, photos, drawings)
    trained = dict(photographs=len(photos['train']), drawings=1200, validation=len(photos['valid']))
    if whole: scores['of'] = scores_of(scores['trained'], trained, averages.get('share'))
    card.metrics = scores | dict(sizes={str(k): v for k, v in losses.items()}, averaged=averages, recipe=asdict(run.recipe),
                                 trained=trained)
    save_bundle(a.to, model, card, half=True)
    split = read_split(run.file('split.csv'))
    save_trained_on(a.to, split.sha256[split.part.isin(['train', 'valid'])])
    if averages.get('share'): add_trained_on(a.to, a.average)
    export_graph(a.to)
    some = photos['valid'].head(200)
    exact, rounded = (predict_table(Predictor(m, half=False), some) for m in ((model, card), a.to))
    change = np.abs(prob_array(rounded, card.vocab) - prob_array(exact, card.vocab)).max()
    print(json.dumps(dict(what=a.to.name, recipe=run.recipe.name, size=size, sizes=losses, averaged=averages,
                          temperature=round(card.temperature, 4),
                          size_kb=round((a.to/'model.safetensors').stat().st_size / 1e3), trained=trained,
                          largest_change_by_rounding=round(float(change), 5),
                          test={k: card.metrics['test'][k] for k in ('n', 'macro_f1', 'accuracy', 'top3')}, of=scores.get('of', ''),
                          drawings=card.metrics['drawings'], unsure=card.metrics['unsure'],
                          minutes=round(run.history.seconds.sum() / 60, 1), **run.info['machine'])))
