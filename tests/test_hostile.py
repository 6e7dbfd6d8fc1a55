"Hostile files: nothing in them is executed, and no path leads out of their folder (for pickles see fault 35, for tables faults 17 and 18)"
import csv, json, os, shutil, subprocess, sys

import pytest
from PIL import Image

from har_fastai import cli
from har_fastai.core import load_run
from har_fastai.files import HARError
from har_fastai.images import ImageError, find_images, open_image
from helpers import call, contents, dataset, image, read_rows


@pytest.fixture
def hostile(trained, tmp_path):
    "A copy of a run, and a folder outside of it with a secret image"
    shutil.copytree(trained.run, tmp_path/'run'); (tmp_path/'private').mkdir()
    image(77).save(tmp_path/'private'/'secret.png'); (tmp_path/'private'/'secret.txt').write_text('the-secret-of-this-machine')
    return tmp_path/'run', tmp_path/'private'


def edit(file, change):
    "Change a JSON file"
    data = json.loads(file.read_text()); change(data)
    file.write_text(json.dumps(data))


def rewrite(file, column, value, **where):
    "Change a column of the first three rows of a table that match"
    rows = read_rows(file)
    for r in [r for r in rows if where.items() <= r.items()][:3]: r[column] = value
    with open(file, 'w', newline='') as f:
        w = csv.DictWriter(f, rows[0]); w.writeheader(); w.writerows(rows)


def refusal(f, *args, **kw) -> str:
    "The one-sentence error that a function must raise for its input"
    with pytest.raises(HARError) as e: f(*args, **kw)
    assert len(str(e.value).splitlines()) == 1
    return str(e.value)


# ---- model cards ----

@pytest.mark.parametrize('arch', ['hf-hub:evil/model', 'local-dir:/etc', '../../evil', '/etc/passwd', 'resnet18.evil',
                                  '__import__("os").system("true")', 7, None, ['baseline']], ids=str)
def test_only_known_architectures_are_built(hostile, tmp_path, refuse, arch):
    run, _ = hostile; image(0).save(tmp_path/'p.png')
    edit(run/'model.json', lambda d: d.update(arch=arch))
    code, message = refuse(cli.har_predict, tmp_path/'p.png', '--model', run)
    assert code == 2 and 'unknown architecture' in message


@pytest.mark.parametrize('changes', [
    dict(vocab=['a']), dict(vocab='calling'), dict(size=10**9), dict(size=-1), dict(size='48'), dict(mean=['x'] * 3), dict(std=[0, 0, 0]),
    dict(temperature=0), dict(temperature=None), dict(resize='../x'), dict(tta='yes'), dict(path='/etc/passwd'),
    dict(mean=[float('nan')] * 3), dict(temperature=1e-320), dict(temperature=10**400), dict(unsure='x'), dict(metrics=['test'])],
    ids=lambda d: str(d)[:40])
def test_an_invalid_card_is_refused(hostile, tmp_path, refuse, changes):
    run, _ = hostile; image(0).save(tmp_path/'p.png')
    edit(run/'model.json', lambda d: d.update(changes))
    code, message = refuse(cli.har_predict, tmp_path/'p.png', '--model', run)
    assert code == 2 and 'model.json' in message


def test_a_class_name_does_not_control_the_terminal(hostile, tmp_path):
    run, _ = hostile; image(0).save(tmp_path/'p.png')
    edit(run/'model.json', lambda d: d.update(vocab=[f'\x1b[2J{v}\n' for v in d['vocab']]))
    done = call('har_predict', tmp_path/'p.png', '--model', run, '--json', tmp_path/'p.json')
    assert done.returncode == 0 and '\x1b' not in done.stdout and done.stdout.count('\n') == 2, done.stdout
    assert '\\u001b[2J' in (tmp_path/'p.json').read_text()


def test_weights_stay_in_their_folder(hostile, tmp_path, refuse):
    run, private = hostile; image(0).save(tmp_path/'p.png')
    os.replace(run/'model.safetensors', private/'w.safetensors')
    edit(run/'model.json', lambda d: d.update(sha256='../private/w.safetensors'))
    code, message = refuse(cli.har_predict, tmp_path/'p.png', '--model', run)
    assert code == 2 and 'model.safetensors is missing' in message


# ---- run folders ----

@pytest.mark.parametrize('name', ['../../private/secret.png', '{private}/secret.png', '..\\..\\private\\secret.png'])
def test_a_split_that_names_images_outside(hostile, trained, name):
    run, private = hostile
    rewrite(run/'split.csv', 'filename', name.format(private=private))
    refusal(load_run, run, trained.data, device='cpu')
    assert call('har_train', '--resume', '--out', run, '--data', trained.data, '--device', 'cpu').returncode == 2
    assert 'secret' not in (run/'report.html').read_text()


