"""Time of a whole training, evaluation and report by number of classes, with three images of each class.

The images are random noise of 48 px: their content does not matter, only the size of tables and figures. One epoch of the recipe
`demo` at 48 px. Prints one JSON line with the seconds for each number of classes, and the exponent of their growth between the last
two: 1 is linear. Absolute times are valid for one machine only.
"""
import argparse
import json
import os
import tempfile
import time
from contextlib import redirect_stdout
from math import log
from pathlib import Path

import numpy as np
from PIL import Image


def noise_classes(folder, n):
    "Class folders with three images each"
    rng = np.random.default_rng(0)
    for i in range(n):
        to = folder/f'class {i:04}'
        to.mkdir(parents=True)
        for k in range(3): Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(to/f'{k}.png')
    return folder


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--classes', type=int, nargs='+', default=[100, 200, 400, 1000])
    a = p.parse_args()
    seconds = {}
    with tempfile.TemporaryDirectory() as tmp:
        os.environ['HAR_FASTAI_CACHE'] = f'{tmp}/cache'
        from har_fastai.core import train_baseline
        for n in a.classes:
            data, start = noise_classes(Path(tmp)/f'data{n}', n), time.perf_counter()
            with redirect_stdout(None): train_baseline(data, 'demo', epochs=1, size=48, out=f'{tmp}/run{n}')
            seconds[n] = time.perf_counter() - start
    out = dict(what='seconds by number of classes', **{str(n): round(s, 1) for n, s in seconds.items()})
    if len(seconds) > 1:
        (n1, s1), (n2, s2) = list(seconds.items())[-2:]
        out['exponent'] = round(log(s2 / s1) / log(n2 / n1), 2)
    print(json.dumps(out))
