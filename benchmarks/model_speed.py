"""Time of a prediction with the included models, with ONNX Runtime and with PyTorch, compared with torchvision's ResNet-50.

The sides alternate in rounds, and medians are compared. A time includes opening and resizing the image. ResNet-50 is run as its users
would run it, in eager PyTorch at 224 px; its weights are random, since the speed does not depend on them. `start` is the time of a
whole process that predicts one image, compared with `python -c "import torch"`. Prints one JSON line; above 1, a ratio means that
the other side is slower than the default, the first included model with ONNX Runtime. Needs --data.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torchvision.models import resnet50
from har_fastai.images import IMAGENET_MEAN, IMAGENET_STD, find_images, open_image, preprocess
from har_fastai.predict.base import SHIPPED
from har_fastai.predict.onnx import open_predictor
from har_fastai.predict.predictor import Predictor

from predict_speed import rounded, turns

PREDICT = 'from har_fastai.cli import har_predict; har_predict()'


def plain_resnet(files):
    "A function that predicts an image with ResNet-50 in eager PyTorch"
    model = resnet50().eval()
    def predict(i):
        x = preprocess(open_image(files[i]), 224, IMAGENET_MEAN, IMAGENET_STD, 'squash')
        with torch.inference_mode(): return model(torch.from_numpy(np.ascontiguousarray(x[None]))).softmax(1)
    return predict


def predictors():
    "The included models in each form, by name"
    onnx = {f'{m} (ONNX Runtime)': open_predictor(m) for m in SHIPPED}
    return onnx | {f'{m} (PyTorch, {"bfloat16 where native" if h is None else "32 bits"})': Predictor(m, half=h)
                   for m in SHIPPED for h in (None, False)}


def starts(image, rounds):
    "Median seconds of whole processes"
    with tempfile.TemporaryDirectory() as cwd:
        def process(*args): subprocess.run([sys.executable, '-c', *args], check=True, capture_output=True, cwd=cwd)
        sides = {m: lambda i, m=m: process(PREDICT, str(image), '--model', m) for m in SHIPPED}
        return turns(sides | {'import torch': lambda i: process('import torch')}, rounds, 1, 1)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='folder of images')
    p.add_argument('--n', type=int, default=96, help='images per round')
    p.add_argument('--rounds', type=int, default=7)
    a = p.parse_args()
    files = find_images([Path(a.data)])[:a.n]
    sides = predictors()
    labels = {k: s.probs(files).argmax(1) for k, s in sides.items() if '32 bits' in k or 'ONNX' in k}
    same = {m: bool((labels[f'{m} (ONNX Runtime)'] == labels[f'{m} (PyTorch, 32 bits)']).all()) for m in SHIPPED}
    single = {k: lambda i, s=s: s.predict(files[i]) for k, s in sides.items()} | {'ResNet-50 (eager PyTorch)': plain_resnet(files)}
    one = turns(single, a.rounds, 12, 1)
    many = turns({k: lambda i, s=s: s.probs(files) for k, s in sides.items()}, a.rounds, 1, len(files))
    start, first = starts(files[0], 5), f'{next(iter(SHIPPED))} (ONNX Runtime)'
    print(json.dumps(rounded(dict(
        what='included models: time of a prediction, other / default', first=first, one={k: v / one[first] for k, v in one.items()},
        many={k: v / many[first] for k, v in many.items()}, start={k: v / start[next(iter(SHIPPED))] for k, v in start.items()},
        one_ms={k: 1e3 * v for k, v in one.items()}, many_images_per_s={k: 1 / v for k, v in many.items()}, start_s=start,
        same_labels=same, n=len(files), rounds=a.rounds, threads=torch.get_num_threads(), cores=os.cpu_count(),
        bfloat16=sides[f'{next(iter(SHIPPED))} (PyTorch, bfloat16 where native)'].dtype == torch.bfloat16))))
