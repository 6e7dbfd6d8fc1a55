"The commands for people and fused models refuse what they cannot use"
import io, json, shutil, sys

import pytest

from har_fastai.predict.base import shipped_model
from har_fastai.testing import Standing
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
    (('har_train', '--data', 'DATA', '--recipe', 'pose', '--out', 'run'), 'har_download pose'),
    (('har_train', '--data', 'DATA', '--recipe', 'fusion', '--out', 'run'), 'har_download pose'),
    (('har_fuse', 'MODEL', '--data', 'DATA'), '--split grouped or tail')])
def test_what_cannot_be_used_is_one_sentence(args, words, drawn, tmp_path, no_pose_model, monkeypatch):
    image = next((drawn/'train').iterdir())
    shutil.copytree(shipped_model('baseline'), tmp_path/'model')
    names = dict(IMAGE=image, MODEL=tmp_path/'model', DATA=drawn)
    monkeypatch.chdir(tmp_path)
    done = call(*(names.get(a, a) for a in args))
    assert done.returncode == 2 and words in done.stderr and done.stderr.count('\n') == 1, done.stderr


def test_a_model_of_poses_predicts_and_explains(drawn, tmp_path, monkeypatch):
    "With a stand-in for the pose model; other commands say what the model is"
    found = Standing(.3, .7)
    for module in ('core', 'fusion.streams'): monkeypatch.setattr(f'har_fastai.{module}.PoseDetector', lambda *_: found)
    monkeypatch.setenv('HAR_FASTAI_CACHE', str(tmp_path/'cache'))
    done = call('har_train', '--data', drawn, '--recipe', 'pose', '--epochs', 2, '--copies', 'exact', '--out', tmp_path/'run')
    assert done.returncode == 0 and 'A person was found in 100%' in done.stdout, done.stderr
    assert 'Exact duplicates were kept' in (tmp_path/'run'/'report.html').read_text()
    photo = next((drawn/'train').iterdir())
    done = call('har_predict', photo, '--model', tmp_path/'run', '--top', 3)
    assert done.returncode == 0 and len(done.stdout.split(': ')[-1].split(',')) == 3, done.stdout
    done = call('har_explain', photo, '--model', tmp_path/'run', '--out', tmp_path/'limbs')
    assert done.returncode == 0 and 'arm' in done.stdout and [f.suffix for f in (tmp_path/'limbs').iterdir()] == ['.png'], done.stderr
    for args in (('har_explain', photo, '--class', 'running', '--model', tmp_path/'run'), ('har_evaluate', tmp_path/'run', '--data', drawn),
                 ('har_export', tmp_path/'run', '--format', 'onnx', '--out', tmp_path/'x.onnx')):
        done = call(*args)
        assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'of poses' in done.stderr, (args, done.stderr)


def test_people_in_a_list_of_images(drawn, tmp_path, monkeypatch):
    "Every line of the list is used once, and no drawing replaces another"
    monkeypatch.setattr('har_fastai.pose.keypoints.PoseDetector', lambda *_: Standing(.3, .7))
    photos = sorted((drawn/'train').iterdir())
    names = [tmp_path/f'{n}' for n in ('1-3.jpg', '1.jpg', 'a/1.jpg', 'broken.jpg')]
    (tmp_path/'a').mkdir()
    for photo, to in zip(photos, names): shutil.copy(photo, to)
    names[-1].write_text('no image')
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO('\n'.join(map(str, names)).encode())))
    done = call('har_predict', '-', '--people', '--json', tmp_path/'p.json', '--drawings', tmp_path/'drawn', '--model', 'baseline')
    assert done.returncode == 1 and done.stderr.count('broken.jpg') == 1, done.stderr
    assert [json.loads(line)['path'] for line in (tmp_path/'p.json').read_text().splitlines()] == list(map(str, names))
    assert sorted(f.name for f in (tmp_path/'drawn').iterdir()) == ['1-2.png', '1-3.png', '1.png']


def test_images_without_people_teach_no_poses(drawn, tmp_path, monkeypatch):
    "One sentence instead of a model of numbers that are not finite"
    for module in ('core', 'fusion.streams'): monkeypatch.setattr(f'har_fastai.{module}.PoseDetector', lambda *_: Standing())
    monkeypatch.setenv('HAR_FASTAI_CACHE', str(tmp_path/'cache'))
    done = call('har_train', '--data', drawn, '--recipe', 'pose', '--epochs', 2, '--out', tmp_path/'run')
    assert done.returncode == 2 and 'nobody was found' in done.stderr and done.stderr.count('\n') == 1, done.stderr


def test_people_in_an_empty_list_of_images(monkeypatch):
    "An error, as without --people"
    monkeypatch.setattr('har_fastai.pose.keypoints.PoseDetector', lambda *_: Standing(.5))
    monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO()))
    done = call('har_predict', '-', '--people', '--model', 'baseline')
    assert done.returncode == 2 and 'there are no images' in done.stderr, done.stderr
