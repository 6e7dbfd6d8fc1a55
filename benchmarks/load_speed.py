"""Images a second that are ready for the network: decoded once (`CachedDL`) against fastai's `DataBlock` path.

Both feed the same table with the report's augmentation; rounds alternate, so that a machine that changes its speed
changes it for both. Prints one JSON line. Without --data the drawn sample is used.
"""
import argparse
import json
import statistics
import time

from har_fastai.core import drawn_sample, prepare
from har_fastai.data.loaders import har_dls, cached_dls
from har_fastai.data.cache import cache_images
from har_fastai.train.runs import machine


def feed(dl, batches):
    "Images a second over so many batches of a loader, starting its workers included only in the first batch"
    it = iter(dl)
    next(it)
    start, n = time.perf_counter(), 0
    for _, (x, y) in zip(range(batches), it): n += len(y)
    return n / (time.perf_counter() - start)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', help='folder or table of labelled images')
    p.add_argument('--size', type=int, default=128, help='side of the images, px')
    p.add_argument('--workers', type=int, default=2, help="processes of the DataBlock path")
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--batches', type=int, default=40, help='batches a round')
    p.add_argument('--quick', action='store_true', help='under a minute')
    a = p.parse_args()
    if a.quick: a.rounds, a.batches = 3, 15
    df = prepare(a.data or drawn_sample(), 'grouped', 42)
    slow = har_dls(df, a.size, device='cpu', num_workers=a.workers).train
    fast = cached_dls(df, cache_images(df.path, df.sha256), a.size, device='cpu').train
    feed(fast, len(fast)) # reads the pack into memory once
    rates = [(feed(fast, a.batches), feed(slow, a.batches)) for _ in range(a.rounds)]
    ratios = [f / s for f, s in rates]
    print(json.dumps(dict(what='images fed per second, packed / DataBlock', size=a.size, workers=a.workers, rounds=a.rounds, batches=a.batches, bs=32,
                          ratio=round(statistics.median(ratios), 2), least=round(min(ratios), 2), most=round(max(ratios), 2), **machine())))
