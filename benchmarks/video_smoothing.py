"""Does smoothing over time make a run's answers to clips better than those to single frames?

Each clip shows a few pictures of different classes, one after the other, as an unsteady hand would film them (drifting view, zoom, changing light, grain),
written as MPEG-4 and read back through `watch`'s own `Frames`. No picture is one that the run was trained on, as far as its split.csv knows. The first half of the clips
chooses the width of the smoothing; accuracies are those of the second half, with intervals of a bootstrap over its clips. One line of JSON is printed.
"""
from __future__ import annotations
import argparse, contextlib, json, os, sys, tempfile
from pathlib import Path
import numpy as np, pandas as pd
from har_fastai.files import open_picture, sha256_file
from har_fastai.inference import Predictor
from har_fastai.sample import draw_har
from har_fastai.tables import read_har
from har_fastai.test_utils import shake, write_clip
from har_fastai.video import Frames, find_segments, smooth_probs

WIDTHS = (0.25, 0.5, 0.75, 1., 1.5, 2.)

def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--model', required=True, metavar='RUN', help='a run, or any folder with a model')
    p.add_argument('--data', metavar='DIR', help='labelled pictures; new drawings by default')
    p.add_argument('--clips', type=int, default=120, help='how many clips (default: 120)')
    p.add_argument('--fps', type=float, default=2., help='frames a second that are looked at (default: 2)')
    p.add_argument('--noise', type=float, default=12., help='standard deviation of the grain, in steps of 0-255 (default: 12)')
    p.add_argument('--room', type=float, default=.5, help='the most that a view leaves out, as a share of the sides (default: 0.5)')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--quick', action='store_true', help='under a minute: 8 clips')
    p.add_argument('--keep', metavar='FILE', help='keep the times, true classes and probabilities of all frames (.npz)')
    a = p.parse_args()
    if a.quick: a.clips = 8
    return a

def unseen(a, tmp):
    "Labelled pictures that the run did not learn from"
    df, split = read_har(a.data or draw_har(tmp/'har', n=600, size=160, seed=99, test=0)), Path(a.model)/'split.csv'
    if not split.is_file(): return df
    s = pd.read_csv(split, dtype=str)
    known = set(s.sha256[s.part != 'test'])
    return df[[sha256_file(p) not in known for p in df.path]] if a.data is None else df[df.filename.isin(set(s.filename[s.part == 'test']))]

def film(a, df, rng, file):
    "A clip of 3 or 4 pictures of different classes, 2 to 6 seconds each; what is to be seen when"
    labels = rng.choice(sorted(df.label.unique()), rng.integers(3, 5), replace=False)
    pictures, lengths, frames = [rng.choice(df.path[df.label == l].to_numpy(str)) for l in labels], rng.integers(20, 61, len(labels)), []
    for f, n in zip(pictures, lengths): frames += shake(open_picture(f), int(n), rng, (320, 240), a.noise, a.room)
    write_clip(file, frames, 10)
    return labels, np.cumsum(lengths) / 10

def answered(a, tmp):
    "For each clip the times, the true classes and the probabilities of its frames, and its end"
    rng, predictor = np.random.default_rng(a.seed), Predictor(a.model)
    df = unseen(a, tmp); df = df[df.label.isin(predictor.vocab)]
    for i in range(a.clips):
        labels, ends = film(a, df, rng, tmp/'clip.mp4')
        frames, times = Frames(tmp/'clip.mp4', a.fps), []
        def pictures():
            for t, img in frames: times.append(t); yield img
        probs = np.stack([p for p, _ in predictor.stream(pictures())])
        truth = np.array([predictor.vocab.index(l) for l in labels])[np.searchsorted(ends, np.array(times) + 1e-6, 'right').clip(0, len(ends) - 1)]
        yield np.array(times), truth, probs, frames.end, predictor.vocab
        if i % 10 == 9: print(f'{i + 1} of {a.clips} clips', flush=True)

def hits(clip, width, segments=False):
    "Which frames of a clip are right"
    times, truth, probs, end, vocab = clip
    p = smooth_probs(times, probs, width)
    if not segments: return p.argmax(1) == truth
    seg = find_segments(times, p, vocab, end)
    said = [vocab.index(seg.label.iloc[i]) for i in np.searchsorted(seg.end, times, 'right').clip(0, len(seg) - 1)]
    return np.array(said) == truth

def interval(differences, sizes, rng, n=2000):
    "95 % interval of the mean difference, by resampling clips"
    pick = rng.integers(0, len(sizes), (n, len(sizes)))
    return np.quantile(differences[pick].sum(1) / sizes[pick].sum(1), [.025, .975])

def main(a, tmp):
    clips = list(answered(a, tmp))
    if a.keep: np.savez(a.keep, **{f'{name}{i}': c[j] for i, c in enumerate(clips) for j, name in enumerate(('times', 'truth', 'probs'))})
    tune, test = clips[:len(clips) // 2], clips[len(clips) // 2:]
    share = lambda part, *args: float(np.mean(np.concatenate([hits(c, *args) for c in part])))
    by_width = {w: share(tune, w) for w in (0, *WIDTHS)}
    best = max(WIDTHS, key=by_width.get)
    raw, smooth, cut = ([hits(c, *args) for c in test] for args in ((0,), (best,), (best, True)))
    sizes, rng = np.array([len(h) for h in raw]), np.random.default_rng(1)
    low, high = interval(np.array([s.sum() - r.sum() for r, s in zip(raw, smooth)]), sizes, rng)
    low2, high2 = interval(np.array([s.sum() - r.sum() for r, s in zip(raw, cut)]), sizes, rng)
    acc = lambda h: round(float(np.concatenate(h).mean()), 4)
    changes = lambda width: round(float(np.mean([np.count_nonzero(np.diff(smooth_probs(c[0], c[2], width).argmax(1))) for c in test])), 2)
    return dict(what='frame accuracy, smoothed - single frames', pictures='own' if a.data else 'drawn', clips=len(test), frames=int(sizes.sum()), fps=a.fps, noise=a.noise, room=a.room,
                tuned={str(k): round(v, 4) for k, v in by_width.items()}, width=best, single=acc(raw), smoothed=acc(smooth), segments=acc(cut),
                difference=round(acc(smooth) - acc(raw), 4), low=round(low, 4), high=round(high, 4), segments_low=round(low2, 4), segments_high=round(high2, 4),
                changes_single=changes(0), changes_smoothed=changes(best), changes_true=round(float(np.mean([np.count_nonzero(np.diff(c[1])) for c in test])), 2))

if __name__ == '__main__':
    args = options()
    with tempfile.TemporaryDirectory() as d, contextlib.redirect_stdout(sys.stderr): result = main(args, Path(d))
    print(json.dumps(result))
