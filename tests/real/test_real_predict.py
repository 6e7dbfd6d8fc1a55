"Prediction on the photographs in the folder HAR_DATA"
import json, shutil, subprocess, sys, zipfile
from pathlib import Path

import pytest

from har_fastai.data.tables import read_har
from har_fastai.predict.predictor import Predictor
from helpers import DATA, REAL, ROOT, call, read_rows

pytestmark = REAL


@pytest.fixture(scope='module')
def model(shared):
    "A model trained briefly on 450 images, so that its predictions differ"
    def train(to):
        for r in read_har(DATA).groupby('label').head(30).itertuples():
            (to/'d'/r.label).mkdir(parents=True, exist_ok=True); shutil.copy(r.path, to/'d'/r.label)
        options = ('--recipe', 'demo', '--size', 48, '--epochs', 8, '--faithfulness', 0, '--device', 'cpu')
        done = call('har_train', '--data', to/'d', '--out', to/'run', *options)
        assert done.returncode == 0, done.stderr
        return str(to/'run')
    return Path(shared('real_model', train))


def test_the_test_table_becomes_a_submission(model, tmp_path):
    table = Path(DATA)/'Testing_set.csv'
    done = call('har_predict', table, '--model', model, '--submission', tmp_path/'s.csv', '--csv', tmp_path/'t.csv')
    names, sent = [r['filename'] for r in read_rows(table)], read_rows(tmp_path/'s.csv')
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(names) + 1, done.stderr
    assert [r['filename'] for r in sent] == names
    assert [(Path(r['path']).name, r['label']) for r in read_rows(tmp_path/'t.csv')] == [(r['filename'], r['label']) for r in sent]
    assert len({r['label'] for r in sent}) > 5


def test_an_archive_gives_the_predictions_of_its_files(model, tmp_path):
    files = sorted((Path(DATA)/'test').iterdir())[:40]
    with zipfile.ZipFile(tmp_path/'sent.zip', 'w', zipfile.ZIP_DEFLATED, strict_timestamps=False) as z:
        for f in files: z.write(f, f.name)
    def predictions(*paths):
        assert call('har_predict', *paths, '--model', model, '--csv', tmp_path/'t.csv').returncode == 0
        return sorted((Path(r['path']).name, r['label'], r['probability']) for r in read_rows(tmp_path/'t.csv'))
    from_zip = predictions(tmp_path/'sent.zip')
    assert from_zip == predictions(*files) and len(from_zip) == 40


def test_memory_does_not_grow_with_the_number_of_images(model):
    script, folder = ROOT/'benchmarks'/'predict_memory.py', Path(DATA)/'train'
    argv = [sys.executable, script, '--data', folder, '--model', model, '--few', '150', '--many', '1500']
    res = json.loads(subprocess.run(argv, capture_output=True, text=True).stdout)
    assert res['many'] == 1500 and res['ratio'] < 1.1 and res['ratio_later'] < 1.15, res # 1,350 decoded images would take 700 MB


def ffmpeg(*args): subprocess.run(['ffmpeg', '-v', 'error', *map(str, args)], check=True)


def test_a_clip_of_photographs(model, tmp_path):
    "Two photographs with different predictions, four seconds each"
    pytest.importorskip('av', reason='clips need PyAV: pip install "har_fastai[video]"')
    if not shutil.which('ffmpeg'): pytest.skip('ffmpeg is not installed')
    p, files = Predictor(model), sorted((Path(DATA)/'test').iterdir())[:100]
    probs = p.probs(files); best = probs.argmax(1)
    first = int(probs.max(1).argmax()); second = max((i for i in range(100) if best[i] != best[first]), key=lambda i: probs[i].max())
    codec = ('-r', 12, '-c:v', 'mpeg4', '-q:v', 2)
    for k, i in enumerate((first, second)):
        ffmpeg('-loop', 1, '-t', 4, '-i', files[i], '-vf', 'scale=320:240,setsar=1', *codec, tmp_path/f'{k}.avi')
    (tmp_path/'list.txt').write_text("file '0.avi'\nfile '1.avi'\n")
    ffmpeg('-f', 'concat', '-i', tmp_path/'list.txt', '-c', 'copy', tmp_path/'clip.avi')
    done = call('har_predict', tmp_path/'clip.avi', '--model', model, '--csv', tmp_path/'t.csv', '--figure', tmp_path/'f.png')
    assert done.returncode == 0, done.stderr
    one, two = read_rows(tmp_path/'t.csv')
    assert (one['label'], two['label']) == (p.vocab[best[first]], p.vocab[best[second]])
    assert abs(float(one['end']) - 4) <= .5 and abs(float(two['end']) - 8) < .2
    assert (tmp_path/'f.png').stat().st_size > 20_000
