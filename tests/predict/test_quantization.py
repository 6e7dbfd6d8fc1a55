"`har_export --quantize` as a command, with an included model and drawings"
import numpy as np
import pytest

from har_fastai.cli import har_export, har_predict
from har_fastai.drawing.dataset import DRAWN_ACTIONS, draw_action
from har_fastai.predict.onnx import OnnxPredictor
from har_fastai.predict.predictor import Predictor


@pytest.fixture(scope='module')
def drawings(tmp_path_factory):
    "A folder of 40 drawings, and a file that is no image"
    folder, rng = tmp_path_factory.mktemp('drawings'), np.random.default_rng(0)
    for i, label in zip(range(40), list(DRAWN_ACTIONS) * 3): draw_action(label, rng, 160).save(folder/f'{i:02d}-{label}.jpg')
    (folder/'broken.jpg').write_bytes(b'no image')
    return folder


def test_a_quantised_file_is_used_like_any_other(drawings, tmp_path, capsys):
    file, table = tmp_path/'int8.onnx', tmp_path/'p.csv'
    har_export(f'baseline --format onnx --out {file} --quantize {drawings}'.split())
    said = capsys.readouterr().out
    assert 'of 20 other images of DATA' in said and 'MB' in said
    har_predict(['--model', str(file), '--csv', str(table), str(drawings/'00-calling.jpg')])
    assert table.read_text().count('\n') == 2
    own, small = Predictor('baseline', half=False), OnnxPredictor(file)
    files = sorted(drawings.glob('*-*.jpg'))
    assert 0 < np.abs(own.probs(files) - small.probs(files)).mean() < 0.05
    assert file.stat().st_size < 0.4 * sum(p.nbytes for p in own.model.state_dict().values())
    assert vars(small.card)['unsure'] == own.card.unsure


@pytest.mark.parametrize('args, words', [
    ('--format pt2 --quantize .', 'use --format onnx'), ('--format onnx --quantize nowhere', 'nowhere'),
    ('--format onnx --quantize EMPTY', 'EMPTY')])
def test_mistakes_get_one_sentence(args, words, tmp_path, capsys):
    (tmp_path/'EMPTY').mkdir()
    with pytest.raises(SystemExit) as e: har_export([*args.replace('EMPTY', str(tmp_path/'EMPTY')).split(), '--out', str(tmp_path/'x')])
    text = capsys.readouterr().err + str(e.value)
    assert words in text and 'Traceback' not in text and not (tmp_path/'x').exists()


def test_too_few_images(drawings, tmp_path, capsys):
    with pytest.raises(SystemExit) as e:
        har_export(['baseline', '--format', 'onnx', '--out', str(tmp_path/'x'), '--quantize', str(drawings/'00-calling.jpg')])
    assert 'needs at least 16' in capsys.readouterr().err + str(e.value) and not (tmp_path/'x').exists()
