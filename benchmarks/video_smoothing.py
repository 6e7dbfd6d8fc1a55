"""What smoothing over time, and the shortest time of an action, do to a run's answers to clips.

Each clip shows a few images of different classes, one after the other, as an unsteady hand would film them (drifting view, zoom, changing light, grain),
written as MPEG-4 and read back through `watch`'s own `Frames`. No image is one that the run was trained on, as far as its split.csv knows.
Two figures are told: the share of frames that are right, and the segmental F1 at an overlap of one half (Lea et al., 2017, doi:10.1109/CVPR.2017.113), which asks
whether the actions of a timeline are those that took place. Intervals are those of a bootstrap over clips. The defaults of `watch` were chosen on clips of --seed 0;
report those of another seed. One line of JSON is printed.
"""
from __future__ import annotations
import argparse, contextlib, json, os, sys, tempfile
from pathlib import Path
import numpy as np, pandas as pd, torch
from har_fastai.files import sha256_file
from har_fastai.images import open_image
from har_fastai.predict.predictor import Predictor
from har_fastai.drawing.dataset import draw_har
from har_fastai.data.tables import read_har
from har_fastai.testing import shake, write_clip
from har_fastai.predict.video import LEAST, WIDTH, Frames, find_segments, smooth_probs

WIDTHS, LEASTS = (0, .25, .5, .75, 1.), (0, 1., 1.5, 2.) # seconds

def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--model', required=True, metavar='RUN', help='a run, or any folder with a model')
    p.add_argument('--data', metavar='DIR', help='labelled images; new drawings by default')
    p.add_argument('--clips', type=int, default=120, help='how many clips (default: 120)')
    p.add_argument('--fps', type=float, default=2., help='frames a second that are looked at (default: 2)')
    p.add_argument('--noise', type=float, default=12., help='standard deviation of the grain, in steps of 0-255 (default: 12)')
    p.add_argument('--room', type=float, default=.5, help='the most that a view leaves out, as a share of the sides (default: 0.5)')
    p.add_argument('--seed', type=int, default=1, help='another seed makes other clips (default: 1)')
    p.add_argument('--quick', action='store_true', help='under a minute: 8 clips')
    p.add_argument('--keep', metavar='FILE', help='keep the times, true classes and probabilities of all frames (.npz)')
    a = p.parse_args()
    if a.quick: a.clips = 8
    return a

def unseen(a, tmp):
    "Labelled images that the run did not learn from"
    df, split = read_har(a.data or draw_har(tmp/'har', n=600, size=160, seed=99, test=0)), Path(a.model)/'split.csv'
    if not split.is_file(): return df
    s = pd.read_csv(split, dtype=str)
    known = set(s.sha256[s.part != 'test'])
    return df[[sha256_file(p) not in known for p in df.path]] if a.data is None else df[df.filename.isin(set(s.filename[s.part == 'test']))]

def film(a, df, rng, file):
    "A clip of 3 or 4 images of different classes, 2 to 6 seconds each; what is to be seen when, and the images"
    labels = rng.choice(sorted(df.label.unique()), rng.integers(3, 5), replace=False)
    images, lengths, frames = [rng.choice(df.path[df.label == l].to_numpy(str)) for l in labels], rng.integers(20, 61, len(labels)), []
    for f, n in zip(images, lengths): frames += shake(open_image(f), int(n), rng, (320, 240), a.noise, a.room)
    write_clip(file, frames, 10)
    return labels, np.cumsum(lengths) / 10, images

def answered(a, tmp):
    "For each clip the times, the true classes and the probabilities of its frames, its end, the classes, and whether each of its images is told rightly as it is"
    rng, predictor = np.random.default_rng(a.seed), Predictor(a.model)
    df = unseen(a, tmp); df = df[df.label.isin(predictor.vocab)]
    for i in range(a.clips):
        labels, ends, stills = film(a, df, rng, tmp/'clip.mp4')
        frames, times = Frames(tmp/'clip.mp4', a.fps), []
        def shots():
            for t, img in frames: times.append(t); yield img
        probs = np.stack([p for p, _ in predictor.stream(shots())])
        truth = np.array([predictor.vocab.index(l) for l in labels])[np.searchsorted(ends, np.array(times) + 1e-6, 'right').clip(0, len(ends) - 1)]
        right = [predictor.vocab[k] == l for k, l in zip(predictor.probs(stills).argmax(1), labels)]
        yield np.array(times), truth, probs, frames.end, predictor.vocab, right, predictor.card
        if i % 10 == 9: print(f'{i + 1} of {a.clips} clips', flush=True)

