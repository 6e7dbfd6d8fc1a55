"Files from strangers: nothing in them is executed, and nothing leaves its folder (pickles are fault 35, tables faults 17 and 18, see faults/)"
import csv, json, os, shutil, subprocess, sys

import pytest
from PIL import Image

from har_fastai import cli
from har_fastai.core import load_run
from har_fastai.files import HARError
from har_fastai.images import ImageError, find_images, open_image
from helpers import dataset, image
from killing import contents

SECRET = 'the-secret-of-this-machine'


@pytest.fixture
def hostile(trained, tmp_path):
    "A copy of a run, and a secret image outside of it; gives both"
    shutil.copytree(trained.run, tmp_path/'run'); (tmp_path/'private').mkdir()
    image(77).save(tmp_path/'private'/'secret.png', pnginfo=None); (tmp_path/'private'/'secret.txt').write_text(SECRET)
    return tmp_path/'run', tmp_path/'private'


def edit(file, f):
    data = json.loads(file.read_text()); f(data); file.write_text(json.dumps(data))


def rewrite(file, column, value, **where):
    rows = list(csv.DictReader(open(file)))
    for r in [r for r in rows if where.items() <= r.items()][:3]: r[column] = value
    with open(file, 'w', newline='') as f: w = csv.DictWriter(f, rows[0]); w.writeheader(); w.writerows(rows)


def refuses(f, *args, **kw) -> str:
    with pytest.raises(HARError) as e: f(*args, **kw)
    assert len(str(e.value).splitlines()) == 1
    return str(e.value)


@pytest.mark.parametrize('arch', ['hf-hub:evil/model', 'local-dir:/etc', '../../evil', '/etc/passwd', 'resnet18.evil', '__import__("os").system("true")', 7, None, ['baseline']], ids=str)
def test_an_architecture_is_one_of_those_known(hostile, tmp_path, refuse, arch):
    run, _ = hostile; image(0).save(tmp_path/'p.png')
    edit(run/'model.json', lambda d: d.update(arch=arch))
    code, told = refuse(cli.har_predict, tmp_path/'p.png', '--model', run)
    assert code == 2 and 'unknown architecture' in told


@pytest.mark.parametrize('changes', [dict(vocab=['a']), dict(vocab='calling'), dict(size=10**9), dict(size=-1), dict(size='48'), dict(mean=['x'] * 3), dict(std=[0, 0, 0]), dict(temperature=0), dict(temperature=None), dict(resize='../x'), dict(tta='yes'), dict(path='/etc/passwd')], ids=str)
def test_a_card_that_makes_no_sense_is_refused(hostile, tmp_path, refuse, changes):
    run, _ = hostile; image(0).save(tmp_path/'p.png')
    edit(run/'model.json', lambda d: d.update(changes))
    code, told = refuse(cli.har_predict, tmp_path/'p.png', '--model', run)
    assert code == 2 and 'model.json' in told


def test_weights_stay_in_their_folder(hostile, tmp_path, refuse):
    run, private = hostile; image(0).save(tmp_path/'p.png')
    os.replace(run/'model.safetensors', private/'w.safetensors')
    edit(run/'model.json', lambda d: d.update(sha256='../private/w.safetensors'))
    code, told = refuse(cli.har_predict, tmp_path/'p.png', '--model', run)
    assert code == 2 and 'model.safetensors is missing' in told


@pytest.mark.parametrize('name', ['../../private/secret.png', '{private}/secret.png', '..\\..\\private\\secret.png'])
def test_a_split_that_names_images_outside(hostile, trained, tmp_path, name):
    run, private = hostile
    rewrite(run/'split.csv', 'filename', name.format(private=private))
    for f, args in ((load_run, (run, trained.data)),): refuses(f, *args, device='cpu')
    with pytest.raises(SystemExit) as e: cli.har_train(['--resume', '--out', str(run), '--data', str(trained.data), '--device', 'cpu'])
    assert e.value.code == 2
    assert 'secret' not in (run/'report.html').read_text()


@pytest.mark.parametrize('changes', [dict(data='/nowhere/else'), dict(recipe=[]), dict(recipe={'name': '../../x'}), dict(recipe={'arch': 'hf-hub:evil/x'}), dict(recipe={'__class__': 'x'}), dict(recipe=None)], ids=str)
def test_a_recipe_of_a_stranger(hostile, changes):
    run, private = hostile
    edit(run/'recipe.json', lambda d: d.update(changes)); before = contents(run.parent/'private')
    refuses(load_run, run, device='cpu')
    assert contents(private) == before and not list(run.parent.glob('x*'))


