"""The training of the report in plain PyTorch and torchvision, with which the benchmarks compare"""
import torch
import torchvision.transforms as T
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from har_fastai.images import IMAGENET_MEAN, IMAGENET_STD
from har_fastai.data.loaders import class_weights


class Images(Dataset):
    "The images of one part, opened and transformed as in the report"
    def __init__(self, df, size, part='train'):
        vocab = sorted(df.label.unique())
        rows = df[df.part == part]
        self.paths, self.y = list(rows.path), [vocab.index(label) for label in rows.label]
        self.weights = class_weights(df)[(df.part == part).to_numpy()]
        tensor = [T.ToTensor(), T.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
        train = [T.RandomResizedCrop(size, scale=(0.75, 1.0)), T.RandAugment(2, 9), T.RandomHorizontalFlip(), *tensor,
                 T.RandomErasing(0.25, (0.02, 0.2), (0.3, 3.3))]
        self.tfm = T.Compose(train if part == 'train' else [T.Resize((size, size)), *tensor])
    def __len__(self): return len(self.paths)
    def __getitem__(self, i): return self.tfm(Image.open(self.paths[i]).convert('RGB')), self.y[i]


def report_cnn(n_out):
    "The network of the report"
    chans = [3, 32, 64, 128, 256, 512]
    blocks = [nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2))
              for i, o in zip(chans, chans[1:])]
    head = nn.Linear(512, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, n_out)
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head)


class PlainLoop:
    "The training loop of the report; `epoch` trains on all rows of a table once and validates"
    def __init__(self, df, size, bs, device='cpu', workers=0):
        self.train, self.valid, self.bs, self.device, self.workers = Images(df, size), Images(df, size, 'valid'), bs, device, workers
        self.model, self.loss_func = report_cnn(df.label.nunique()).to(device), nn.CrossEntropyLoss(label_smoothing=0.1)
        self.opt = torch.optim.AdamW(self.model.parameters(), lr=3e-4, weight_decay=1e-4)

    def steps(self):
        "Train for an epoch; yields after each step"
        self.model.train()
        sampler = WeightedRandomSampler(self.train.weights, len(self.train))
        for x, y in DataLoader(self.train, self.bs, sampler=sampler, drop_last=True, num_workers=self.workers):
            loss = self.loss_func(self.model(x.to(self.device)), y.to(self.device))
            self.opt.zero_grad(); loss.backward(); self.opt.step()
            loss.item() # the report computes a running loss
            yield

    def validate(self):
        "Predict the validation images"
        self.model.eval()
        loader = DataLoader(self.valid, self.bs)
        with torch.no_grad(): return [self.model(x.to(self.device)).argmax(1) for x, _ in loader]

    def epoch(self):
        "Train for an epoch and validate"
        for _ in self.steps(): pass
        self.validate()
