"Tables, splits, augmentation and loading of the photographs in the folder HAR_DATA"
import os, shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision.transforms as T

from har_fastai.data.checks import check_har, usable
from har_fastai.data.duplicates import find_duplicates
from har_fastai.data.splits import grouped_split, tail_split
from har_fastai.data.tables import ACTIONS, read_har
from har_fastai.images import IMAGENET_MEAN, IMAGENET_STD, preprocess, open_image
from helpers import DATA, REAL, call, read_rows

pytestmark = REAL


@pytest.fixture(scope='module')
def table(): return read_har(DATA)


@pytest.fixture(scope='module')
def good(table): return usable(check_har(table))


def test_the_whole_table_is_read(table):
    rows = read_rows(Path(DATA)/'Training_set.csv')
    assert len(rows) > 1000 and [(r['filename'], r['label']) for r in rows] == list(zip(table.filename, table.label))
    assert set(table.label) == set(ACTIONS) and len(ACTIONS) == 15 and all(map(os.path.isfile, table.path))


def test_the_parent_folder_is_accepted(table): pd.testing.assert_frame_equal(read_har(Path(DATA).parent), table)


def test_every_image_can_be_used(table, good):
    assert len(good) == len(table) and (good.problem == '').all()
    assert good.width.min() > 16 and good.height.min() > 16


def test_exact_duplicates_are_found(good):
    ids, sizes = find_duplicates(good), good.groupby('sha256').size()
    assert (sizes > 1).sum() > 10, 'the data set has many duplicates'
    assert (ids.groupby(good.sha256).nunique() == 1).all()
    assert ids.nunique() <= good.sha256.nunique() < len(good)


