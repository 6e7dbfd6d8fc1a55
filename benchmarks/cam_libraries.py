"""Grad-CAM and ROAD's imputation: har_fastai compared with captum and pytorch-grad-cam, on the same network and images.

Prints one JSON line: milliseconds per image (median of alternating rounds, one thread) and the largest difference between the maps,
as a share of the largest value. Needs captum, and pytorch-grad-cam from `pip install grad-cam` (version 1.5.7 was used); a library
that is not installed is left out. The network is the baseline with random weights, since the time does not depend on the weights.
The images are random noise.
"""
import argparse
import importlib.util
import json
import time

import numpy as np
import torch

from har_fastai.explain.faithfulness import noisy_linear_impute
from har_fastai.explain.gradcam import GradCAM
from har_fastai.models import ARCHS, create_model
from har_fastai.train.runs import machine


def ours(model, layer, x, c):
    with GradCAM(model, layer) as cam: return cam(x, c, relu=False)


def captum(model, layer, x, c):
    from captum.attr import LayerGradCam
    return LayerGradCam(model, model.get_submodule(layer)).attribute(x, c)[:, 0].detach()


def pytorch_grad_cam(model, layer, x, c):
    "Its maps before they are cut off at 0, scaled to 0–1 and resized"
    from pytorch_grad_cam import GradCAM as Theirs
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    with Theirs(model, [model.get_submodule(layer)]) as cam:
        cam(x, [ClassifierOutputTarget(i) for i in c.tolist()])
        a, g = cam.activations_and_grads.activations[0], cam.activations_and_grads.gradients[0]
        return torch.from_numpy(cam.get_cam_image(x, None, None, a.numpy(), g.numpy(), False))


def their_imputation(x, gone):
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer
    fill = NoisyLinearImputer(noise=0)
    return torch.stack([fill(a, ~g[0]) for a, g in zip(x, gone)])


def compare(calls, rounds):
    "The result and the milliseconds per call of several functions, in alternating rounds"
    results, times = {}, {k: [] for k in calls}
    for _ in range(rounds + 1): # the first one is not counted
        for name, call in calls.items():
            start = time.perf_counter(); results[name] = call(); times[name].append((time.perf_counter() - start) * 1000)
    return results, {k: float(np.median(t[1:])) for k, t in times.items()}


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--n', type=int, default=16, help='images')
    p.add_argument('--size', type=int, default=128, help='side of the images, px')
    p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--quick', action='store_true', help='two rounds: a few seconds')
    a = p.parse_args()
    if a.quick: a.rounds = 2
    torch.set_num_threads(1); torch.manual_seed(0)
    model, layer = create_model('baseline', 15).eval(), ARCHS['baseline'].target_layer
    x, c = torch.randn(a.n, 3, a.size, a.size), torch.arange(a.n) % 15
    has = [f for f in (captum, pytorch_grad_cam) if importlib.util.find_spec(f.__name__)]
    maps, ms = compare({f.__name__: lambda f=f: f(model, layer, x, c) for f in (ours, *has)}, a.rounds)
    largest = maps['ours'].abs().max()
    line = dict(what='Grad-CAM, ms per image', images='random', scored=a.n, size=a.size, rounds=a.rounds,
                **{k: round(v / a.n, 2) for k, v in ms.items()},
                difference={f.__name__: float((maps[f.__name__] - maps['ours']).abs().max() / largest) for f in has})
    if pytorch_grad_cam in has:
        gone = torch.rand(a.n, 1, a.size // 8, a.size // 8).repeat_interleave(8, 2).repeat_interleave(8, 3) < 0.5
        calls = dict(ours=lambda: noisy_linear_impute(x, gone), pytorch_grad_cam=lambda: their_imputation(x, gone))
        _, ms = compare(calls, min(a.rounds, 3))
        line['imputation of half of the pixels, ms per image'] = {k: round(v / a.n, 2) for k, v in ms.items()}
    print(json.dumps({**line, **machine()}))
