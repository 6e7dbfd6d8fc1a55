"What no row of the 40 faults says (see faults/): data sets that are none, cards that are damaged"
import struct

import pytest

from har_fastai import cli
from helpers import dataset, image


@pytest.fixture(params=['check', 'train', 'evaluate'])
def read_by(request, tmp_path, refuse):
    "Let one of the commands refuse a data set"
    def check(data, says):
        argv = {'check': lambda: (cli.har_check, data), 'train': lambda: (cli.har_train, '--data', data, '--out', tmp_path/'run', '--device', 'cpu'),
                'evaluate': lambda: (cli.har_evaluate, request.getfixturevalue('trained').run, '--data', data)}[request.param]()
        code, told = refuse(*argv)
        assert code == 2 and not [s for s in says if s not in told], told
        assert not (tmp_path/'run'/'recipe.json').exists()
    return check


@pytest.mark.parametrize('what, says', [('nowhere', 'does not exist'), ('file.txt', 'CSV'), ('empty', 'no table')])
def test_no_data_set(tmp_path, what, says, read_by):
    (tmp_path/'file.txt').write_text('x'); (tmp_path/'empty').mkdir()
    read_by(tmp_path/what, [what, says])


def test_a_data_set_of_broken_images_only(tmp_path, refuse):
    data = dataset(tmp_path/'d', n=8)
    for f in (data/'train').iterdir(): f.write_bytes(b'')
    code, told = refuse(cli.har_train, '--data', data, '--out', tmp_path/'run', '--device', 'cpu')
    assert code == 2 and 'Image_0.png' in told and '0 can be used' in told


@pytest.fixture
def copied(trained, tmp_path):
    "A copy of the model of a run"
    for f in ('model.json', 'model.safetensors'): (tmp_path/'model'/f).parent.mkdir(exist_ok=True); (tmp_path/'model'/f).write_bytes((trained.run/f).read_bytes())
    return tmp_path/'model'


def told_by_predict(refuse, model, tmp_path):
    image(0).save(tmp_path/'p.png')
    code, told = refuse(cli.har_predict, tmp_path/'p.png', '--model', model)
    assert code == 2
    return told


@pytest.mark.parametrize('content', [b'', b'{', b'[]', b'{"format": 1}', b'{"format": 99}', struct.pack('8d', *range(8))], ids=['empty', 'cut short', 'list', 'no fields', 'newer', 'binary'])
def test_a_damaged_card(copied, tmp_path, refuse, content):
    (copied/'model.json').write_bytes(content)
    assert 'model.json' in told_by_predict(refuse, copied, tmp_path)