def leaks(df, bits=20) -> int:
    "Pairs of images in two parts with the same bytes or with hashes at most `bits` apart, counted by brute force"
    hashes = np.frombuffer(bytes.fromhex(''.join(df.phash)), dtype='>u8').astype(np.uint64).reshape(len(df), -1)
    sha, part, n = df.sha256.to_numpy(str), df.part.to_numpy(str), 0
    for a, b in (('test', 'train'), ('test', 'valid'), ('valid', 'train')):
        ia, ib = np.flatnonzero(part == a), np.flatnonzero(part == b)
        n += len(set(sha[ia]) & set(sha[ib]))
        for chunk in np.array_split(ia, len(ia) // 128 + 1):
            different = (np.bitwise_count(hashes[chunk, None, k] ^ hashes[None, ib, k]).astype(int) for k in range(hashes.shape[1]))
            n += (sum(different) <= bits).sum()
    return int(n)


def test_a_plain_random_split_leaks(good):
    part = np.random.default_rng(0).choice(['train', 'valid', 'test'], len(good), p=[.8, .1, .1])
    assert leaks(good.assign(part=part)) > 5


def test_the_grouped_split_does_not_leak(good):
    df = grouped_split(good)
    assert leaks(df) == 0 and len(df) == len(good) and set(df.part) == {'train', 'valid', 'test'}
    for part, share in dict(train=.8, valid=.1, test=.1).items():
        assert abs((df.part == part).mean() - share) < .02
        counts = df.label[df.part == part].value_counts()
        assert len(counts) == 15 and counts.max() - counts.min() < .15 * counts.mean(), counts


def test_the_tail_split_does_not_leak(good):
    with pytest.warns(UserWarning, match='not used'): df = tail_split(good)
    n = round(len(df) * .2)
    assert leaks(df) == 0 and (df.part.iloc[-n:] == 'test').all() and not (df.part.iloc[:-n] == 'test').any()
    assert 0 < (df.part == 'unused').sum() < .05 * len(df) and .07 < (df.part == 'valid').mean() < .09


@pytest.fixture(scope='module')
def few(table): return table.groupby('label').head(20)


@pytest.mark.parametrize('layout', ['class folders', 'table with Windows line ends'])
def test_training_on_other_layouts(few, tmp_path, layout):
    for r in few.itertuples():
        to = tmp_path/'d'/(r.label if layout == 'class folders' else 'train')
        to.mkdir(parents=True, exist_ok=True); shutil.copy(r.path, to)
    if layout != 'class folders':
        lines = ['\ufefffilename,label', *(f'{r.filename},{r.label}' for r in few.itertuples()), '']
        (tmp_path/'d'/'Training_set.csv').write_bytes('\r\n'.join(lines).encode())
    done = call('har_train', '--data', tmp_path/'d', '--recipe', 'report', '--out', tmp_path/'run', '--size', 32, '--epochs', 1,
                '--device', 'cpu')
    assert done.returncode == 0, done.stderr
    split, history = pd.read_csv(tmp_path/'run'/'split.csv'), pd.read_csv(tmp_path/'run'/'history.csv')
    assert len(split) == 300 and set(split.label) == set(ACTIONS) and set(split.part) == {'train', 'valid', 'test'}
    assert len(history) == 1 and np.isfinite(history.to_numpy()).all()
    assert len(pd.read_csv(tmp_path/'run'/'predictions.csv')) == (split.part != 'train').sum()


def fifty(table): return [open_image(p) for p in table.path.sample(50, random_state=1)]


def test_augmentation_equals_that_of_torchvision(table):
    from fastai.vision.all import Pipeline, PILImage
    from har_fastai.data.augment import tensor_tfms, train_tfms
    ours = Pipeline(train_tfms(96) + tensor_tfms(), split_idx=0)
    theirs = T.Compose([T.RandomResizedCrop(96, scale=(.75, 1)), T.RandAugment(2, 9), T.RandomHorizontalFlip(.5), T.ToTensor(),
                        T.Normalize(IMAGENET_MEAN, IMAGENET_STD), T.RandomErasing(.25, scale=(.02, .2))])
    plain = T.Compose([T.Resize((96, 96)), T.ToTensor(), T.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    changed = 0
    for i, img in enumerate(fifty(table)):
        torch.manual_seed(i); a = ours(PILImage(img))
        torch.manual_seed(i); b = theirs(img)
        assert torch.allclose(torch.Tensor(a), b, atol=1e-5), i
        changed += not torch.allclose(b, plain(img), atol=.1)
    assert changed == 50


def test_evaluation_equals_that_of_torchvision(table):
    theirs = T.Compose([T.Resize((128, 128), antialias=True), T.ToTensor(), T.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    for img in fifty(table):
        assert np.allclose(preprocess(img, 128), theirs(img).numpy(), atol=1e-6)


@pytest.fixture(scope='module')
def loaders(good, tmp_path_factory):
    "Both kinds of loaders (cached, and one by one) of 400 of the images, at 96 px"
    from har_fastai.data.loaders import har_dls, cached_dls
    from har_fastai.data.cache import cache_images
    df = grouped_split(good.sample(400, random_state=2).reset_index(drop=True), seed=1)
    with pytest.MonkeyPatch.context() as m:
        m.setenv('HAR_FASTAI_CACHE', str(tmp_path_factory.mktemp('cache')))
        cached = cached_dls(df, cache_images(df.path, df.sha256), 96, device='cpu', num_ops=0, flip=0, erase=0)
        return df, cached, har_dls(df, 96, device='cpu', num_workers=0)


def test_both_kinds_of_loaders_evaluate_alike(loaders):
    _, fast, slow = loaders
    for (a, ya), (b, yb) in zip(fast.valid, slow.valid, strict=True):
        assert torch.equal(torch.Tensor(a), torch.Tensor(b)) and torch.equal(ya, yb)


def test_cached_crops_equal_those_of_torchvision(loaders):
    from har_fastai.data.batch_augment import random_crops
    df, fast, _ = loaders
    fast.train.get_idxs = lambda: list(range(64))
    torch.manual_seed(3); x = torch.cat([x for x, _ in fast.train])
    torch.manual_seed(3); torch.empty((), dtype=torch.int64).random_()
    boxes = random_crops(fast.train.height[:64], fast.train.width[:64])
    for path, (l, t, r, b), got in zip(df.path[df.part == 'train'], boxes.tolist(), x, strict=False):
        want = T.functional.to_tensor(T.functional.resized_crop(open_image(path), t, l, b - t, r - l, [96, 96]))
        want = T.functional.normalize(want, IMAGENET_MEAN, IMAGENET_STD)
        assert (got - want).abs().max() < 1.01 / 255 / min(IMAGENET_STD), path


@pytest.mark.parametrize('mode', ['nearest', 'bilinear'])
def test_batch_operations_equal_those_of_torchvision(table, mode):
    from har_fastai.data.batch_augment import OPS, op_levels, rand_augment
    from torchvision.transforms.autoaugment import _apply_op
    from torchvision.transforms.functional import pil_to_tensor, resize
    images = [resize(img, [128, 128]) for img in fifty(table)[:24]]
    x, still = torch.stack([pil_to_tensor(p) for p in images]), torch.zeros(24, dtype=torch.bool)
    for i, name in enumerate(OPS):
        for v in {s * op_levels(9, 128, 128)[i].item() for s in ((1, -1) if 0 < i < 10 else (1,))}:
            ops, levels = torch.tensor([[i], [0]]).repeat(1, 24), torch.tensor([[v], [0.]]).repeat(1, 24)
            theirs = torch.stack([pil_to_tensor(_apply_op(p, name, v, T.InterpolationMode(mode), None)) for p in images])
            worst = (rand_augment(x, ops, levels, still, mode).int() - theirs.int()).abs().float().mean((1, 2, 3)).max().item()
            assert worst <= 2, (name, v, worst)
            assert i == 0 or not torch.equal(theirs, x), name
