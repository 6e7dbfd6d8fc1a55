"Bad input that the faults (see faults/) do not cover: paths that are not a data set, damaged model cards"
import shutil, struct

import pytest

from har_fastai import cli
from helpers import dataset, image


@pytest.fixture(params=['check', 'train', 'evaluate'])
def refused_by(request, tmp_path, refuse):
    "Pass a data set to one of the commands, which must reject it"
    def check(data, words):
        command, *argv = {
            'check': lambda: (cli.har_check, data),
            'train': lambda: (cli.har_train, '--data', data, '--out', tmp_path/'run', '--device', 'cpu'),
            'evaluate': lambda: (cli.har_evaluate, request.getfixturevalue('trained').run, '--data', data)}[request.param]()
        code, message = refuse(command, *argv)
        assert code == 2 and not [w for w in words if w not in message], message
        assert not (tmp_path/'run'/'recipe.json').exists()
    return check


@pytest.mark.parametrize('name, words', [('nowhere', 'does not exist'), ('file.txt', 'CSV'), ('empty', 'no table')])
def test_no_data_set(tmp_path, name, words, refused_by):
    (tmp_path/'file.txt').write_text('x'); (tmp_path/'empty').mkdir()
    refused_by(tmp_path/name, [name, words])


def test_a_data_set_of_broken_images_only(tmp_path, refuse):
    data = dataset(tmp_path/'d', n=8)
    for f in (data/'train').iterdir(): f.write_bytes(b'')
    code, message = refuse(cli.har_train, '--data', data, '--out', tmp_path/'run', '--device', 'cpu')
    assert code == 2 and 'Image_0.png' in message and '0 can be used' in message


CARDS = {'empty': b'', 'cut short': b'{', 'list': b'[]', 'no fields': b'{"format": 1}', 'newer': b'{"format": 99}',
         'binary': struct.pack('8d', *range(8))}


@pytest.mark.parametrize('kind', CARDS)
def test_a_damaged_model_card(trained, tmp_path, refuse, kind):
    (tmp_path/'model').mkdir(); shutil.copy(trained.run/'model.safetensors', tmp_path/'model')
    (tmp_path/'model'/'model.json').write_bytes(CARDS[kind])
    image(0).save(tmp_path/'p.png')
    code, message = refuse(cli.har_predict, tmp_path/'p.png', '--model', tmp_path/'model')
    assert code == 2 and 'model.json' in message
