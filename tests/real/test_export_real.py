"Exported models give the same predictions for photographs as the predictor"
import numpy as np
import pytest
import torch

from har_fastai.predict.export import export_onnx, export_pt2
from har_fastai.images import find_images
from har_fastai.predict.base import shipped_model
from har_fastai.predict.predictor import Predictor
from har_fastai.predict.onnx import OnnxPredictor
from helpers import DATA, REAL, random_run

pytestmark = REAL


@pytest.fixture(scope='module')
def images(): return find_images(DATA)[::100][:60]


@pytest.mark.parametrize('what', ['random', 'shipped'])
def test_parity(what, images, tmp_path):
    if what == 'shipped' and not (shipped_model()/'model.json').is_file(): pytest.skip('the package has no model')
    run = None if what == 'shipped' else random_run(tmp_path/'run', images[:16], size=128, temperature=.8, tta=True)
    predictor = Predictor(run, half=False)
    want = predictor.probs(images)
    assert want.std(0).max() > .03 and len(set(want.argmax(1))) > 1, 'all images have the same prediction, so the comparison proves little'
    exported = OnnxPredictor(export_onnx(run, tmp_path/'m.onnx'))
    got = exported.probs(images)
    assert np.abs(got - want).max() < 1e-4 and (got.argmax(1) == want.argmax(1)).all()
    x = [predictor.array(f) for f in images]
    assert all(np.array_equal(a, exported.array(f)) for a, f in zip(x, images)), 'the preprocessing must be the same'
    assert len({a.shape for a in x}) > 5 or predictor.card.resize == 'squash', 'the photographs have too few shapes'
    z = predictor.logits(x).numpy()
    assert np.abs(exported.logits(x) - z).max() < 1e-4 * max(1, np.abs(z).max())
    module = torch.export.load(export_pt2(run, tmp_path/'m.pt2')).module()
    with torch.no_grad(): got = np.concatenate([module(torch.from_numpy(a[None]))[1].numpy() for a in x])
    assert np.abs(got - want).max() < 1e-4
