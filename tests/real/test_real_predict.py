"Predicting real images: those in the folder that HAR_DATA names"
import csv, json, shutil, subprocess, sys, zipfile
from pathlib import Path

import pytest

from helpers import DATA, REAL, ROOT, run

pytestmark = REAL


def rows(file): return list(csv.DictReader(open(file, encoding='utf-8')))


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    "A network that learned a little from 450 images, enough to say different things of different ones"
    from har_fastai.data.tables import read_har
    to = tmp_path_factory.mktemp('model')
    for r in read_har(DATA).groupby('label').head(30).itertuples():
        (to/'d'/r.label).mkdir(parents=True, exist_ok=True); shutil.copy(r.path, to/'d'/r.label)
    done = run('har_train', '--data', to/'d', '--out', to/'run', '--recipe', 'demo', '--size', 48, '--epochs', 8, '--faithfulness', 0, '--device', 'cpu', timeout=600)
    assert done.returncode == 0, done.stderr
    return to/'run'


def test_the_test_table_becomes_a_submission(model, tmp_path):
    table = Path(DATA)/'Testing_set.csv'
    done = run('har_predict', table, '--model', model, '--submission', tmp_path/'s.csv', '--csv', tmp_path/'t.csv', timeout=600)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(rows(table)), done.stderr
    assert [r['filename'] for r in rows(tmp_path/'s.csv')] == [r['filename'] for r in rows(table)]
    assert [(Path(r['path']).name, r['label']) for r in rows(tmp_path/'t.csv')] == [(r['filename'], r['label']) for r in rows(tmp_path/'s.csv')]
    assert len({r['label'] for r in rows(tmp_path/'s.csv')}) > 5


def test_an_archive_answers_like_its_files(model, tmp_path):
    files = sorted((Path(DATA)/'test').iterdir())[:40]
    with zipfile.ZipFile(tmp_path/'sent.zip', 'w', zipfile.ZIP_DEFLATED, strict_timestamps=False) as z:
        for f in files: z.write(f, f.name)
    for i, paths in enumerate(([tmp_path/'sent.zip'], files)): assert run('har_predict', *paths, '--model', model, '--csv', tmp_path/f'{i}.csv').returncode == 0
    told = [sorted((Path(r['path']).name, r['label'], r['probability']) for r in rows(tmp_path/f'{i}.csv')) for i in (0, 1)]
    assert told[0] == told[1] and len(told[0]) == 40


def test_memory_does_not_grow_with_the_number_of_images(model):
    done = subprocess.run([sys.executable, ROOT/'benchmarks'/'predict_memory.py', '--data', Path(DATA)/'train', '--model', model, '--few', '150', '--many', '1500'], capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert told['many'] == 1500 and told['ratio'] < 1.1 and told['ratio_later'] < 1.15, told # 1,350 decoded images would be 700 MB


def test_a_clip_of_real_images(model, tmp_path):
    pytest.importorskip('av', reason='clips need PyAV: pip install "har_fastai[video]"')
    if not shutil.which('ffmpeg'): pytest.skip('ffmpeg is not installed')
    from har_fastai.predict.predictor import Predictor
    p, files = Predictor(model), sorted((Path(DATA)/'test').iterdir())[:100]
    probs = p.probs(files); said = probs.argmax(1)
    first = int(probs.max(1).argmax()); second = max((i for i in range(100) if said[i] != said[first]), key=lambda i: probs[i].max())
    scale = 'scale=320:240,setsar=1'
    for k, i in enumerate((first, second)):
        subprocess.run(['ffmpeg', '-v', 'error', '-loop', '1', '-t', '4', '-i', files[i], '-vf', scale, '-r', '12', '-c:v', 'mpeg4', '-q:v', '2', tmp_path/f'{k}.avi'], check=True)
    (tmp_path/'list.txt').write_text("file '0.avi'\nfile '1.avi'\n")
    subprocess.run(['ffmpeg', '-v', 'error', '-f', 'concat', '-i', tmp_path/'list.txt', '-c', 'copy', tmp_path/'clip.avi'], check=True)
    done = run('har_predict', tmp_path/'clip.avi', '--model', model, '--csv', tmp_path/'t.csv', '--figure', tmp_path/'f.png')
    assert done.returncode == 0, done.stderr
    got = rows(tmp_path/'t.csv')
    assert [r['label'] for r in got] == [p.vocab[said[first]], p.vocab[said[second]]] and abs(float(got[0]['end']) - 4) <= .5 and abs(float(got[1]['end']) - 8) < .2
    assert (tmp_path/'f.png').stat().st_size > 20_000
