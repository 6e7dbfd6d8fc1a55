"Each fault case can fail: parts of the library are broken on purpose, and the case must fail"
import json
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import fault_images, fault_tables, fault_runs # noqa: F401 (each registers its cases)
from registry import ROWS


@contextmanager
def write_in_place(path, mode='wb'):
    with open(path, mode) as f: yield f


def any_format():
    Image.init()
    return [*Image.OPEN]


def clip_16_bits(img): return Image.fromarray(np.asarray(img).clip(0, 255).astype(np.uint8))
def clip_floats(img): return Image.fromarray(np.nan_to_num(np.asarray(img)).clip(0, 255).astype(np.uint8))
def no_pairs(df, *args): return pd.DataFrame(dict(i=[], j=[], distance=[], exact=[]), dtype=int)
def checksum_in_card(f): return json.loads((Path(f).parent/'model.json').read_text())['sha256']


def right_size(folder):
    return folder.is_dir() and (folder/'pixels.bin').stat().st_size == json.loads((folder/'pack.json').read_text())['bytes']


BROKEN = { # what is broken -> (the fault whose case must fail, module, name, replacement)
    'any format is opened':             (1, 'images', '_supported', any_format),
    'no limit on pixels':               (5, 'images', '_check_size', lambda img, max_pixels: None),
    'EXIF orientation is ignored':      (7, 'images', '_upright', lambda img: img.copy()),
    'transparent pixels show':          (9, 'images', 'to_rgb', lambda img: img.convert('RGB')),
    '16 bits are clipped':              (10, 'images', '_to_8_bit', clip_16_bits),
    'floats are clipped':               (11, 'images', '_to_8_bit', clip_floats),
    'rows are not refused (17)':        (17, 'data.tables', '_refuse', lambda df, *args, **kw: df),
    'rows are not refused (20)':        (20, 'data.tables', '_refuse', lambda df, *args, **kw: df),
    'duplicates are not found':         (21, 'data.splits', 'duplicate_pairs', no_pairs),
    'a split is not checked':           (22, 'data.splits', '_scorable', lambda df: df),
    'batch size is not reduced':            (25, 'data.loaders', '_fitting', lambda bs, n: bs),
    'a class of one image moves':       (27, 'data.splits', '_keep_in_train', lambda labels, groups, part: part),
    'weights of images are not checked': (28, 'data.loaders', 'check_weights', lambda wgts, train: np.asarray(wgts)),
    'files are written in place':       (32, 'files', 'write_atomic', write_in_place),
    'checksums are not compared':       (33, 'predict.bundle', 'sha256_file', checksum_in_card),
    'weights are unpickled':            (35, 'models', 'read_weights', lambda f: torch.load(f, weights_only=False)),
    'nothing is seeded':                (37, 'train.learner', 'set_seed', lambda *args: None),
    'only the size of a cache is compared': (40, 'data.cache', 'is_whole', right_size),
}

# the broken version lets an error of another library through, which users must not see
RAW = {'weights are unpickled': RuntimeError, 'only the size of a cache is compared': ValueError}


@pytest.mark.parametrize('what', BROKEN)
def test_the_case_fails(what, context, monkeypatch, tmp_path_factory):
    n, module, name, replacement = BROKEN[what]
    monkeypatch.setenv('HAR_FASTAI_CACHE', str(tmp_path_factory.mktemp('cache'))) # so that wrongly decoded images are not reused later
    monkeypatch.setattr(import_module(f'har_fastai.{module}'), name, replacement) # an AttributeError means that the name has changed
    noticed = False
    try: ROWS[n]['case'](context)
    except pytest.skip.Exception: raise
    except (AssertionError, pytest.fail.Exception, RAW.get(what, AssertionError)): noticed = True
    assert noticed, f'{what}, but the case of fault {n} still passes'
