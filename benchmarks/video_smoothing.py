"""The effect of smoothing over time and of a minimum duration on the timelines of video clips.

Each clip shows a few images of different classes one after the other, as a hand-held camera films them (drift, zoom, changing
light, noise), encoded as MPEG-4 and read with the `Frames` of `predict_clip`. Images in the training or validation part of the
run are excluded. Two metrics are reported: frame accuracy, and the segmental F1 at an overlap of one half (Lea et al., 2017,
doi:10.1109/CVPR.2017.113), which compares the actions of a timeline with the true ones. Confidence intervals are bootstraps over
clips. The defaults of `predict_clip` were selected on clips of --seed 0, so results must be reported for another seed. Prints one
JSON line.
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
from har_fastai.predict.video import MIN_DURATION, SMOOTHING, Frames, find_segments, smooth_probs

WIDTHS, LEASTS = (0, .25, .5, .75, 1.), (0, 1., 1.5, 2.) # seconds

def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--model', required=True, metavar='RUN', help='folder of a run or a model')
    p.add_argument('--data', metavar='DIR', help='folder or table of labelled images (default: new drawings)')
    p.add_argument('--clips', type=int, default=120, help='number of clips (default: 120)')
    p.add_argument('--fps', type=float, default=2., help='frames per second to classify (default: 2)')
    p.add_argument('--noise', type=float, default=12., help='standard deviation of the noise, in grey levels of 0-255 (default: 12)')
    p.add_argument('--drift', type=float, default=.5, help='largest part of each side outside the frame, as a fraction (default: 0.5)')
    p.add_argument('--seed', type=int, default=1, help='seed of the clips (default: 1)')
    p.add_argument('--quick', action='store_true', help='a trial run of under a minute: 8 clips')
    p.add_argument('--keep', metavar='FILE', help='file for the times, true classes and probabilities of all frames (.npz)')
    a = p.parse_args()
    if a.quick: a.clips = 8
    return a

def unseen(a, tmp):
    "Labelled images that the run was neither trained nor validated on"
    df = read_har(a.data or draw_har(tmp/'har', n=600, size=160, seed=99, test=0))
    split = Path(a.model)/'split.csv'
    if not split.is_file(): return df
    s = pd.read_csv(split, dtype=str)
    known = set(s.sha256[s.part != 'test'])
    if a.data is None: return df[[sha256_file(p) not in known for p in df.path]]
    return df[df.filename.isin(set(s.filename[s.part == 'test']))]

def film(a, df, rng, file):
    "Write a clip of 3 or 4 images of different classes, 2 to 6 seconds each; returns labels, end times and images"
    labels = rng.choice(sorted(df.label.unique()), rng.integers(3, 5), replace=False)
    images = [rng.choice(df.path[df.label == l].to_numpy(str)) for l in labels]
    lengths, frames = rng.integers(20, 61, len(labels)), []
    for f, n in zip(images, lengths): frames += shake(open_image(f), int(n), rng, (320, 240), a.noise, a.drift)
    write_clip(file, frames, 10)
    return labels, np.cumsum(lengths) / 10, images

def predicted(a, tmp):
    "For each clip: times, true classes and probabilities of its frames, end, classes, correctness on the still images, card"
    rng, predictor = np.random.default_rng(a.seed), Predictor(a.model)
    df = unseen(a, tmp); df = df[df.label.isin(predictor.vocab)]
    for i in range(a.clips):
        labels, ends, stills = film(a, df, rng, tmp/'clip.mp4')
        frames, times = Frames(tmp/'clip.mp4', a.fps), []
        def shots():
            for t, img in frames: times.append(t); yield img
        probs = np.stack([p for p, _ in predictor.stream(shots())])
        shown = np.searchsorted(ends, np.array(times) + 1e-6, 'right').clip(0, len(ends) - 1)
        truth = np.array([predictor.vocab.index(l) for l in labels])[shown]
        right = [predictor.vocab[k] == l for k, l in zip(predictor.probs(stills).argmax(1), labels)]
        yield np.array(times), truth, probs, frames.end, predictor.vocab, right, predictor.card
        if i % 10 == 9: print(f'{i + 1} of {a.clips} clips', flush=True)

def overlap(a, b):
    "Intersection over union of two actions"
    return (min(a.end, b.end) - max(a.start, b.start)) / (max(a.end, b.end) - min(a.start, b.start))

def scored(clip, width, least):
    "Counts for a clip: correct frames; true positive, false positive and missed actions; predicted minus true actions"
    times, truth, probs, end, vocab, *_ = clip
    found = find_segments(times, smooth_probs(times, probs, width), vocab, end, least)
    true = find_segments(times, np.eye(len(vocab))[truth], vocab, end, 0)
    frames = np.array([vocab.index(found.label.iloc[i]) for i in np.searchsorted(found.end, times, 'right').clip(0, len(found) - 1)])
    used = set()
    for s in found.itertuples():
        near = max((g for g in true.itertuples() if g.label == s.label), key=lambda g: overlap(g, s), default=None)
        if near and overlap(near, s) >= .5: used.add(near.Index)
    return np.array([(frames == truth).sum(), len(used), len(found) - len(used), len(true) - len(used), len(found) - len(true)])

def metrics(s, frames):
    "Frame accuracy and segmental F1 from the counts of clips"
    return s[..., 0].sum(-1) / frames.sum(-1), 2 * s[..., 1].sum(-1) / (2 * s[..., 1] + s[..., 2] + s[..., 3]).sum(-1)

def main(a, tmp):
    clips = list(predicted(a, tmp))
    if a.keep:
        names = 'times', 'truth', 'probs'
        np.savez(a.keep, **{f'{name}{i}': c[j] for i, c in enumerate(clips) for j, name in enumerate(names)})
    frames = np.array([len(c[0]) for c in clips])
    pick = np.random.default_rng(1).integers(0, len(clips), (2000, len(clips)))
    ways = dict(single=(0, 0), smoothed=(SMOOTHING, 0), no_short=(0, MIN_DURATION), both=(SMOOTHING, MIN_DURATION))
    scores = {k: np.array([scored(c, *w) for c in clips]) for k, w in ways.items()}
    out = dict(what='timelines of clips, against single frames', images='own' if a.data else 'drawn', clips=len(clips),
               frames=int(frames.sum()), fps=a.fps, noise=a.noise, drift=a.drift, seed=a.seed, width=SMOOTHING, least=MIN_DURATION)
    for k, s in scores.items():
        acc, f1 = metrics(s, frames)
        out[k] = dict(accuracy=round(float(acc), 4), f1=round(float(f1), 4), surplus=round(float(s[:, 4].mean()), 2))
        if k == 'single': continue
        pairs = zip(metrics(s[pick], frames[pick]), metrics(scores['single'][pick], frames[pick]))
        changes = [np.quantile(x - y, [.025, .975]).round(4).tolist() for x, y in pairs]
        out[k] |= dict(accuracy_change=changes[0], f1_change=changes[1])
    def row(w, l):
        acc, f1 = metrics(np.array([scored(c, w, l) for c in clips]), frames)
        return dict(width=w, least=l, accuracy=round(float(acc), 4), f1=round(float(f1), 4))
    out['grid'] = [row(w, l) for w in WIDTHS for l in LEASTS]
    out['stills'] = round(float(np.mean(np.concatenate([c[5] for c in clips]))), 4)
    correct = sum(n for c in clips for n, right in by_action(c) if right)
    out['known_cuts'] = round(float(correct / frames.sum()), 4)
    return dict(**out, arch=clips[0][6].arch, size=clips[0][6].size, torch=torch.__version__,
                python=sys.version.split()[0], threads=torch.get_num_threads())

def by_action(clip):
    "For each true action: number of frames, and whether their mean probabilities are correct (an upper bound for smoothing)"
    _, truth, probs, *_ = clip
    for part in np.split(np.arange(len(truth)), np.flatnonzero(np.diff(truth)) + 1):
        yield len(part), probs[part].mean(0).argmax() == truth[part[0]]

if __name__ == '__main__':
    args = options()
    with tempfile.TemporaryDirectory() as d, contextlib.redirect_stdout(sys.stderr): result = main(args, Path(d))
    print(json.dumps(result))
