"""Where the seconds of a training go that are not spent in epochs.

Trains twice with the same settings, each time in a new process: first with an empty cache folder, then with the cache of the first
run. Prints one JSON line for each: seconds of the imports, of each stage of `train_baseline`, of the epochs, and of everything
outside the epochs together, from the start of Python. Absolute times are valid for one machine only; compare two versions of the
package by running both in turn (PYTHONPATH chooses one). Needs --data.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import wraps
from pathlib import Path

STAGES = dict( # module -> functions whose time is measured; a stage within another one is subtracted from it
    core=('read_har', 'check_har', 'split_har', 'recipe_dls', 'har_learner', 'predict_parts', 'training_means', 'save_bundle',
          'write_report'))


class Clock:
    "Seconds by name, without those of inner stages"
    def __init__(self): self.seconds, self.inner = {}, [0.]

    def timed(self, name, f):
        @wraps(f)
        def timed(*args, **kwargs):
            start = time.perf_counter()
            self.inner.append(0.)
            try: return f(*args, **kwargs)
            finally:
                spent = time.perf_counter() - start
                self.seconds[name] = self.seconds.get(name, 0) + spent - self.inner.pop()
                self.inner[-1] += spent
        return timed


def measure(args):
    "Train in this process, and print the seconds of each stage"
    start = time.perf_counter()
    from har_fastai import core
    from har_fastai.train.learner import HARLearner
    clock = Clock()
    clock.seconds['import'] = time.perf_counter() - start
    for name in STAGES['core']: setattr(core, name, clock.timed(name, getattr(core, name)))
    HARLearner.fit_recipe = clock.timed('fit', HARLearner.fit_recipe)
    HARLearner._do_epoch = clock.timed('epochs', HARLearner._do_epoch)
    with tempfile.TemporaryDirectory() as tmp:
        clock.timed('rest', core.train_baseline)(args.data, args.recipe, split='tail', out=Path(tmp)/'run', epochs=args.epochs,
                                                 size=args.size)
    whole = time.perf_counter() - start
    seconds = {k: round(v, 2) for k, v in clock.seconds.items()}
    out = dict(outside=round(whole - clock.seconds['epochs'], 2), whole=round(whole, 2), seconds=seconds)
    Path(args.child).write_text(json.dumps(out))


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='folder or table of labelled images')
    p.add_argument('--recipe', default='report', help='name of a recipe')
    p.add_argument('--size', type=int, default=64, help='size in pixels')
    p.add_argument('--epochs', type=int, default=1, help='number of epochs')
    p.add_argument('--child', help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.child: sys.exit(measure(args))
    with tempfile.TemporaryDirectory() as tmp:
        for cache in ('cold', 'warm'):
            out, env = Path(tmp)/f'{cache}.json', {**os.environ, 'HAR_FASTAI_CACHE': f'{tmp}/cache'}
            subprocess.run([sys.executable, *sys.argv, '--child', str(out)], env=env, check=True, stdout=subprocess.DEVNULL)
            settings = dict(benchmark='pipeline_speed', recipe=args.recipe, size=args.size, epochs=args.epochs, cache=cache)
            print(json.dumps(dict(settings, **json.loads(out.read_text()))), flush=True)
