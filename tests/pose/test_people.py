"The commands for people and fused models refuse what they cannot use"
import shutil

import pytest

from har_fastai.predict.base import shipped_model
from helpers import call


@pytest.fixture
def no_pose_model(monkeypatch, tmp_path):
    monkeypatch.delenv('HAR_POSE_MODEL', raising=False)
    monkeypatch.setenv('HAR_FASTAI_CACHE', str(tmp_path/'cache'))


@pytest.mark.parametrize('args,words', [
    (('har_predict', 'IMAGE', '--people'), 'har_download pose'),
    (('har_predict', 'IMAGE', '--people', '--pose-model', 'missing.task'), 'missing.task'),
    (('har_predict', 'IMAGE', '--fusion'), 'has no fused model'),
    (('har_predict', 'IMAGE', '--people', '--csv', 'a.csv'), 'leave out --csv'),
    (('har_predict', 'IMAGE', '--drawings', 'out'), '--drawings is for --people'),
    (('har_fuse', 'MODEL', '--data', 'DATA'), '--split grouped or tail')])
def test_what_cannot_be_used_is_one_sentence(args, words, drawn, tmp_path, no_pose_model, monkeypatch):
    image = next((drawn/'train').iterdir())
    shutil.copytree(shipped_model('baseline'), tmp_path/'model')
    names = dict(IMAGE=image, MODEL=tmp_path/'model', DATA=drawn)
    monkeypatch.chdir(tmp_path)
    done = call(*(names.get(a, a) for a in args))
    assert done.returncode == 2 and words in done.stderr and done.stderr.count('\n') == 1, done.stderr