def overlap(a, b):
    "Intersection over union of two actions"
    return (min(a.end, b.end) - max(a.start, b.start)) / (max(a.end, b.end) - min(a.start, b.start))

def scored(clip, width, least):
    "Of a clip's timeline: frames that are right; actions found, told wrongly, missed; how many were told beyond those that took place"
    times, truth, probs, end, vocab, *_ = clip
    said = find_segments(times, smooth_probs(times, probs, width), vocab, end, least)
    true = find_segments(times, np.eye(len(vocab))[truth], vocab, end, 0)
    frames = np.array([vocab.index(said.label.iloc[i]) for i in np.searchsorted(said.end, times, 'right').clip(0, len(said) - 1)])
    used = set()
    for s in said.itertuples():
        near = max((g for g in true.itertuples() if g.label == s.label), key=lambda g: overlap(g, s), default=None)
        if near and overlap(near, s) >= .5: used.add(near.Index)
    return np.array([(frames == truth).sum(), len(used), len(said) - len(used), len(true) - len(used), len(said) - len(true)])

def figures(s, frames):
    "Share of right frames, and F1, of many clips' counts"
    return s[..., 0].sum(-1) / frames.sum(-1), 2 * s[..., 1].sum(-1) / (2 * s[..., 1] + s[..., 2] + s[..., 3]).sum(-1)

def main(a, tmp):
    clips = list(answered(a, tmp))
    if a.keep: np.savez(a.keep, **{f'{name}{i}': c[j] for i, c in enumerate(clips) for j, name in enumerate(('times', 'truth', 'probs'))})
    frames, pick = np.array([len(c[0]) for c in clips]), np.random.default_rng(1).integers(0, len(clips), (2000, len(clips)))
    ways = dict(single=(0, 0), smoothed=(WIDTH, 0), no_short=(0, LEAST), both=(WIDTH, LEAST))
    scores = {k: np.array([scored(c, *w) for c in clips]) for k, w in ways.items()}
    out = dict(what='timelines of clips, against single frames', images='own' if a.data else 'drawn', clips=len(clips), frames=int(frames.sum()), fps=a.fps, noise=a.noise, room=a.room, seed=a.seed, width=WIDTH, least=LEAST)
    for k, s in scores.items():
        acc, f1 = figures(s, frames)
        lows = [np.quantile(x - y, [.025, .975]).round(4).tolist() for x, y in zip(figures(s[pick], frames[pick]), figures(scores['single'][pick], frames[pick]))]
        out[k] = dict(accuracy=round(float(acc), 4), f1=round(float(f1), 4), surplus=round(float(s[:, 4].mean()), 2), **({} if k == 'single' else dict(accuracy_change=lows[0], f1_change=lows[1])))
    out['grid'] = [dict(width=w, least=l, accuracy=round(float(x), 4), f1=round(float(y), 4)) for w in WIDTHS for l in LEASTS for x, y in [figures(np.array([scored(c, w, l) for c in clips]), frames)]]
    out['stills'] = round(float(np.mean(np.concatenate([c[5] for c in clips]))), 4)
    out['known_cuts'] = round(float(sum((n.sum() if right else 0) for c in clips for n, right in runs_right(c)) / frames.sum()), 4)
    return dict(**out, arch=clips[0][6].arch, size=clips[0][6].size, torch=torch.__version__, python=sys.version.split()[0], threads=torch.get_num_threads())

def runs_right(clip):
    "For each action that took place its frames, and whether the mean of its probabilities is right: what smoothing could reach if it knew the cuts"
    _, truth, probs, *_ = clip
    for part in np.split(np.arange(len(truth)), np.flatnonzero(np.diff(truth)) + 1): yield np.ones(len(part)), probs[part].mean(0).argmax() == truth[part[0]]

if __name__ == '__main__':
    args = options()
    with tempfile.TemporaryDirectory() as d, contextlib.redirect_stdout(sys.stderr): result = main(args, Path(d))
    print(json.dumps(result))
