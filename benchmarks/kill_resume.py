"""Kill a training run with SIGKILL at many moments, resume it each time, and compare the result with an uninterrupted run.

    python benchmarks/kill_resume.py [--data DIR] [--kills 25] [--rows 600] [--size 48] [--epochs 30] [--seed 0]

Moments are random within a phase, and each phase has its share of the kills: building the cache, training steps, saving,
validation and the final evaluation. A quarter of the kills during caching happen later in the run, after its cache was deleted.
Meanwhile a thread reads all files of the run continuously; none may be partially written. Prints one JSON line; `equal` is true
if weights, checkpoints, history, metrics and predictions are bit-identical. Without --data the images are drawn. CPU, one thread.
Limitations: no power cuts (after SIGKILL the kernel still writes its buffers), and no GPUs, whose results may differ between any
two runs.
"""
import argparse, collections, json, mmap, os, random, shutil, signal, subprocess, sys, tempfile, threading, time
from pathlib import Path

import pandas as pd

PHASES = {b's': 'start', b't': 'steps', b'v': 'validation', b'e': 'evaluation'}


# ---- the run, in a process of its own ----

def child(settings:dict) -> None:
    "Train, and record the phase in one byte of a file"
    os.environ.setdefault('MPLBACKEND', 'Agg')
    from fastai.callback.core import Callback
    from har_fastai.core import train_baseline
    with open(settings['phase'], 'r+b') as f: phase = mmap.mmap(f.fileno(), 1)

    class RecordPhase(Callback):
        order = -90
        def before_train(self): phase[0:1] = b't'
        def before_validate(self): phase[0:1] = b'v'
        def after_fit(self): phase[0:1] = b'e'

    kw = dict(out=settings['out'], device='cpu', num_workers=0, faithfulness=0, cbs=[RecordPhase()])
    if settings['resume']: train_baseline(resume=True, **kw)
    else: train_baseline(settings['data'], settings['recipe'], cached=settings['packed'], **kw, **settings['changes'])


def begin(settings:dict) -> subprocess.Popen:
    "Start the run, or resume it if it exists"
    Path(settings['phase']).write_bytes(b's')
    s = dict(settings, resume=(Path(settings['out'])/'recipe.json').is_file())
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'HAR_FASTAI_CACHE': settings['cache'], 'PYTHONWARNINGS': 'ignore'}
    command = [sys.executable, __file__, '--child', json.dumps(s)]
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


# ---- complete files ----

def broken(f:Path) -> str:
    "The error of a file of a run; '' if it is complete or was removed meanwhile"
    from safetensors import safe_open
    try:
        if f.suffix == '.safetensors':
            with safe_open(f, 'pt') as t: t.keys()
        elif f.suffix == '.json': json.loads(f.read_text())
        elif f.suffix == '.csv': assert f.read_text().endswith('\n') and pd.read_csv(f).notna().iloc[:, 0].all()
        elif f.suffix == '.html': assert f.read_text().rstrip().endswith('</html>')
        elif f.suffix == '.png': assert f.read_bytes().endswith(b'IEND\xaeB`\x82')
    except FileNotFoundError: return ''
    except Exception as e: return f'{f.name}: {type(e).__name__} {e}'
    return ''


def files(folder:Path) -> list[Path]:
    "All files in a folder, except hidden ones"
    return [f for f in folder.rglob('*') if f.is_file() and not f.name.startswith('.')]


class Watch(threading.Thread):
    "Read all files of a run continuously"
    def __init__(self, folder):
        super().__init__(daemon=True)
        self.folder, self.reads, self.found, self.on = Path(folder), 0, [], True
    def run(self):
        while self.on:
            for f in files(self.folder):
                self.reads += 1
                if why := broken(f): self.found.append(why)
            time.sleep(.02)
    def stop(self): self.on = False; self.join(); return self


def after_kill(settings:dict) -> list[str]:
    "Incomplete files after a kill: in the run, of the model and its card, in the cache"
    from har_fastai.files import sha256_file
    from har_fastai.data.cache import is_whole
    out, found = Path(settings['out']), []
    found += [why for f in files(out) if (why := broken(f))]
    card = out/'model.json'
    if card.is_file() and json.loads(card.read_text())['sha256'] != sha256_file(out/'model.safetensors'):
        found.append('model.json does not belong to the weights')
    caches = (Path(settings['cache'])/'packs').glob('[!.]*')
    return found + [f'{p.name}: an incomplete cache' for p in caches if not is_whole(p)]


# ---- the kills ----

def phase(settings:dict) -> str:
    "The present phase of a run"
    if list((Path(settings['cache'])/'packs').glob('.making-*-')): return 'cache'
    if any(f.name.endswith('.part') for f in Path(settings['out']).rglob('.*')): return 'saving'
    return PHASES[Path(settings['phase']).read_bytes()]


