"Bad input that the faults (see faults/) do not cover: paths that are not a data set, damaged model cards"
import io, os, shutil, struct, subprocess, sys

import pytest

from har_fastai import cli
from har_fastai.data.tables import read_har
from har_fastai.images import find_images
from har_fastai.predict.inputs import expand, find_sources
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


def run_python(code:str, **env) -> subprocess.CompletedProcess:
    "A script in a new process with other environment variables"
    command = [sys.executable, '-W', 'ignore', '-c', code]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **env})


def test_without_docstrings():
    "PYTHONOPTIMIZE=2 removes docstrings, which the commands show as their descriptions"
    code = "from har_fastai.cli import har_predict; har_predict(['--help'])"
    assert run_python(code, PYTHONOPTIMIZE='2').returncode == 0


def test_another_default_type(trained):
    "PyTorch's default type may be float64; networks compute in float32"
    code = (f'import torch; torch.set_default_dtype(torch.float64)\nfrom har_fastai.predict.predictor import Predictor\n'
            f'from har_fastai.images import find_images\np = Predictor({str(trained.run)!r})\n'
            f'print(p.probs(find_images({str(trained.data)!r})[:3]).dtype)')
    done = run_python(code)
    assert done.stdout.strip() == 'float32', done.stderr


def test_names_that_are_hard_to_read(trained, tmp_path):
    "Brackets in the name of a folder, a backslash in that of a file, a list with a byte order mark, a name of the maximum length"
    image = find_images(trained.data)[0].read_bytes()
    for name in ('a[1]/x.jpg', 'b\\c.jpg', 'n' * 244 + '.jpg'):
        (tmp_path/name).parent.mkdir(exist_ok=True)
        (tmp_path/name).write_bytes(image)
    bracket = tmp_path/'a[1]'
    assert expand([f'{bracket}/*.jpg']) == [f'{bracket}/x.jpg'] and expand([str(tmp_path/'a[[]1]'/'*.jpg')]) == [f'{bracket}/x.jpg']
    listed = [*find_sources(['-'], io.BytesIO(b'\xef\xbb\xbf' + str(bracket/'x.jpg').encode()))]
    assert len(listed) == 1 and listed[0].image == bracket/'x.jpg'
    table = tmp_path/('t' * 244 + '.csv')
    cli.har_predict(['--model', str(trained.run), str(tmp_path/'b\\c.jpg'), str(tmp_path/('n' * 244 + '.jpg')), '--csv', str(table)])
    assert len(table.read_text().splitlines()) == 3
    for k, name in enumerate(('k1', 'k2')):
        (tmp_path/'d'/name).mkdir(parents=True)
        (tmp_path/'d'/name/f'a\\{k}.jpg').write_bytes(image)
    assert [*read_har(tmp_path/'d').filename] == ['k1/a\\0.jpg', 'k2/a\\1.jpg']