RECIPES = [dict(data='/nowhere/else'), dict(recipe=[]), dict(recipe={'name': '../../x'}), dict(recipe={'arch': 'hf-hub:evil/x'}),
           dict(recipe={'__class__': 'x'}), dict(recipe=None)]


@pytest.mark.parametrize('changes', RECIPES, ids=str)
def test_a_hostile_recipe(hostile, changes):
    run, private = hostile; before = contents(private)
    edit(run/'recipe.json', lambda d: d.update(changes))
    refusal(load_run, run, device='cpu')
    assert contents(private) == before and not list(run.parent.glob('x*'))


def test_predictions_that_name_images_outside(hostile, trained, tmp_path):
    "A comparison reads the predictions of runs; it opens no image that they name"
    run, private = hostile
    rewrite(run/'predictions.csv', 'filename', f'{private}/secret.png', part='test')
    shutil.copytree(trained.run, tmp_path/'other')
    call('har_compare', run, tmp_path/'other', '--out', tmp_path/'c.html')
    assert 'secret.png' not in (tmp_path/'c.html').read_text()


def test_a_comparison_shows_names_as_text(hostile, trained, tmp_path):
    run = hostile[0].rename(tmp_path/'<img src=x onerror=alert(1)>')
    shutil.copytree(trained.run, tmp_path/'other')
    call('har_compare', run, tmp_path/'other', '--out', tmp_path/'c.html')
    html = (tmp_path/'c.html').read_text()
    assert '<img src=x' not in html and '&lt;img src=x onerror' in html


def test_a_report_shows_names_as_text(tmp_path):
    data = dataset(tmp_path/'d', n=24, labels=('running', '<script>alert(1)</script>', 'a&b"c'))
    options = ('--recipe', 'demo', '--size', 32, '--bs', 8, '--epochs', 1, '--device', 'cpu', '--workers', 0, '--faithfulness', 0)
    call('har_train', '--data', data, '--out', tmp_path/'run', *options)
    assert '<script>alert' not in (tmp_path/'run'/'report.html').read_text()


# ---- images ----

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><image href="file:///etc/passwd"/></svg>'
NO_IMAGES = {'a.svg.png': SVG, 'a.jpg': b'<!doctype html><script>alert(1)</script>',
             'xxe.png': b'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
             'zip.jpg': b'PK\3\4' + bytes(60), 'pickle.jpg': b'cos\nsystem\n(S"true"\ntR.', 'elf.png': b'\x7fELF' + bytes(60),
             'wmf.bmp': b'\xd7\xcd\xc6\x9a' + bytes(60), 'pdf.jpg': b'%PDF-1.4\n' + bytes(60)}


@pytest.mark.parametrize('name', NO_IMAGES)
def test_other_files_with_the_name_of_an_image(tmp_path, name):
    (tmp_path/name).write_bytes(NO_IMAGES[name])
    assert 'not an image' in refusal(open_image, tmp_path/name)


def test_an_eps_file_runs_no_interpreter(tmp_path):
    "Pillow would pass it to Ghostscript; a script of that name records whether it was called"
    gs = tmp_path/'bin'/'gs'; gs.parent.mkdir(); gs.write_text(f'#!/bin/sh\ntouch {tmp_path}/ran\necho 10.0\n'); gs.chmod(0o755)
    Image.new('RGB', (9, 9)).save(tmp_path/'a.jpg', 'EPS')
    env = {**os.environ, 'PATH': f'{gs.parent}:{os.environ["PATH"]}'}
    def python(code):
        subprocess.run([sys.executable, '-c', code], env=env, capture_output=True)
        return (tmp_path/'ran').exists()
    opened = python(f'from har_fastai.images import open_image, ImageError\ntry: open_image({str(tmp_path/"a.jpg")!r})\n'
                    f'except ImageError: open({str(tmp_path/"refused")!r}, "w")')
    assert not opened and (tmp_path/'refused').exists()
    assert python(f'from PIL import Image; Image.open({str(tmp_path/"a.jpg")!r}).load()'), 'Pillow does not call the script'


def test_har_predict_stays_in_the_given_folder(tmp_path):
    given, elsewhere = tmp_path/'given', tmp_path/'elsewhere'; given.mkdir(); elsewhere.mkdir()
    for i, f in enumerate((given/'a.png', tmp_path/'secret.png', elsewhere/'b.png')): image(i + 1).save(f)
    (given/'folder').symlink_to(elsewhere); (given/'loop').symlink_to(given)
    assert [f.name for f in find_images(given)] == ['a.png']
    shutil.make_archive(str(given/'archive'), 'zip', elsewhere) # archives within a folder are not opened
    assert [f.name for f in find_images(given)] == ['a.png'] and not list(given.rglob('b.png'))
    with pytest.raises(ImageError): open_image(find_images(given/'archive.zip')[0])
