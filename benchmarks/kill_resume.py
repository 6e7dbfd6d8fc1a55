"""Kill one training run with SIGKILL at many moments, go on with it each time, and compare the end with a run that nobody killed

    python benchmarks/kill_resume.py [--data DIR] [--kills 25] [--rows 600] [--size 48] [--epochs 30] [--seed 0]

The moments are random within a phase, and each phase gets its share: the making of the cache, the steps, the saving, the validation within an epoch, and the
scoring and reporting at the end. A quarter of the kills in the cache's making come in the middle of the run, whose pack is deleted first. Meanwhile a watcher reads every file of the run
again and again: none may ever be half-written. It prints one JSON line; `equal` says whether weights, checkpoints, history, metrics and predictions
are the same to the last bit. Without --data the images are drawn. CPU, one computing thread.
What it does not know: power cuts (SIGKILL leaves the kernel's buffers in place), and GPUs, whose sums may differ between any two runs.
"""
import argparse, collections, json, mmap, os, random, shutil, signal, subprocess, sys, tempfile, threading, time
from pathlib import Path

import pandas as pd

PHASES = {b's': 'start', b't': 'steps', b'v': 'validation', b'e': 'evaluation'}


# ---- the run, in a process of its own ----

def child(settings:dict) -> None:
    "Train, and tell the phase in one byte of a file"
    os.environ.setdefault('MPLBACKEND', 'Agg')
    from fastai.callback.core import Callback
    from har_fastai.core import train_baseline
    with open(settings['phase'], 'r+b') as f: told = mmap.mmap(f.fileno(), 1)

    class Tell(Callback):
        order = -90
        def before_train(self): told[0:1] = b't'
        def before_validate(self): told[0:1] = b'v'
        def after_fit(self): told[0:1] = b'e'

    kw = dict(out=settings['out'], device='cpu', num_workers=0, faithful=0, cbs=[Tell()])
    if settings['resume']: train_baseline(resume=True, **kw)
    else: train_baseline(settings['data'], settings['recipe'], packed=settings['packed'], **kw, **settings['changes'])


