"""Time of training steps beside other programs: with OpenMP's own setting, in which threads wait for each other in loops, / with ours.

Each round measures both settings, each in a new process, first alone and then beside busy processes, one for each core. The number
of loops in which a thread waits before it sleeps (GOMP_SPINCOUNT) is set by `import har_fastai`, unless the user has set it; OpenMP's
own number is 300,000. Prints one JSON line with the median ratios. Works on Linux, with PyTorch's libgomp.
"""
import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median

OWN = '300000' # of libgomp, if there are no more threads than cores
BUSY = 'while True: sum(range(10**5))'


def step_ms(arch, size, bs, steps):
    "Milliseconds of a training step in this process, with all cores"
    import torch
    from har_fastai.models import create_model
    torch.manual_seed(0)
    model = create_model(arch, 15).train().to(memory_format=torch.channels_last)
    x, y = torch.randn(bs, 3, size, size).to(memory_format=torch.channels_last), torch.randint(0, 15, (bs,))
    opt = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    def step():
        opt.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        opt.step()
    for _ in range(2): step()
    start = time.perf_counter()
    for _ in range(steps): step()
    return 1000 * (time.perf_counter() - start) / steps


def measure(spin, argv):
    "`step_ms` in a new process; `spin` is None for the setting of the package"
    env = {k: v for k, v in os.environ.items() if k not in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY', 'OMP_NUM_THREADS')}
    if spin: env['GOMP_SPINCOUNT'] = spin
    run = subprocess.run([sys.executable, __file__, *argv, '--child'], env=env, capture_output=True, text=True, check=True)
    return float(run.stdout)


def compare(busy, rounds, argv):
    "Median times of both settings beside some busy processes, ms, and their ratio"
    others = [subprocess.Popen([sys.executable, '-c', BUSY]) for _ in range(busy)]
    try: times = [(measure(OWN, argv), measure(None, argv)) for _ in range(rounds)]
    finally:
        for p in others: p.kill()
    own, ours = (median(t) for t in zip(*times))
    return dict(busy_processes=busy, own_ms=round(own, 1), ours_ms=round(ours, 1), ratio=round(median(a / b for a, b in times), 2))


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--archs', nargs='+', default=['baseline', 'efficientnet_lite0'], help='architectures')
    p.add_argument('--size', type=int, default=64, help='size of the images, px')
    p.add_argument('--bs', type=int, default=32, help='batch size')
    p.add_argument('--steps', type=int, default=15, help='steps of each measurement')
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--child', action='store_true', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child: sys.exit(print(step_ms(a.archs[0], a.size, a.bs, a.steps)))
    def args(arch): return ['--archs', arch, '--size', str(a.size), '--bs', str(a.bs), '--steps', str(a.steps)]
    cores = os.cpu_count()
    rows = {arch: [compare(busy, a.rounds, args(arch)) for busy in (0, max(1, cores // 2), cores)] for arch in a.archs}
    from har_fastai.train.runs import machine
    print(json.dumps(dict(what='training steps beside other programs: OpenMP alone / har_fastai', size=a.size, bs=a.bs, cores=cores,
                          rows=rows, **machine())))
