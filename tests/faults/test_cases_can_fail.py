"A case that passes because nothing was checked is a defect: here parts of the library are broken on purpose, and the cases must notice"
import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import har_fastai.data.splits, har_fastai.files, har_fastai.predict.predictor, har_fastai.data.loaders, har_fastai.models, har_fastai.data.cache, har_fastai.data.tables, har_fastai.train.learner
import fault_images, fault_tables, fault_runs # each registers its rows
from rows import ROWS

H = har_fastai


@contextmanager
def straight(path, mode='wb'):
    "Write a file where it stands"
    with open(path, mode) as f: yield f


def sizes(folder): return folder.is_dir() and (folder/'pixels.bin').stat().st_size == json.loads((folder/'pack.json').read_text())['bytes']


BROKEN = { # what is broken -> (the fault whose case must notice, where, the name, what takes its place)
    'any format is opened':            (1, H.files, '_known', lambda: (Image.init(), [*Image.OPEN])[1]),
    'no cap on pixels':                (5, H.files, '_check_size', lambda img, most: None),
    'EXIF is ignored':                 (7, H.files, '_upright', lambda img: img.copy()),
    'hidden colours show':             (9, H.files, 'to_rgb', lambda img: img.convert('RGB')),
    '16 bits are clipped':             (10, H.files, '_stretch', lambda img: Image.fromarray(np.asarray(img).clip(0, 255).astype(np.uint8))),
    'floats are clipped':              (11, H.files, '_stretch', lambda img: Image.fromarray(np.nan_to_num(np.asarray(img)).clip(0, 255).astype(np.uint8))),
    'rows are not refused (17)':       (17, H.tables, '_refuse', lambda df, *args, **kw: df),
    'rows are not refused (20)':       (20, H.tables, '_refuse', lambda df, *args, **kw: df),
    'copies are not found':            (21, H.data, 'duplicate_pairs', lambda df, *args: pd.DataFrame(dict(i=[], j=[], distance=[], exact=[]), dtype=int)),
    'a split is not checked':          (22, H.data, '_scorable', lambda df: df),
    'batches do not shrink':           (25, H.loaders, '_fitting', lambda bs, n: bs),
    'a lonely class goes anywhere':    (27, H.data, '_keep_in_train', lambda labels, groups, part: part),
    'weights are not checked':         (28, H.loaders, 'check_weights', lambda wgts, train: np.asarray(wgts)),
    'files are written where they are': (32, H.files, 'write_atomic', straight),
    'checksums are not compared':      (33, H.inference, 'sha256_file', lambda f: json.loads((Path(f).parent/'model.json').read_text())['sha256']),
    'weights are unpickled':           (35, H.models, 'read_weights', lambda f: torch.load(f, weights_only=False)),
    'nothing is seeded':               (37, H.training, 'set_seed', lambda *args: None),
    'only sizes of packs are compared': (40, H.pack, 'is_whole', sizes),
}


RAW = {'weights are unpickled': RuntimeError, 'only sizes of packs are compared': ValueError} # where a broken copy lets a library's own error through, which no user should see


@pytest.mark.parametrize('what', BROKEN)
def test_the_case_notices(what, bench, monkeypatch, tmp_path_factory):
    n, module, name, instead = BROKEN[what]
    assert hasattr(module, name)
    monkeypatch.setenv('HAR_FASTAI_CACHE', str(tmp_path_factory.mktemp('cache'))) # what is decoded wrongly must not be found again
    monkeypatch.setattr(module, name, instead)
    noticed = False
    try: ROWS[n]['case'](bench)
    except pytest.skip.Exception: raise
    except (AssertionError, pytest.fail.Exception, RAW.get(what, AssertionError)): noticed = True
    assert noticed, f'{what}, and fault {n} passes all the same'
