"""Scores after training in one process and in two processes with the same batch, seed by seed.

Each training is `train_baseline` with the settings of the report's recipe for short runs, on a part of the training images; two
processes are started by PyTorch's launcher and connected by gloo on the CPU. Dropout differs between the sides, since its random
numbers depend on the order of the images within the network. Prints one JSON line with the macro-F1 of each training on the test
images, the mean difference over the seeds, and its 95 % confidence interval (Student's t). Without --data it uses the synthetic
sample.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from har_fastai.core import drawn_sample, prepare
from har_fastai.files import read_json
from har_fastai.train.runs import machine
from scipy.stats import t

SETTINGS = dict(lr=2e-3, per_batch=True, dropout=0.2, faithfulness=0, device='cpu')
LAUNCHER = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node']


def score(args, table, seed, processes, folder):
    "Train in new processes; returns the macro-F1 on the test images, which the run folder contains"
    settings = dict(SETTINGS, size=args.size, epochs=args.epochs, seed=seed, out=str(folder))
    start = LAUNCHER + [str(processes)] if processes > 1 else []
    command = [sys.executable, *start, __file__, '--child', str(table), json.dumps(settings)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    return read_json(folder/'metrics.json')['test']['macro_f1']['value']


def write_table(data, rows, to):
    "A table of the test and validation images and of the first `rows` training images, beside copies of them; returns it"
    df = prepare(data, 'tail', 42)
    df = pd.concat([df[df.part == 'train'].head(rows), df[df.part.isin(['valid', 'test'])]], ignore_index=True)
    df['filename'] = [f'{i}{Path(p).suffix}' for i, p in enumerate(df.path)]
    for name, path in zip(df.filename, df.path): shutil.copy(path, to.parent/name)
    df[['filename', 'label', 'part']].to_csv(to, index=False)
    return df


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', help='folder or table of labelled images')
    p.add_argument('--rows', type=int, default=1200, help='number of training images')
    p.add_argument('--size', type=int, default=64, help='side of the images, px')
    p.add_argument('--epochs', type=int, default=8)
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--quick', action='store_true', help='a trial run of about a minute')
    a = p.parse_args()
    if a.quick: a.rows, a.epochs, a.seeds = 300, 1, 2
    with tempfile.TemporaryDirectory() as tmp:
        df = write_table(a.data or drawn_sample(), a.rows, table := Path(tmp)/'table.csv')
        scores = []
        for seed in range(a.seeds):
            scores.append([score(a, table, seed, n, Path(tmp)/f'{seed}-{n}') for n in (1, 2)])
            print(f'seed {seed}: one process {scores[-1][0]:.4f}, two {scores[-1][1]:.4f}', file=sys.stderr, flush=True)
    one, two = np.array(scores).T
    def half(x): return t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x)**0.5
    d = two - one
    print(json.dumps(dict(
        what='distributed: macro-F1, two processes - one', images='own' if a.data else 'drawn', rows=int((df.part == 'train').sum()),
        scored=int((df.part == 'test').sum()), size=a.size, epochs=a.epochs, seeds=a.seeds,
        one_process=one.round(4).tolist(), two_processes=two.round(4).tolist(), difference=round(float(d.mean()), 4),
        low=round(float(d.mean() - half(d)), 4), high=round(float(d.mean() + half(d)), 4),
        one_interval=[round(float(one.mean() + s * half(one)), 4) for s in (-1, 1)], **{**machine(), 'threads': 1})))


if __name__ == '__main__':
    if '--child' in sys.argv:
        from har_fastai.core import train_baseline
        train_baseline(sys.argv[2], 'report', **json.loads(sys.argv[3]))
    else: main()
