"What fastai's documentation shows of a learner works on ours as on plain fastai"
import contextlib, io

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip('fastai')
import matplotlib.pyplot as plt
from fastai.callback.progress import CSVLogger, ShowGraphCallback
from fastai.callback.schedule import Learner # noqa: F401 (adds fit_one_cycle, lr_find …)
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.interpret import ClassificationInterpretation
from fastai.learner import load_learner
from fastai.metrics import accuracy
from fastai.vision.augment import Resize
from fastai.vision.core import PILImage
from fastai.vision.data import ImageDataLoaders
from fastai.vision.learner import vision_learner
from torchvision.models import resnet18

from har_fastai.core import train_baseline
from har_fastai.data.tables import read_har
from har_fastai.testing import tiny_har

slow = pytest.mark.slow('calls of plain fastai and of uncached learners')
KINDS = (pytest.param('plain', marks=slow), 'cached', 'cached-keep', pytest.param('files-keep', marks=slow))


@pytest.fixture(scope='module')
def df(): return read_har(tiny_har(150))


@pytest.fixture(scope='module')
def learners(df, tmp_path_factory):
    "Learners by kind, each fitted for one epoch: fastai's own, and ours with and without the image cache"
    home, made = tmp_path_factory.mktemp('learners'), {}

    def get(kind):
        if kind not in made:
            if kind == 'plain':
                dls = ImageDataLoaders.from_df(df, path='/', fn_col='path', label_col='label', item_tfms=Resize(48), bs=16, num_workers=0)
                learn = vision_learner(dls, resnet18, pretrained=False, metrics=accuracy)
                learn.fit(1)
            else:
                learn = train_baseline(tiny_har(150), 'demo', size=48, epochs=1, cached='cached' in kind, out=home/kind, device='cpu',
                                       resize='keep' if 'keep' in kind else 'squash', num_workers=0, faithfulness=0)
            learn.path = home
            made[kind] = learn
        return made[kind]
    return get


@pytest.fixture
def x(df):
    "One image in each form in which fastai accepts it"
    file = PILImage.create(df.path[0])
    return dict(path=df.path[0], image=file, array=np.array(file), tensor=torch.tensor(np.array(file)), bytes=open(df.path[0], 'rb').read())


def interpreted(learn): return ClassificationInterpretation.from_learner(learn)


def exported(learn):
    learn.export('learner.pkl')
    assert len(learn.dls.train) and learn.opt is not None
    return load_learner(learn.path/'learner.pkl')


def logged(learn):
    learn.fit(2, cbs=CSVLogger('log.csv'))
    assert len(pd.read_csv(learn.path/'log.csv')) == 2
    learn.fit(1)
    return exported(learn)


CALLS = dict(
    get_preds=lambda l: l.get_preds(), get_preds_train=lambda l: l.get_preds(ds_idx=0),
    get_preds_all=lambda l: l.get_preds(with_loss=True, with_decoded=True, with_input=True),
    validate=lambda l: l.validate(), tta=lambda l: l.tta(n=1), show_batch=lambda l: l.dls.show_batch(max_n=4),
    show_unique=lambda l: l.dls.train.show_batch(max_n=4, unique=True), show_results=lambda l: l.show_results(max_n=4),
    confusion=lambda l: interpreted(l).plot_confusion_matrix(), top_losses=lambda l: interpreted(l).plot_top_losses(4),
    most_confused=lambda l: interpreted(l).most_confused(), report=lambda l: interpreted(l).print_classification_report(),
    summary=lambda l: l.summary(), lr_find=lambda l: l.lr_find(num_it=3, show_plot=False), one_batch=lambda l: l.dls.one_batch(),
    save=lambda l: (l.save('saved'), l.load('saved')), export=exported, log=logged,
    items=lambda l: (l.dls.train_ds[0], l.dls.valid_ds.items[:2]),
    one_cycle=lambda l: (l.fit_one_cycle(1), l.recorder.plot_sched(), l.recorder.plot_loss()), fine_tune=lambda l: l.fine_tune(1),
    flat_cos=lambda l: l.fit_flat_cos(1), freeze=lambda l: (l.freeze(), l.freeze_to(-1), l.unfreeze()),
    graph=lambda l: l.fit(1, cbs=ShowGraphCallback()),
    tracker=lambda l: l.fit(1, cbs=[EarlyStoppingCallback(), SaveModelCallback(fname="best")]), fp32=lambda l: l.to_fp32(),
    cpu=lambda l: l.dls.cpu(),
    no_bar=lambda l: [l.fit(1) for _ in [0] if l.no_bar])


@pytest.mark.parametrize('call', CALLS)
@pytest.mark.parametrize('kind', KINDS)
def test_call(learners, kind, call):
    with contextlib.redirect_stdout(io.StringIO()): CALLS[call](learners(kind))
    plt.close('all')


@pytest.mark.parametrize('kind', KINDS)
def test_predict_takes_an_image_in_any_form(learners, df, x, kind):
    learn = learners(kind)
    label, index, probs = learn.predict(x['path'])
    assert label in learn.dls.vocab and probs.argmax() == index and abs(probs.sum() - 1) < 1e-4
    for name, image in x.items():
        torch.testing.assert_close(learn.predict(image)[2], probs, atol=1e-4, rtol=0, msg=name)
    rows = df.head(5)
    for images in ([*rows.path], [x['image']] * 5, [x['array']] * 5, rows):
        if kind == 'plain' and images is rows: continue # as fastai's path is a prefix of absolute paths
        preds, _ = learn.get_preds(dl=learn.dls.test_dl(images))
        torch.testing.assert_close(preds[0], probs, atol=1e-4, rtol=0)


def test_logging_can_be_switched_off(learners, capsys):
    learn = learners('cached')
    capsys.readouterr()
    learn.fit(1)
    assert capsys.readouterr().out.startswith('epoch 1/1')
    with learn.no_logging(): learn.fit(1)
    assert capsys.readouterr().out == ''
    lines = []
    learn.logger, old = lines.append, learn.logger
    learn.fit(1)
    learn.logger = old
    assert len(lines) == 1 and lines[0][0] == 0
