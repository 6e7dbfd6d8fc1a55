"""Images per second that a loader prepares for training: cached images (`CachedDL`) compared with fastai's `DataBlock` path.

Both sides load the same table with the augmentation of the report. Rounds alternate between them, so changes in the speed of the
machine affect both. Prints one JSON line. Without --data it uses the synthetic sample.
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
    "Images per second over `batches` batches of a loader, after the first one, which starts the workers"
    it = iter(dl)
    next(it)
    start, n = time.perf_counter(), 0
    for _, (x, y) in zip(range(batches), it): n += len(y)
    return n / (time.perf_counter() - start)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', help='folder or table of labelled images')
    p.add_argument('--size', type=int, default=128, help='side of the images, px')
    p.add_argument('--workers', type=int, default=2, help='loader processes of the DataBlock path')
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--batches', type=int, default=40, help='batches per round')
    p.add_argument('--quick', action='store_true', help='a trial run of under a minute')
    a = p.parse_args()
    if a.quick: a.rounds, a.batches = 3, 15
    df = prepare(a.data or drawn_sample(), 'grouped', 42)
    slow = har_dls(df, a.size, device='cpu', num_workers=a.workers).train
    fast = cached_dls(df, cache_images(df.path, df.sha256), a.size, device='cpu').train
    feed(fast, len(fast)) # reads the cache into memory
    rates = [(feed(fast, a.batches), feed(slow, a.batches)) for _ in range(a.rounds)]
    ratios = [f / s for f, s in rates]
    print(json.dumps(dict(what='images fed per second, packed / DataBlock', size=a.size, workers=a.workers, rounds=a.rounds,
                          batches=a.batches, bs=32, ratio=round(statistics.median(ratios), 2), least=round(min(ratios), 2),
                          most=round(max(ratios), 2), **machine())))
