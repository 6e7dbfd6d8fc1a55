"Exported models compute the similarity to the training images as the model does"
import numpy as np
import pytest
import torch
from PIL import Image

from har_fastai.models import create_model
from har_fastai.predict.base import UNLIKE
from har_fastai.predict.bundle import Card, save_bundle
from har_fastai.predict.export import export_onnx, export_pt2
from har_fastai.predict.onnx import OnnxPredictor
from har_fastai.predict.predictor import Predictor

VOCAB = ['running', 'sitting', 'dancing']


@pytest.fixture(params=[True, False], ids=['tta', 'plain'])
def folder(request, tmp_path):
    "A folder with a small model that knows the means of its classes; with its limit about half of the images are unlike them"
    torch.manual_seed(0)
    model = create_model('baseline', len(VOCAB)).eval()
    card = Card(vocab=VOCAB, arch='baseline', size=48, mean=[0.5] * 3, std=[0.5] * 3, resize='keep', tta=request.param)
    card.means = torch.randn(3, features(model))
    save_bundle(tmp_path/'model', model, card)
    return tmp_path/'model'


def features(model):
    "Width of the last layer's input"
    return [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1].in_features


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((60, 90), (90, 60), (64, 64), (48, 99))]


def test_onnx_gives_the_similarity_of_the_model(folder, images, tmp_path):
    own, onnx = Predictor(folder, half=False), OnnxPredictor(export_onnx(folder, tmp_path/'m.onnx'))
    expected, given = ([p.predict(img)[2].similarity for img in images] for p in (own, onnx))
    assert np.allclose(expected, given, atol=1e-4) and len(set(expected)) == len(images) and max(np.abs(expected)) < 1
    limit = float(np.median(expected))
    for p in (own, onnx): p.card.unsure = dict(similarity=limit)
    reasons = [[p.unsure(p.predict(img)[2]) for img in images] for p in (own, onnx)]
    assert reasons[0] == reasons[1] and set(reasons[0]) == {'', UNLIKE}


def test_pt2_gives_the_similarity_of_the_model(folder, images, tmp_path):
    own, module = Predictor(folder, half=False), torch.export.load(export_pt2(folder, tmp_path/'m.pt2')).module()
    for img in images:
        _, probs, similarity = module(torch.from_numpy(own.array(img)[None]))
        p = own.predict(img)[2]
        assert np.allclose(probs[0].detach(), p, atol=1e-4) and abs(similarity.item() - p.similarity) < 1e-4