def kill_in(want:str, settings:dict, rng:random.Random, wait:float) -> str:
    "Start the run and kill it at a random moment of a phase; the phase it was killed in, or 'finished'"
    if want == 'cache' and rng.random() < .25: shutil.rmtree(Path(settings['cache'])/'packs', ignore_errors=True)
    with begin(settings) as p:
        skip, last = (rng.choice([0, 1, 2]) if want in ('saving', 'steps', 'validation') else 0), ''
        while p.poll() is None:
            now = phase(settings)
            if now == want != last:
                if skip: skip -= 1
                else:
                    part = {'cache': .3, 'saving': .03, 'validation': .1}.get(want, 1) # phases differ in duration
                    time.sleep(rng.uniform(0, wait * part))
                    break
            last = now
            time.sleep(.0005)
        now = phase(settings); p.kill(); err = p.stderr.read().decode()
    if p.returncode not in (0, -signal.SIGKILL): raise RuntimeError(err[-2000:])
    return 'finished' if p.returncode == 0 else now


def plan(kills:int, rng:random.Random) -> list[str]:
    "The phases to kill in: the cache first, the final evaluation last"
    cache, end, valid, saving = max(1, kills // 6), max(1, kills // 6), kills // 6, max(1, kills // 4)
    middle = ['validation'] * valid + ['saving'] * saving + ['steps'] * max(0, kills - cache - end - valid - saving)
    rng.shuffle(middle)
    return ['cache'] * cache + middle + ['evaluation'] * end


def same(a:Path, b:Path) -> dict[str, bool]:
    "The files that are bit-identical in two finished runs"
    from safetensors.torch import load_file
    def tensors(f):
        x, y = load_file(a/f), load_file(b/f)
        return x.keys() == y.keys() and all(x[k].equal(y[k]) for k in x)
    history = [pd.read_csv(f/'history.csv').drop(columns='seconds') for f in (a, b)]
    weights = 'model.safetensors', 'checkpoint/last.safetensors', 'checkpoint/best.safetensors'
    return {**{f: tensors(f) for f in weights}, 'history.csv': history[0].equals(history[1]),
            **{f: (a/f).read_bytes() == (b/f).read_bytes() for f in ('metrics.json', 'predictions.csv', 'split.csv')}}


def campaign(data:str, tmp:Path, kills:int, seed:int=0, wait:float=1., packed:bool=True, recipe:str='demo', **changes) -> dict:
    "Kill a run many times; the observations, and whether it ended like an uninterrupted run"
    rng, s = random.Random(seed), dict(data=str(data), out=str(tmp/'killed'), cache=str(tmp/'cache'), phase=str(tmp/'phase'),
                                       recipe=recipe, packed=packed, changes=changes)
    struck, half, reads = collections.Counter(), [], 0
    for want in plan(kills, rng):
        watch = Watch(s['out']); watch.start()
        got = kill_in(want, s, rng, wait)
        watch.stop(); half += watch.found + after_kill(s); reads += watch.reads
        if got == 'finished': break
        struck[got] += 1
    whole = dict(s, out=str(tmp/'whole'), phase=str(tmp/'phase2'))
    for settings in (s, whole):
        with begin(settings) as p: err = p.stderr.read().decode()
        if p.returncode: raise RuntimeError(err[-2000:])
    hidden = *(tmp/'killed').rglob('.*'), *(tmp/'cache'/'packs').glob('.*')
    left = [f.name for f in hidden if f.name != '.lock']
    equal = same(tmp/'killed', tmp/'whole')
    return dict(kills=sum(struck.values()), struck=dict(struck), half_written=half, files_read_meanwhile=reads, left_over=left,
                equal=all(equal.values()), unequal=[k for k, v in equal.items() if not v])


def subset(data:str, tmp:Path, rows:int, seed:int) -> Path:
    "A data set with a sample of the rows and copies of their images"
    from har_fastai.data.tables import read_har
    df = read_har(data).sample(rows, random_state=seed)
    (tmp/'data'/'train').mkdir(parents=True)
    for f, p in zip(df.filename, df.path): shutil.copyfile(p, tmp/'data'/'train'/f)
    df[['filename', 'label']].to_csv(tmp/'data'/'Training_set.csv', index=False)
    return tmp/'data'


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', help='folder of the Kaggle data set (default: drawings)')
    for name, default, text in (('kills', 25, 'number of kills'), ('rows', 600, 'number of images'), ('size', 48, 'side of the images, px'),
                                ('epochs', 30, 'number of epochs'), ('seed', 0, 'seed of the moments')):
        p.add_argument(f'--{name}', type=int, default=default, help=f'{text} (default: {default})')
    p.add_argument('--child', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.child: return child(json.loads(a.child))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        if a.data: data = subset(a.data, tmp, a.rows, a.seed)
        else:
            from har_fastai.drawing.dataset import draw_har
            data = draw_har(tmp/'data', n=a.rows, size=96)
        res = campaign(data, tmp, a.kills, a.seed, size=a.size, epochs=a.epochs, bs=16, num_ops=2, erase=.25)
    print(json.dumps(dict(what='kills of one run, and what became of it', **res, images=a.rows, real=bool(a.data), size=a.size,
                          epochs=a.epochs, seed=a.seed, seconds=round(time.perf_counter() - start))))
    sys.exit(0 if res['equal'] and not res['half_written'] and res['kills'] == a.kills else 1)


if __name__ == '__main__': main()
