"""Timelines of clips from features instead of probabilities, compared with the present smoothing of probabilities.

`predict_clip` smooths the probabilities of frames with a Gaussian kernel. This script compares two alternatives on the same frames:

- a Gaussian average of the features, to which the last layer is applied; since that layer is linear, this is an average of logits.
  Its width is chosen on the training clips;
- attention over a window of nine frames: weights from the features and the distance in time, applied to the logits. It is trained on
  clips that are made in the same way from other images.

The clips are those of video_smoothing.py: images of different classes one after the other, filmed by a hand-held camera, as encoded
video; or, without --data, drawn people whose limbs move. Test clips show test images, training clips show validation images. All
results include the minimum duration of `find_segments`. Intervals are bootstraps over clips, paired. Prints one JSON line.
"""
import argparse
import json
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from torch import nn

from har_fastai.data.checks import check_har, usable
from har_fastai.data.splits import split_har
from har_fastai.data.tables import read_har
from har_fastai.models import find_arch
from har_fastai.predict.bundle import load_bundle
from har_fastai.predict.features import FeatureExtractor
from har_fastai.predict.video import MIN_DURATION, SMOOTHING, Frames, smooth_probs

from video_smoothing import film, metrics, scored

WIDTHS = .25, .5, .75, 1., 1.5 # seconds
REACH = 4 # frames before and after, for attention


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--model', default='lite2', help='folder of a model, or name of an included one')
    p.add_argument('--data', metavar='DIR', help='folder or table of labelled images (default: drawn people in motion)')
    p.add_argument('--clips', type=int, default=60, help='number of test clips')
    p.add_argument('--train', type=int, default=60, help='number of training clips')
    p.add_argument('--fps', type=float, default=2., help='frames per second to classify')
    p.add_argument('--noise', type=float, default=12., help='as for video_smoothing.py')
    p.add_argument('--drift', type=float, default=.5, help='as for video_smoothing.py')
    p.add_argument('--seed', type=int, default=1, help='seed of the clips')
    return p.parse_args()


def filmed(a, df, rng, tmp):
    "Frames of a clip of photographs: images, times, labels of the frames, end"
    labels, ends, _ = film(a, df, rng, tmp/'clip.mp4')
    frames = Frames(tmp/'clip.mp4', a.fps)
    times, images = zip(*frames)
    shown = np.searchsorted(ends, np.array(times) + 1e-6, 'right').clip(0, len(ends) - 1)
    return list(images), np.array(times), labels[shown], frames.end


def drawn(a, rng):
    "Frames of a clip of drawn people whose limbs move, two to six seconds each"
    from har_fastai.drawing.clips import draw_frames
    from har_fastai.drawing.dataset import DRAWN_ACTIONS
    images, shown = [], []
    for label in rng.choice(sorted(DRAWN_ACTIONS), rng.integers(3, 5), replace=False):
        n = round(rng.uniform(2, 6) * a.fps)
        images += draw_frames(label, int(rng.integers(2**31)), n, rate=a.fps); shown += [label] * n
    noisy = [(np.asarray(i, np.float32) + rng.normal(0, a.noise, (i.height, i.width, 3))).clip(0, 255).astype(np.uint8) for i in images]
    return noisy, np.arange(len(images)) / a.fps, np.array(shown), len(images) / a.fps


def embedded(a, n, seed, df, extractor, head, vocab, tmp):
    "For each clip: times, true classes, features, logits, end, classes"
    rng, clips = np.random.default_rng(seed), []
    for i in range(n):
        images, times, labels, end = drawn(a, rng) if df is None else filmed(a, df, rng, tmp)
        x = torch.from_numpy(np.stack([f for f, _ in extractor.stream(images)]))
        clips.append((times, np.array([vocab.index(l) for l in labels]), x, head(x), end, vocab))
        if i % 10 == 9: print(f'{i + 1} of {n} clips', flush=True)
    return clips


