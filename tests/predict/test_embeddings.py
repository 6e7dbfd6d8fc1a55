"The features of images: the command resumes after an interrupt, and a neighbour is found through archives and tables"
import os, shutil, subprocess, sys, time

import numpy as np
import pandas as pd
import pytest

from har_fastai.cli_embed import har_embed
from har_fastai.predict.embeddings import Embedding, read_embeddings, write_embeddings
from har_fastai.testing import tiny_har
from helpers import call

MODEL = '--model', 'efficientnet_lite0'


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('HAR_FASTAI_CACHE', str(tmp_path/'cache'))
    return tmp_path/'cache'


@pytest.mark.slow('runs of a process')
def test_a_killed_call_leaves_no_table_and_an_interrupted_one_is_continued(tmp_path, cache):
    for i, f in enumerate(sorted((tiny_har(60)/'train').iterdir()) * 24): # 1,440 different files: work for more than two seconds
        (tmp_path/f'photos/{i}.jpg').parent.mkdir(exist_ok=True)
        (tmp_path/f'photos/{i}.jpg').write_bytes(f.read_bytes() + bytes([i % 256, i // 256]))
    code = 'from har_fastai.cli_embed import har_embed; har_embed()'
    job = subprocess.Popen([sys.executable, '-c', code, 'photos', '--out', 'f.npz', *MODEL], cwd=tmp_path, stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while not list(tmp_path.glob('.f.npz.*.part')) and time.monotonic() < end: time.sleep(.05)
    time.sleep(1.5)
    job.send_signal(2)
    assert job.wait(60) == 130 and not (tmp_path/'f.npz').exists() and not list(tmp_path.glob('.f*'))
    assert list((cache/'features').glob('*.safetensors')), 'what was computed is kept'
    done = call('har_embed', tmp_path/'photos', '--out', tmp_path/'f.npz', *MODEL)
    assert done.returncode == 0 and read_embeddings(tmp_path/'f.npz').features.shape == (1440, 1280)


def test_the_features_of_an_archive_are_those_of_its_files(tmp_path, cache):
    shutil.make_archive(tmp_path/'photos', 'zip', tiny_har(60)/'test')
    for source, out in ((tiny_har(60)/'test', 'a.parquet'), (tmp_path/'photos.zip', 'b.csv')):
        assert call('har_embed', source, '--out', tmp_path/out, *MODEL).returncode == 0
    a, b = read_embeddings(tmp_path/'a.parquet'), pd.read_csv(tmp_path/'b.csv')
    by_name = {os.path.basename(p): x for p, x in zip(a.paths, a.features)}
    x = np.stack([by_name[os.path.basename(p)] for p in b.path])
    assert np.allclose(b.iloc[:, 2:], x, atol=.1 * x.std()) and b.sha256.isna().all()


def test_the_image_itself_is_no_neighbour(tmp_path, cache):
    photo = tiny_har(60)/'test/Image_1.jpg'
    done = call('har_embed', photo.parent, '--nearest', photo, '--k', 3, *MODEL)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 3 and str(photo) not in done.stdout
    shutil.copy(photo, tmp_path/'copy.jpg')
    done = call('har_embed', photo.parent, tmp_path/'copy.jpg', '--nearest', photo, '--k', 3, *MODEL)
    assert 'copy.jpg' not in done.stdout, 'a file with the same bytes is the image itself'


def test_copies_of_the_image_do_not_take_the_places_of_its_neighbours(tmp_path, cache, refuse):
    photo, model = tiny_har(60)/'test/Image_1.jpg', ('--model', 'baseline')
    for i in range(4): shutil.copy(photo, tmp_path/f'copy{i}.jpg')
    done = call('har_embed', photo.parent, tmp_path, '--nearest', photo, '--k', 3, *model)
    assert len(done.stdout.splitlines()) == 3 and 'copy' not in done.stdout
    code, message = refuse(har_embed, tmp_path, '--nearest', photo, '--figure', tmp_path/'f.png', *model)
    assert code == 2 and 'no other images' in message


@pytest.mark.parametrize('damage', [lambda d: d[:400], lambda d: d[:500] + bytes(40) + d[540:]], ids=['cut short', 'changed'])
def test_a_damaged_table_is_one_sentence(tmp_path, refuse, damage):
    table = [Embedding(str(i), np.random.default_rng(i).random(9, np.float32), '0' * 64) for i in range(99)]
    list(write_embeddings(table, tmp_path/'f.npz', dict(arch='x', fingerprint='')))
    (tmp_path/'f.npz').write_bytes(damage((tmp_path/'f.npz').read_bytes()))
    code, message = refuse(har_embed, tmp_path/'f.npz', '--nearest', 'a.jpg')
    assert code == 2 and 'is not a table of features' in message