def begin(settings:dict) -> subprocess.Popen:
    "Start a life of the run; it goes on where there is something to go on with"
    Path(settings['phase']).write_bytes(b's')
    s = dict(settings, resume=(Path(settings['out'])/'recipe.json').is_file())
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'HAR_FASTAI_CACHE': settings['cache'], 'PYTHONWARNINGS': 'ignore'}
    return subprocess.Popen([sys.executable, __file__, '--child', json.dumps(s)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


# ---- whole files ----

def broken(f:Path) -> str:
    "What is wrong with a file of a run; '' where it is whole, or went away meanwhile"
    from safetensors import safe_open
    try:
        if f.suffix == '.safetensors':
            with safe_open(f, 'pt') as t: t.keys()
        elif f.suffix == '.json': json.loads(f.read_text())
        elif f.suffix == '.csv': t = f.read_text(); assert t.endswith('\n') and pd.read_csv(f).notna().iloc[:, 0].all()
        elif f.suffix == '.html': assert f.read_text().rstrip().endswith('</html>')
        elif f.suffix == '.png': assert f.read_bytes().endswith(b'IEND\xaeB`\x82')
    except FileNotFoundError: return ''
    except Exception as e: return f'{f.name}: {type(e).__name__} {e}'
    return ''


def files(folder:Path) -> list[Path]: return [f for f in folder.rglob('*') if f.is_file() and not f.name.startswith('.')]


class Watch(threading.Thread):
    "Reads all files of a run, over and over"
    def __init__(self, folder): super().__init__(daemon=True); self.folder, self.reads, self.found, self.on = Path(folder), 0, [], True
    def run(self):
        while self.on:
            for f in files(self.folder):
                self.reads += 1
                if why := broken(f): self.found.append(why)
            time.sleep(.02)
    def stop(self): self.on = False; self.join(); return self


def after_kill(settings:dict) -> list[str]:
    "What a kill left that is not whole: in the run, between the model and its card, in the cache"
    from har_fastai.files import sha256_file
    from har_fastai.data.cache import is_whole
    out, found = Path(settings['out']), []
    found += [why for f in files(out) if (why := broken(f))]
    if (out/'model.json').is_file() and json.loads((out/'model.json').read_text())['sha256'] != sha256_file(out/'model.safetensors'): found.append('model.json is not of these weights')
    return found + [f'{p.name}: a pack that is not whole' for p in (Path(settings['cache'])/'packs').glob('[!.]*') if not is_whole(p)]


# ---- the kills ----

def phase(settings:dict) -> str:
    "Where a run is now"
    if list((Path(settings['cache'])/'packs').glob('.making-*-')): return 'cache'
    if any(f.name.endswith('.part') for f in Path(settings['out']).rglob('.*')): return 'saving'
    return PHASES[Path(settings['phase']).read_bytes()]


def kill_in(want:str, settings:dict, rng:random.Random, wait:float) -> str:
    "Kill a life of the run at a random moment of a phase; gives the phase it was killed in, or 'finished'"
    if want == 'cache' and rng.random() < .25: shutil.rmtree(Path(settings['cache'])/'packs', ignore_errors=True)
    with begin(settings) as p:
        skip, last = (rng.choice([0, 1, 2]) if want in ('saving', 'steps', 'validation') else 0), ''
        while p.poll() is None:
            now = phase(settings)
            if now == want != last:
                if skip: skip -= 1
                else:
                    time.sleep(rng.uniform(0, wait * {'cache': .3, 'saving': .03, 'validation': .1}.get(want, 1))) # they last differently long
                    break
            last = now
            time.sleep(.0005)
        now = phase(settings); p.kill(); err = p.stderr.read().decode()
    if p.returncode not in (0, -signal.SIGKILL): raise RuntimeError(err[-2000:])
    return 'finished' if p.returncode == 0 else now


def plan(kills:int, rng:random.Random) -> list[str]:
    "The phases to strike in: the cache first, the last scoring last"
    cache, end, valid, saving = max(1, kills // 6), max(1, kills // 6), kills // 6, max(1, kills // 4)
    middle = ['validation'] * valid + ['saving'] * saving + ['steps'] * max(0, kills - cache - end - valid - saving)
    rng.shuffle(middle)
    return ['cache'] * cache + middle + ['evaluation'] * end


def same(a:Path, b:Path) -> dict[str, bool]:
    "What is equal in two finished runs, to the last bit"
    from safetensors.torch import load_file
    def tensors(f): x, y = load_file(a/f), load_file(b/f); return x.keys() == y.keys() and all(x[k].equal(y[k]) for k in x)
    history = [pd.read_csv(f/'history.csv').drop(columns='seconds') for f in (a, b)]
    return {**{f: tensors(f) for f in ('model.safetensors', 'checkpoint/last.safetensors', 'checkpoint/best.safetensors')}, 'history.csv': history[0].equals(history[1]),
            **{f: (a/f).read_bytes() == (b/f).read_bytes() for f in ('metrics.json', 'predictions.csv', 'split.csv')}}


def campaign(data:str, tmp:Path, kills:int, seed:int=0, wait:float=1., packed:bool=True, recipe:str='demo', **changes) -> dict:
    "Kill a run many times; what was seen, and whether it ended as the run that nobody killed"
    rng, s = random.Random(seed), dict(data=str(data), out=str(tmp/'killed'), cache=str(tmp/'cache'), phase=str(tmp/'phase'), recipe=recipe, packed=packed, changes=changes)
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
    left = [f.name for f in [*(tmp/'killed').rglob('.*'), *(tmp/'cache'/'packs').glob('.*')] if f.name != '.lock']
    equal = same(tmp/'killed', tmp/'whole')
    return dict(kills=sum(struck.values()), struck=dict(struck), half_written=half, files_read_meanwhile=reads, left_over=left, equal=all(equal.values()), unequal=[k for k, v in equal.items() if not v])


def subset(data:str, tmp:Path, rows:int, seed:int) -> Path:
    "A data set of some of the rows, with copies of its images"
    from har_fastai.data.tables import read_har
    df = read_har(data).sample(rows, random_state=seed)
    (tmp/'data'/'train').mkdir(parents=True)
    for f, p in zip(df.filename, df.path): shutil.copyfile(p, tmp/'data'/'train'/f)
    df[['filename', 'label']].to_csv(tmp/'data'/'Training_set.csv', index=False)
    return tmp/'data'


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind, default in (('data', str, None), ('kills', int, 25), ('rows', int, 600), ('size', int, 48), ('epochs', int, 30), ('seed', int, 0), ('child', str, None)): p.add_argument(f'--{name}', type=kind, default=default)
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
    print(json.dumps(dict(what='kills of one run, and what became of it', **res, images=a.rows, real=bool(a.data), size=a.size, epochs=a.epochs, seed=a.seed, seconds=round(time.perf_counter() - start))))
    sys.exit(0 if res['equal'] and not res['half_written'] and res['kills'] == a.kills else 1)


if __name__ == '__main__': main()
