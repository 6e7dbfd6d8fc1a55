"""Peak memory of `har_predict` for many images, compared with few, each in a process of its own.

The network is that of a run, or the baseline with random weights (the memory does not depend on them); the images are drawn, or
those of --data. Predictions are written as a table and as JSON lines. Prints one JSON line; a ratio near 1 means that memory does
not grow with the number of images.
"""
from __future__ import annotations
import argparse, contextlib, json, os, subprocess, sys, tempfile, time
from importlib.metadata import version
from pathlib import Path

RUN = 'import sys; from har_fastai.cli import har_predict; har_predict()'
MAKE = '''import sys
from har_fastai.images import IMAGENET_MEAN as m, IMAGENET_STD as s
from har_fastai.data.tables import ACTIONS
from har_fastai.models import create_model
from har_fastai.predict.bundle import Card, save_bundle
save_bundle(sys.argv[1], create_model('baseline', 15), Card('baseline', sorted(ACTIONS), int(sys.argv[2]), list(m), list(s)))'''
DRAW = 'import sys; from har_fastai.drawing.dataset import draw_har; draw_har(sys.argv[1], n=int(sys.argv[2]), size=96, test=0)'

def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', metavar='DIR', help='folder of images (default: drawings)')
    p.add_argument('--model', metavar='RUN', help='folder of a run (default: random weights)')
    p.add_argument('--size', type=int, default=128, metavar='PX', help="side of the random network's input (default: 128)")
    p.add_argument('--few', type=int, default=300, help='number of images of the small set (default: 300)')
    p.add_argument('--many', type=int, default=10_080, help='maximum number of images of the large set (default: 10080)')
    p.add_argument('--quick', action='store_true', help='a trial run of under a minute: 30 and 300 drawings at 48 px')
    a = p.parse_args()
    if a.quick: a.few, a.many, a.size = 30, 300, 48
    return a

def resident(pid):
    "Resident memory of a process, in MB (Linux)"
    try: return next(int(l.split()[1]) for l in open(f'/proc/{pid}/status') if l.startswith('VmRSS')) / 1024
    except (OSError, StopIteration): return 0.

def measured(files, model, tmp):
    "Run `har_predict` on files: its peak memory, the peak in the second half of its time, and its seconds"
    args = [sys.executable, '-c', RUN, '-', '--model', str(model), '--csv', str(tmp/'t.csv'), '--json', str(tmp/'t.jsonl')]
    (tmp/'list').write_text('\n'.join(map(str, files)) + '\n')
    start, held = time.perf_counter(), []
    with open(tmp/'list', 'rb') as paths: p = subprocess.Popen(args, stdin=paths, stdout=subprocess.DEVNULL)
    while not (done := os.wait4(p.pid, os.WNOHANG))[0]:
        held.append(resident(p.pid)); time.sleep(.05)
    assert done[1] == 0 and len((tmp/'t.jsonl').read_text().splitlines()) == len(files)
    return done[2].ru_maxrss / 1024, max(held[len(held) // 2:]), time.perf_counter() - start

def main(a, tmp):
    if not a.data:
        subprocess.run([sys.executable, '-c', DRAW, tmp/'drawn', str(a.many)], check=True)
        a.data = tmp/'drawn'
    if not a.model: subprocess.run([sys.executable, '-c', MAKE, tmp/'run', str(a.size)], check=True)
    files = sorted(f for f in Path(a.data).rglob('*') if f.suffix.lower() in ('.jpg', '.png'))[:a.many]
    sides = (measured(f, a.model or tmp/'run', tmp) for f in (files[:a.few], files))
    (few, few_later, few_s), (many, many_later, many_s) = sides
    return dict(what='peak memory of har_predict, many images / few', ratio=round(many / few, 3),
                ratio_later=round(many_later / few_later, 3), few=len(files[:a.few]), many=len(files),
                few_mb=round(few), many_mb=round(many), few_later_mb=round(few_later), many_later_mb=round(many_later),
                few_s=round(few_s, 1), many_s=round(many_s, 1), images='drawn' if a.data == tmp/'drawn' else 'own',
                python=sys.version.split()[0], torch=version('torch'))

if __name__ == '__main__':
    args = options()
    with tempfile.TemporaryDirectory() as d, contextlib.redirect_stdout(sys.stderr): result = main(args, Path(d))
    print(json.dumps(result))
