"""How well an included model recognises images without people or action: AUROC against photographs that it was not trained on.

The images are charts, pages of text and textures that are drawn here, and parts of the two photographs of scikit-learn (a temple and a
flower). Two measures are compared: the similarity to the training images, and the probability of the predicted class. Prints one
JSON line. Needs --data.
"""
import argparse
import json
import sys
from contextlib import redirect_stdout

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_images
from sklearn.metrics import roc_auc_score

from har_fastai.data.checks import check_har, usable
from har_fastai.data.splits import split_har
from har_fastai.data.tables import read_har
from har_fastai.predict.predictor import Predictor
from har_fastai.train.runs import machine

SIZE = 320, 220 # width and height of the drawn images, in pixels


def chart(rng, kind):
    "A plot of random numbers"
    fig, ax = plt.subplots(figsize=(4, 2.7), dpi=70)
    if kind == 0: ax.plot(rng.normal(size=(50, 3)).cumsum(0))
    elif kind == 1: ax.bar(range(8), rng.uniform(size=8), color=plt.cm.tab10(range(8)))
    elif kind == 2: ax.pie(rng.uniform(0.1, 1, 5))
    elif kind == 3: ax.scatter(*rng.normal(size=(2, 100)), c=rng.uniform(size=100))
    else: ax.imshow(rng.normal(size=(20, 30)).cumsum(0).cumsum(1))
    fig.canvas.draw()
    pixels = np.asarray(fig.canvas.buffer_rgba())[..., :3].copy()
    plt.close(fig)
    return Image.fromarray(pixels)


def page(rng, words):
    "A page of text"
    img = Image.new('RGB', SIZE, tuple(int(v) for v in rng.integers(200, 256, 3)))
    draw, start, ink = ImageDraw.Draw(img), rng.integers(0, len(words) - 90), tuple(int(v) for v in rng.integers(0, 90, 3))
    for i in range(14): draw.text((8, 6 + 15 * i), ' '.join(words[start + 6 * i:start + 6 * i + 6])[:50], fill=ink)
    return img


def texture(rng, kind):
    "Noise, waves, blobs, a flat colour or a gradient"
    w, h = SIZE
    y, x = np.mgrid[:h, :w]
    if kind == 0: a = rng.integers(0, 256, (h, w, 3))
    elif kind == 1:
        waves = [x / rng.uniform(3, 30) + y / rng.uniform(3, 30) + p for p in rng.uniform(0, 6, 3)]
        a = np.stack([127 + 127 * np.sin(v) for v in waves], -1)
    elif kind == 2: a = np.asarray(Image.fromarray(rng.integers(0, 256, (12, 18, 3)).astype(np.uint8)).resize(SIZE, Image.BICUBIC))
    elif kind == 3: a = rng.integers(0, 256, 3) + rng.normal(0, 3, (h, w, 3))
    else: a = np.stack([(x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1)) % 256 for _ in range(3)], -1)
    return Image.fromarray(a.clip(0, 255).astype(np.uint8))


def parts(rng, n):
    "Random parts of scikit-learn's photographs"
    images = [Image.fromarray(a) for a in load_sample_images().images]
    for i in range(n):
        img, share = images[i % len(images)], rng.uniform(0.4, 0.8)
        x, y = (rng.uniform(0, 1 - share, 2) * img.size).astype(int)
        yield img.crop((x, y, x + int(share * img.width), y + int(share * img.height)))


def others(seed=0):
    "Images without people or action, by kind"
    rng, words = np.random.default_rng(seed), (__doc__ * 3).split()
    return dict(charts=[chart(rng, i % 5) for i in range(30)], text=[page(rng, words) for _ in range(20)],
                textures=[texture(rng, i % 5) for i in range(40)], photographs=list(parts(rng, 14)))


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='folder or table of labelled photographs; the last 20 %% of the rows are used')
    p.add_argument('--model', default='lite2', help='a folder with a model or the name of an included one')
    p.add_argument('--images', type=int, default=400, help='number of photographs')
    a = p.parse_args()
    with redirect_stdout(sys.stderr): df = split_har(usable(check_har(read_har(a.data))), 'tail', 42)
    test, predictor = df[df.part == 'test'].sample(a.images, random_state=0), Predictor(a.model)
    known = [probs for probs, _ in predictor.stream(test.path)]
    found, line = others(), {}
    for kind, images in found.items():
        new = [probs for probs, _ in predictor.stream(images)]
        y = np.r_[np.ones(len(known)), np.zeros(len(new))]
        line[kind] = dict(n=len(new), similarity=round(roc_auc_score(y, [q.similarity for q in known + new]), 4),
                          probability=round(roc_auc_score(y, [q.max() for q in known + new]), 4),
                          marked=round(np.mean([predictor.unsure(q) != '' for q in new]), 3))
        found[kind] = new
    new = sum(found.values(), [])
    y = np.r_[np.ones(len(known)), np.zeros(len(new))]
    print(json.dumps(dict(what='images without people or action: AUROC', model=a.model, photographs=len(known),
                          marked_photographs=round(np.mean([predictor.unsure(q) != '' for q in known]), 3),
                          similarity=round(roc_auc_score(y, [q.similarity for q in known + new]), 4),
                          probability=round(roc_auc_score(y, [q.max() for q in known + new]), 4), kinds=line, **machine())))