class Attention(nn.Module):
    "A weighted mean of the logits of nearby frames; the weights depend on the features of both frames and their distance"
    def __init__(self, n, width=32):
        super().__init__()
        self.q, self.k = nn.Linear(n, width), nn.Linear(n, width)
        self.offset = nn.Parameter(-torch.arange(-REACH, REACH + 1).abs().float() / 2)
    def forward(self, x, z):
        x = nn.functional.normalize(x, dim=1)
        gap = torch.arange(len(x)) - torch.arange(len(x))[:, None]
        score = 4 * self.q(x) @ self.k(x).T + self.offset[gap.clamp(-REACH, REACH) + REACH]
        return score.masked_fill(gap.abs() > REACH, -torch.inf).softmax(1) @ z


def trained(clips, epochs=40):
    "Attention, trained on clips"
    torch.manual_seed(0)
    net = Attention(clips[0][2].shape[1])
    opt = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=.05)
    for epoch in range(epochs):
        for i in np.random.default_rng(epoch).permutation(len(clips)):
            _, y, x, z, *_ = clips[i]
            loss = nn.functional.cross_entropy(net(x, z), torch.from_numpy(y))
            opt.zero_grad(); loss.backward(); opt.step()
    return net.eval()


def softmax(z): return torch.as_tensor(z).softmax(1).detach().numpy()


def counts(clips, probs, least=MIN_DURATION):
    "The counts of `scored` for each clip, given a function that returns the probabilities of its frames"
    return np.array([scored((t, y, probs(t, x, z), end, vocab), 0, least) for t, y, x, z, end, vocab in clips])


def mean_logits(width): return lambda t, x, z: softmax(smooth_probs(t, z.numpy(), width))


def result(a, tmp):
    model, card = load_bundle(a.model)
    last, extractor = model.get_submodule(find_arch(card.arch).head), FeatureExtractor(a.model)
    @torch.inference_mode()
    def head(x): return last(x) / card.temperature
    parts = None, None
    if a.data:
        df = split_har(usable(check_har(read_har(a.data))), 'tail', 42)
        parts = df[df.part == 'valid'], df[df.part == 'test']
    train, test = (embedded(a, n, s, df, extractor, head, card.vocab, tmp)
                   for n, s, df in zip((a.train, a.clips), (a.seed + 1000, a.seed), parts))
    train, test = ([(t, y, x.clone(), z.clone(), *more) for t, y, x, z, *more in clips] for clips in (train, test))
    frames = [np.array([len(c[0]) for c in clips]) for clips in (train, test)]
    width = max(WIDTHS, key=lambda w: sum(metrics(counts(train, mean_logits(w)), frames[0])))
    net = trained(train)
    ways = dict(single=lambda t, x, z: softmax(z), smoothed=lambda t, x, z: smooth_probs(t, softmax(z), SMOOTHING),
                mean_features=mean_logits(width), same_width=mean_logits(SMOOTHING), attention=lambda t, x, z: softmax(net(x, z)))
    found = {k: counts(test, f) for k, f in ways.items()}
    pick = np.random.default_rng(1).integers(0, len(test), (2000, len(test)))
    out = dict(what='clips: features, against smoothed probabilities', model=a.model,
               images='own' if a.data else 'drawn people in motion', clips=a.clips, train=a.train, frames=int(frames[1].sum()), fps=a.fps,
               noise=a.noise, drift=a.drift, seed=a.seed, width=SMOOTHING, least=MIN_DURATION, features_width=width)
    for k, s in found.items():
        acc, f1 = metrics(s, frames[1])
        out[k] = dict(accuracy=round(float(acc), 4), f1=round(float(f1), 4))
        if k in ('single', 'smoothed'): continue
        pairs = zip(metrics(s[pick], frames[1][pick]), metrics(found['smoothed'][pick], frames[1][pick]))
        changes = [np.quantile(x - y, [.025, .975]).round(4).tolist() for x, y in pairs]
        base = metrics(found['smoothed'], frames[1])
        out[k] |= dict(accuracy_change=[round(float(acc - base[0]), 4), *changes[0]], f1_change=[round(float(f1 - base[1]), 4), *changes[1]])
    return out


if __name__ == '__main__':
    args = options()
    with tempfile.TemporaryDirectory() as d, redirect_stdout(sys.stderr): found = result(args, Path(d))
    print(json.dumps(found))
