"""Training pictures a second of the whole epoch: har_fastai against a plain PyTorch and torchvision loop of the report's recipe.

The plain loop is what the report describes: pictures opened with Pillow, torchvision's transforms, a WeightedRandomSampler, no workers,
the same network in PyTorch's own memory order, AdamW. The library's side is its fast path. Rounds alternate on the same rows of the same
table; each round is so many whole steps, loading included. Prints one JSON line. Without --data the drawn sample is used.
"""
import argparse
import json
import statistics
import time

import torch
import torchvision.transforms as T
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from har_fastai.core import embedded_sample, prepare
from har_fastai.files import IMAGENET_MEAN, IMAGENET_STD
from har_fastai.loaders import class_weights, packed_dls
from har_fastai.pack import pack_pictures
from har_fastai.runs import find_recipe, machine
from har_fastai.training import har_learner


class Pictures(Dataset):
    "Training pictures as the report opens and augments them"
    def __init__(self, df, size):
        vocab = sorted(df.label.unique())
        rows = df[df.part == 'train']
        self.paths, self.y = list(rows.path), [vocab.index(label) for label in rows.label]
        self.weights = class_weights(df)[(df.part == 'train').to_numpy()]
        self.tfm = T.Compose([T.RandomResizedCrop(size, scale=(0.75, 1.0)), T.RandAugment(2, 9), T.RandomHorizontalFlip(), T.ToTensor(),
                              T.Normalize(IMAGENET_MEAN, IMAGENET_STD), T.RandomErasing(0.25, (0.02, 0.2), (0.3, 3.3))])
    def __len__(self): return len(self.paths)
    def __getitem__(self, i): return self.tfm(Image.open(self.paths[i]).convert('RGB')), self.y[i]


def report_cnn(n_out):
    "The report's network, written plainly"
    chans = [3, 32, 64, 128, 256, 512]
    blocks = [nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)) for i, o in zip(chans, chans[1:])]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, n_out))


def plain_steps(df, size, bs):
    "An endless training loop; yields after each step"
    data = Pictures(df, size)
    model, loss_func = report_cnn(15), nn.CrossEntropyLoss(label_smoothing=0.1)
    opt = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=1e-4)
    while True:
        for x, y in DataLoader(data, bs, sampler=WeightedRandomSampler(data.weights, len(data)), drop_last=True):
            loss = loss_func(model(x), y)
            opt.zero_grad(); loss.backward(); opt.step()
            loss.item() # the report keeps a running loss
            yield


def our_steps(df, size, bs):
    "The library's loader, network, loss and optimiser; yields after each step"
    learn = har_learner(packed_dls(df, pack_pictures(df.path, df.sha256), size, bs, device='cpu'), find_recipe('report', size=size, bs=bs))
    learn.create_opt()
    learn.model.train(); learn.model.to(memory_format=torch.channels_last)
    learn.training = True
    while True:
        for i, b in enumerate(learn.dls.train):
            x, y = b
            loss = learn.loss_func(learn.model(x), y)
            learn.opt.zero_grad(); loss.backward(); learn.opt.step()
            loss.item()
            yield


def rate(steps, n, bs):
    "Pictures a second over `n` steps"
    start = time.perf_counter()
    for _ in range(n): next(steps)
    return n * bs / (time.perf_counter() - start)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', help='folder or table of labelled pictures')
    p.add_argument('--size', type=int, default=128, help='side of the pictures, px')
    p.add_argument('--bs', type=int, default=32, help='pictures a batch')
    p.add_argument('--rounds', type=int, default=7)
    p.add_argument('--steps', type=int, default=10, help='steps a round')
    p.add_argument('--quick', action='store_true', help='under a minute')
    a = p.parse_args()
    if a.quick: a.rounds, a.steps = 3, 4
    df = prepare(a.data or embedded_sample(), 'grouped', 42)
    ours, plain = our_steps(df, a.size, a.bs), plain_steps(df, a.size, a.bs)
    for side in (ours, plain): rate(side, 2, a.bs)
    rates = [(rate(ours, a.steps, a.bs), rate(plain, a.steps, a.bs)) for _ in range(a.rounds)]
    ratios = [o / q for o, q in rates]
    print(json.dumps(dict(what='training pictures per second, har_fastai / plain loop', size=a.size, bs=a.bs, rounds=a.rounds, steps=a.steps,
                          ratio=round(statistics.median(ratios), 3), least=round(min(ratios), 3), most=round(max(ratios), 3), **machine())))