def test_predictions_that_name_images_outside(hostile, trained, tmp_path):
    "A comparison reads runs' predictions: it opens no image that they name"
    run, private = hostile
    rewrite(run/'predictions.csv', 'filename', f'{private}/secret.png', part='test')
    shutil.copytree(trained.run, tmp_path/'other')
    cli.har_compare([str(run), str(tmp_path/'other'), '--out', str(tmp_path/'c.html')])
    assert 'secret.png' not in (tmp_path/'c.html').read_text()


def test_a_comparison_shows_names_as_text(hostile, trained, tmp_path):
    run = hostile[0].rename(tmp_path/'<img src=x onerror=alert(1)>')
    shutil.copytree(trained.run, tmp_path/'other')
    cli.har_compare([str(run), str(tmp_path/'other'), '--out', str(tmp_path/'c.html')])
    html = (tmp_path/'c.html').read_text(); assert '<img src=x' not in html and '&lt;img src=x onerror' in html


@pytest.mark.parametrize('name, data', [('a.svg.png', b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><image href="file:///etc/passwd"/></svg>'), ('a.jpg', b'<!doctype html><script>alert(1)</script>'),
                                        ('xxe.png', b'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>'), ('zip.jpg', b'PK\3\4' + bytes(60)),
                                        ('pickle.jpg', b'cos\nsystem\n(S"true"\ntR.'), ('elf.png', b'\x7fELF' + bytes(60)), ('wmf.bmp', b'\xd7\xcd\xc6\x9a' + bytes(60)), ('pdf.jpg', b'%PDF-1.4\n' + bytes(60))])
def test_what_poses_as_a_image(tmp_path, name, data):
    (tmp_path/name).write_bytes(data)
    assert 'not an image' in refuses(open_image, tmp_path/name)


def test_an_eps_runs_no_interpreter(tmp_path):
    "Pillow would hand it to Ghostscript; here a stand-in for that shows whether it was called"
    gs = tmp_path/'bin'/'gs'; gs.parent.mkdir(); gs.write_text(f'#!/bin/sh\ntouch {tmp_path}/ran\necho 10.0\n'); gs.chmod(0o755)
    Image.new('RGB', (9, 9)).save(tmp_path/'a.jpg', 'EPS')
    env = {**os.environ, 'PATH': f'{gs.parent}:{os.environ["PATH"]}'}
    def call(code): subprocess.run([sys.executable, '-c', code], env=env, capture_output=True); return (tmp_path/'ran').exists()
    ours = f'from har_fastai.files import open_image; open_image({str(tmp_path/"a.jpg")!r})'
    assert not call(ours)
    assert call(f'from PIL import Image; Image.open({str(tmp_path/"a.jpg")!r}).load()'), 'the stand-in would not have been noticed'


def test_har_predict_stays_in_the_folder_that_it_was_given(tmp_path):
    (tmp_path/'given').mkdir(); image(1).save(tmp_path/'given'/'a.png'); image(2).save(tmp_path/'secret.png')
    (tmp_path/'elsewhere').mkdir(); image(3).save(tmp_path/'elsewhere'/'b.png'); (tmp_path/'given'/'folder').symlink_to(tmp_path/'elsewhere')
    (tmp_path/'given'/'loop').symlink_to(tmp_path/'given')
    assert [f.name for f in find_images(tmp_path/'given')] == ['a.png']
    shutil.make_archive(str(tmp_path/'given'/'archive'), 'zip', tmp_path/'elsewhere') # archives are not looked into, so nothing can slip out of one
    assert [f.name for f in find_images(tmp_path/'given')] == ['a.png'] and not list((tmp_path/'given').rglob('b.png'))
    with pytest.raises(ImageError): open_image(find_images(tmp_path/'given'/'archive.zip')[0])


def test_names_in_a_report_are_text(trained, tmp_path):
    data = dataset(tmp_path/'d', n=24, labels=('running', '<script>alert(1)</script>', 'a&b"c'))
    cli.har_train([*map(str, ('--data', data, '--recipe', 'demo', '--size', 32, '--bs', 8, '--epochs', 1, '--device', 'cpu', '--workers', 0, '--faithful', 0, '--out', tmp_path/'run'))])
    assert '<script>alert' not in (tmp_path/'run'/'report.html').read_text()
