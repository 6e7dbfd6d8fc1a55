"""Steps of fine-tuning EfficientNet-Lite0 on a processor: har_fastai against plain PyTorch, and what each measure brings.

Plain is the network in PyTorch's channels-last format, in float32 or under autocast in bfloat16, all layers trained. A step is forward,
loss and backward on one batch of random pixels, without loading and without the optimiser. In each round all sides take one step, in
turn; each side has a process of its own, because memory is reused in a whole process. Prints one JSON line.
"""
import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
from har_fastai.models import create_model
from har_fastai.train.callbacks import BFloat16, ReuseMemory
from har_fastai.train.learner import freeze_first
from har_fastai.train.recipes import RECIPES
from har_fastai.train.runs import machine
from torch import nn

SIDES = ('float32', 'bfloat16', 'depthwise', 'memory', 'frozen') # each measure is added to those before


def side(name, size, bs):
    "A function that takes one step"
    rank = SIDES.index(name)
    model = create_model('efficientnet_lite0', 15).train().to(memory_format=torch.channels_last)
    if rank >= SIDES.index('frozen'): freeze_first(model, RECIPES['finetune'].frozen)
    if rank >= SIDES.index('memory'): ReuseMemory().before_fit()
    if rank >= SIDES.index('depthwise'):
        cb = BFloat16()
        cb.learn = argparse.Namespace(model=model)
        cb.before_fit()
    x, y = torch.randn(bs, 3, size, size).to(memory_format=torch.channels_last), torch.randint(0, 15, (bs,))
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    def step():
        with torch.autocast('cpu', torch.bfloat16, enabled=rank > 0): z = model(x)
        loss(z.float(), y).backward()
        model.zero_grad()
    return step


def serve(name, size, bs):
    "Take a step for each line of standard input, and answer with its seconds"
    step = side(name, size, bs)
    step() # warm-up
    print('ready', flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, flush=True)


def ask(p):
    p.stdin.write('\n')
    p.stdin.flush()
    return float(p.stdout.readline())


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--size', type=int, default=192, help='side of the images, px')
    p.add_argument('--bs', type=int, default=32, help='batch size')
    p.add_argument('--rounds', type=int, default=7)
    p.add_argument('--quick', action='store_true', help='a trial run of under a minute')
    p.add_argument('--side', choices=SIDES, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.side:
        serve(a.side, a.size, a.bs)
        sys.exit()
    if a.quick: a.size, a.bs, a.rounds = 96, 8, 3
    command = [sys.executable, __file__, '--size', str(a.size), '--bs', str(a.bs), '--side']
    workers = {s: subprocess.Popen([*command, s], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for s in SIDES}
    for w in workers.values(): w.stdout.readline()
    times = [{s: ask(w) for s, w in workers.items()} for _ in range(a.rounds)]
    for w in workers.values(): w.stdin.close()
    for w in workers.values(): w.wait()
    ratio = {f'{s}_vs_{SIDES[-1]}': sorted(t[s] / t[SIDES[-1]] for t in times) for s in SIDES[:-1]}
    print(json.dumps(dict(what='time of a step of fine-tuning, other / har_fastai', size=a.size, bs=a.bs, rounds=a.rounds,
                          **{k: dict(ratio=round(statistics.median(v), 3), least=round(v[0], 3), most=round(v[-1], 3))
                             for k, v in ratio.items()}, **machine())))
