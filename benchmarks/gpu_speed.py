"""Time of a training step on a GPU: the report's recipe in har_fastai, in fastai's `DataBlock` path and in plain PyTorch.

Plain PyTorch is the recipe of the report with torchvision (`plain.py`): images are opened and augmented by worker processes. The
loop computes in 32 bits. `resident` trains the same network on one batch of random numbers in GPU memory, compiled and in bfloat16:
the time of the network alone. The sides of har_fastai, in mixed precision, are `Learner.fit` with all callbacks except those that
write files, with the network as it is, compiled, and compiled with CUDA graphs. Each side runs in a process of its own, so that one
that fails does not stop the others, and prints one JSON line: milliseconds of a step (median of the last epochs), images and
operations per second of the network (forward and backward, three times the multiplications and additions of a prediction). With
--profile, a table of the slowest operations of har_fastai is printed as well; its time is then longer. On a CPU it runs too, for a
trial: --device cpu --rows 64. Without --data it uses the synthetic sample.
"""
import argparse
import json
import statistics
import subprocess
import sys
import time
from contextlib import redirect_stdout

import torch
from fastai.callback.core import Callback
from torch import nn

from plain import PlainLoop, report_cnn

SIDES = ('plain', 'datablock', 'resident', 'har_fastai', 'compiled', 'graphs')


class StepTimes(Callback):
    "The mean seconds of a training step in each epoch"
    order, run_valid = 110, False
    def __init__(self, wait): self.wait, self.times = wait, []
    def before_train(self):
        self.wait()
        self.start = time.perf_counter()
    def after_train(self):
        self.wait()
        self.times.append((time.perf_counter() - self.start) / self.n_iter)


def rows(a):
    "The first training images of each class, and some for validation"
    from har_fastai.core import drawn_sample, prepare
    df = prepare(a.data or drawn_sample(), 'grouped', 42)
    each = df.label.nunique()
    few = [df[df.part == part].groupby('label').head(max(1, n // each)) for part, n in (('train', a.rows), ('valid', 64))]
    return df.loc[[i for d in few for i in d.index]].reset_index(drop=True)


def library(df, a, wait):
    "Seconds of a step of har_fastai in each epoch"
    from har_fastai.core import recipe_dls
    from har_fastai.train.callbacks import Compile
    from har_fastai.train.learner import har_learner
    from har_fastai.train.recipes import find_recipe
    recipe = find_recipe('report', size=a.size, bs=a.bs, epochs=a.epochs)
    dls = recipe_dls(df, recipe, torch.device(a.device), a.workers if a.side == 'datablock' else 0, cached=a.side != 'datablock')
    learn, times = har_learner(dls, recipe), StepTimes(wait)
    compiled = dict(compiled=[Compile()], graphs=[Compile('reduce-overhead')]).get(a.side, [])
    def fit():
        with learn.no_bar(), learn.no_logging(): learn.fit_recipe(cbs=[times, *compiled])
    if a.profile and a.side == 'har_fastai': profiled(fit)
    else: fit()
    return times.times


def profiled(f):
    "Print the operations that take longest"
    with torch.profiler.profile() as p: f()
    by = 'self_device_time_total' if torch.cuda.is_available() else 'self_cpu_time_total'
    print(p.key_averages().table(sort_by=by, row_limit=30), file=sys.stderr)


def plain(df, a, wait):
    "Seconds of a step of the plain loop in each epoch"
    loop, times = PlainLoop(df, a.size, a.bs, a.device, a.workers), []
    for _ in range(a.epochs):
        wait(); start = time.perf_counter()
        n = sum(1 for _ in loop.steps())
        wait(); times.append((time.perf_counter() - start) / n)
    return times


def resident(df, a, wait):
    "Seconds of a step without loading and augmentation, in bfloat16, compiled"
    model = report_cnn(15).to(a.device, memory_format=torch.channels_last)
    opt = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=1e-4, fused=True)
    loss_func = nn.CrossEntropyLoss(label_smoothing=0.1)
    x = torch.rand(a.bs, 3, a.size, a.size, device=a.device).contiguous(memory_format=torch.channels_last)
    y = torch.randint(15, (a.bs,), device=a.device)
    kind, n, times = torch.device(a.device).type, max(2, a.rows // a.bs), []
    run = torch.compile(model, mode='reduce-overhead') if kind == 'cuda' else model
    for _ in range(a.epochs):
        wait(); start = time.perf_counter()
        for _ in range(n):
            with torch.autocast(kind, torch.bfloat16): loss = loss_func(run(x), y)
            opt.zero_grad(); loss.backward(); opt.step()
        wait(); times.append((time.perf_counter() - start) / n)
    return times


def measure(a):
    "Run one side, and print its result"
    from har_fastai.models import macs
    from har_fastai.train.runs import machine
    wait = torch.cuda.synchronize if torch.device(a.device).type == 'cuda' else lambda: None
    with redirect_stdout(sys.stderr):
        df = rows(a)
        times = dict(plain=plain, resident=resident).get(a.side, library)(df, a, wait)
    step = statistics.median(times[1:] or times) # the first epoch warms up
    flop = 6 * macs(report_cnn(15), a.size) * a.bs
    print(json.dumps(dict(what='time of a training step', side=a.side, size=a.size, bs=a.bs, rows=int((df.part == 'train').sum()),
                          profiled=a.profile and a.side == 'har_fastai', step_ms=round(1e3 * step, 3),
                          first_epoch_ms=round(1e3 * times[0], 3), images_per_s=round(a.bs / step, 1),
                          tflop_per_s=round(flop / step / 1e12, 2), **machine())), flush=True)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', help='folder or table of labelled images')
    p.add_argument('--sides', nargs='+', default=SIDES, choices=SIDES)
    p.add_argument('--size', type=int, default=256, help='side of the images, px')
    p.add_argument('--bs', type=int, default=32, help='batch size')
    p.add_argument('--rows', type=int, default=3000, help='training images of an epoch')
    p.add_argument('--epochs', type=int, default=4)
    p.add_argument('--workers', type=int, default=8, help='loader processes of the plain loop and of `DataBlock`')
    p.add_argument('--device', default='cuda')
    p.add_argument('--profile', action='store_true')
    p.add_argument('--side', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.side: sys.exit(measure(a))
    sys.exit(max(abs(subprocess.run([sys.executable, *sys.argv, '--side', side]).returncode) for side in a.sides))
