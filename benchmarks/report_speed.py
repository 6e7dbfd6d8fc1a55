"""Time of an evaluation and its report, relative to the forward passes of the network alone.

One side runs the network over images that are decoded and normalised in memory, with the same threads and batch size. The other
reads the images from their files, predicts, computes the metrics and writes report.html with all figures and heat-maps, except the
faithfulness test (`faithfulness=0`). The network is the untrained baseline at 256 px with the recipe of the report; the time does not
depend on the weights. Prints one JSON line with the ratio. Without --data it uses the synthetic sample.
"""
import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from har_fastai.core import drawn_sample
from har_fastai.data.checks import check_har, usable
from har_fastai.data.splits import write_split
from har_fastai.images import IMAGENET_MEAN, IMAGENET_STD
from har_fastai.predict.bundle import Card, save_bundle
from har_fastai.predict.predictor import Predictor
from har_fastai.models import create_model
from har_fastai.files import PREFETCH, prefetch_map
from har_fastai.report.run import write_report
from har_fastai.train.recipes import find_recipe
from har_fastai.train.runs import Run, begin_run, machine
from har_fastai.evaluate.scoring import evaluate_run
from har_fastai.data.tables import read_har


def untrained_run(folder, df, size):
    "A run with an untrained network and `df` as its test part"
    run = Run(folder); run.path.mkdir()
    begin_run(run, find_recipe('report', size=size), data='images', split='tail', device='cpu')
    torch.manual_seed(0)
    card = Card('baseline', sorted(df.label.unique()), size, list(IMAGENET_MEAN), list(IMAGENET_STD))
    save_bundle(run.path, create_model('baseline', len(card.vocab)), card)
    write_split(df.assign(part='test'), run.file('split.csv'))
    history = dict(epoch=range(40), train_loss=2., valid_loss=2., train_macro_f1=.1, valid_macro_f1=.1, seconds=1.)
    pd.DataFrame(history).to_csv(run.file('history.csv'), index=False)
    return run


def forward_seconds(predictor, arrays, n):
    "Seconds to run the network over `n` prepared images, in the threads of the predictor"
    start, threads = time.perf_counter(), torch.get_num_threads()
    with predictor._pool(threads) as pool:
        forward = lambda some: [*predictor._compute(some, True)]
        inputs = itertools.islice(itertools.cycle(arrays), n)
        for _ in prefetch_map(forward, inputs, pool, 1, PREFETCH * threads): pass
    return time.perf_counter() - start


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', help='folder or table of labelled images')
    p.add_argument('--n', type=int, default=2016, help='number of images')
    p.add_argument('--size', type=int, default=256, help='side of the images, px')
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--quick', action='store_true', help='a trial run of under a minute')
    a = p.parse_args()
    if a.quick: a.n, a.rounds = 200, 1
    df, ratios, shares = usable(check_har(read_har(a.data or drawn_sample()))).tail(a.n), [], []
    with tempfile.TemporaryDirectory() as tmp:
        for i in range(a.rounds):
            run = untrained_run(Path(tmp)/str(i), df, a.size); predictor = Predictor(run.path, half=False)
            arrays = [predictor.array(f) for f in df.path[:32]]
            forward_seconds(predictor, arrays, 64) # warm-up
            alone = forward_seconds(predictor, arrays, len(df))
            start = time.perf_counter()
            _, preds = evaluate_run(run, df, 'test')
            evaluated = time.perf_counter() - start
            write_report(run, preds, faithfulness=0)
            ratios.append((time.perf_counter() - start) / alone); shares.append(evaluated / alone)
            print(f'round {i}: evaluation {shares[-1]:.2f}x, with the report {ratios[-1]:.2f}x the forward passes', flush=True)
    print(json.dumps(dict(what='evaluation and report, over the forward passes alone', images='own' if a.data else 'drawn',
                          scored=len(df), size=a.size, rounds=a.rounds, evaluation=round(float(np.median(shares)), 3),
                          ratio=round(float(np.median(ratios)), 3), least=round(min(ratios), 3), most=round(max(ratios), 3),
                          **machine())))
