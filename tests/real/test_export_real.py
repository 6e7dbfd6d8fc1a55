"Exported models answer to real pictures as the predictor does"
import os

import numpy as np
import pytest
import torch

from har_fastai.export import export_onnx, export_pt2
from har_fastai.files import find_pictures
from har_fastai.inference import Predictor, shipped
from har_fastai.portable import OnnxPredictor
from helpers import random_run

DATA = os.environ.get('HAR_DATA')
pytestmark = pytest.mark.skipif(not DATA, reason='HAR_DATA does not name the folder of the real pictures')


@pytest.fixture(scope='module')
def pictures(): return find_pictures(DATA)[::100][:60]


@pytest.mark.parametrize('what', ['random', 'shipped'])
def test_parity(what, pictures, tmp_path):
    if what == 'shipped' and not (shipped()/'model.json').is_file(): pytest.skip('no model comes with the package')
    run = None if what == 'shipped' else random_run(tmp_path/'run', pictures[:16], size=128, temperature=.8, tta=True)
    torch_one = Predictor(run, half=False)
    want = torch_one.probs(pictures)
    assert want.std(0).max() > .03 and len(set(want.argmax(1))) > 1, 'all pictures have the same answer: the comparison would prove little'
    onnx_one = OnnxPredictor(export_onnx(run, tmp_path/'m.onnx'))
    got = onnx_one.probs(pictures)
    assert np.abs(got - want).max() < 1e-4 and (got.argmax(1) == want.argmax(1)).all()
    x = [torch_one.array(f) for f in pictures]
    assert all(np.array_equal(a, onnx_one.array(f)) for a, f in zip(x, pictures)), 'the pictures are prepared alike'
    assert len({a.shape for a in x}) > 5 or torch_one.card.resize == 'squash', 'photographs have many shapes'
    assert np.abs(onnx_one.logits(x) - torch_one.logits(x).numpy()).max() < 1e-4 * max(1, np.abs(torch_one.logits(x).numpy()).max())
    module = torch.export.load(export_pt2(run, tmp_path/'m.pt2')).module()
    with torch.no_grad(): got = np.concatenate([module(torch.from_numpy(a[None]))[1].numpy() for a in x])
    assert np.abs(got - want).max() < 1e-4
