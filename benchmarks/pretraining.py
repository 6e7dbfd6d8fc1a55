"""Training from scratch with weights from `pretrain`, compared with the same training without them.

For each seed, a network is pretrained on the training images of the tail split and on images without a label; validation and test
images and their copies are left out. Then the same recipe is trained twice, from these weights and from random ones, with the same
images, epochs and seed. The scores are those of the last 20 % of the rows. The interval of the mean difference is a bootstrap over
the test images, the same ones for all runs; it does not contain the variation of other seeds, so the difference is given for each
seed as well. --only trains the runs of one seed, so that seeds can be trained by several processes; existing runs are not trained
again. Prints one JSON line. Needs --data and lightly.
"""
import argparse
import json
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

from har_fastai.core import train_baseline
from har_fastai.evaluate.metrics import confusion, macro_f1
from har_fastai.files import read_json, write_json
from har_fastai.report.compare import common_predictions
from har_fastai.train.pretraining import pretrain, pretraining_images
from har_fastai.train.runs import Run, machine


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='folder or table of labelled images')
    p.add_argument('--out', default='pretraining', help='folder for the runs and weights')
    p.add_argument('--arch', default='baseline', help='architecture, one without weights of ImageNet')
    p.add_argument('--method', default='simclr', help='method of pretraining')
    p.add_argument('--size', type=int, default=64, help='side of the images, px')
    p.add_argument('--pretrain-epochs', type=int, default=8, help='epochs without labels')
    p.add_argument('--epochs', type=int, default=5, help='epochs with labels')
    p.add_argument('--recipe', default='cpu', help='recipe of the training with labels')
    p.add_argument('--seeds', type=int, nargs='+', default=[42, 43])
    p.add_argument('--only', type=int, metavar='SEED', help='train the runs of this seed, and print no comparison')
    return p.parse_args()


def weights_of(a, seed):
    "The pretrained weights of a seed, and the facts about their training"
    file, note = Path(a.out)/f'{a.arch}-{a.method}-{seed}.safetensors', Path(a.out)/f'{a.arch}-{a.method}-{seed}.json'
    if not note.is_file():
        checkpoint, start = file.with_name(f'{file.stem}.checkpoint.safetensors'), time.perf_counter()
        df = pretraining_images(a.data, 'tail', seed)
        learn = pretrain(df, file, a.arch, a.method, a.size, a.pretrain_epochs, seed=seed, resume=checkpoint.is_file())
        write_json(note, dict(images=len(df), unlabelled=int((df.label == '').sum()), losses=learn.losses,
                              minutes=(time.perf_counter() - start) / 60))
    return file, read_json(note)


def run_of(a, seed, weights):
    "The run of a seed, with pretrained weights or without"
    out = Path(a.out)/f'{a.arch}-{"with" if weights else "without"}-{seed}'
    if not (out/'model.json').is_file():
        train_baseline(a.data, a.recipe, 'tail', out, seed, device='cpu', weights=weights, faithfulness=0, arch=a.arch, size=a.size,
                       epochs=a.epochs, growth=())
    return Run(out)


def mean_difference(y, without, pretrained, n, n_boot=2000):
    "The mean over seeds of the differences in macro-F1, and a 95 % interval over the images"
    def diff(i): return np.mean([macro_f1(confusion(y[i], b[i], n)) - macro_f1(confusion(y[i], a[i], n)) for a, b in zip(without, pretrained)])
    rng = np.random.default_rng(0)
    boot = [diff(rng.integers(0, len(y), len(y))) for _ in range(n_boot)]
    return dict(value=diff(np.arange(len(y))), low=np.quantile(boot, .025), high=np.quantile(boot, .975))


if __name__ == '__main__':
    a = options()
    with redirect_stdout(sys.stderr):
        runs, notes = [], []
        for seed in [a.only] if a.only is not None else a.seeds:
            file, note = weights_of(a, seed)
            runs += [run_of(a, seed, None), run_of(a, seed, file)]
            notes.append(note)
        if a.only is not None: sys.exit()
        y, preds, vocab = common_predictions(runs)
    f1 = [float(macro_f1(confusion(y, p, len(vocab)))) for p in preds]
    print(json.dumps(dict(
        what='training from scratch with and without pretraining', arch=a.arch, method=a.method, size=a.size,
        pretrain_epochs=a.pretrain_epochs, images=notes[0]['images'], unlabelled=notes[0]['unlabelled'],
        minutes=[round(n['minutes'], 1) for n in notes], losses=[round(n['losses'][i], 3) for n in notes for i in (0, -1)], recipe=a.recipe,
        epochs=a.epochs, test=len(y), seeds=a.seeds, without=f1[0::2], pretrained=f1[1::2],
        difference=mean_difference(y, preds[0::2], preds[1::2], len(vocab)),
        by_seed={s: mean_difference(y, preds[2*i:2*i + 1], preds[2*i + 1:2*i + 2], len(vocab)) for i, s in enumerate(a.seeds)}, **machine())))
