"Find people in the photographs in the folder HAR_DATA, and fuse a model, with the pose model HAR_POSE_MODEL"
import json, os, shutil
from pathlib import Path

import pandas as pd
import pytest

from har_fastai.predict.base import shipped_model
from har_fastai.serve.models import Models
from har_fastai.serve.service import make_service
from helpers import DATA, REAL, run

POSE = os.environ.get('HAR_POSE_MODEL', '')
pytestmark = [*REAL, pytest.mark.skipif(not POSE or not Path(POSE).is_file(), reason='HAR_POSE_MODEL does not name the pose model')]


def test_people_in_photographs(tmp_path):
    photos = sorted((Path(DATA)/'train').iterdir())[:12]
    broken = tmp_path/'broken.jpg'
    broken.write_text('no image')
    done = run('har_predict', *photos, broken, '--people', '--json', tmp_path/'people.json', '--drawings', tmp_path/'drawn')
    assert done.returncode == 1 and done.stderr.count('\n') == 2, done.stderr # the note and the sentence
    rows = [json.loads(line) for line in (tmp_path/'people.json').read_text().splitlines()]
    assert len(rows) == 13 and rows[-1]['problem'] and not rows[-1]['people']
    assert sum(len(r['people']) > 0 for r in rows) >= 8
    assert all(0 <= v <= 1 for r in rows for p in r['people'] for v in p['box'])
    assert len(list((tmp_path/'drawn').iterdir())) == 12


def test_people_in_the_app_and_the_service():
    "The same boxes and labels as from the command"
    testclient = pytest.importorskip('starlette.testclient')
    models = Models(people=True)
    photos = [p.read_bytes() for p in sorted((Path(DATA)/'train').iterdir())[:6]]
    shown = [models.people(p, '', 'lite2')[1] for p in photos]
    with testclient.TestClient(make_service(people=True)) as client:
        rows = client.post('/people', files=[('files', (str(i), p)) for i, p in enumerate(photos)]).json()['predictions']
    found = [[(p['label'], p['box']) for p in r['people']] for r in rows]
    assert found == [[(p.prediction.label, [round(v, 4) for v in p.box]) for p in people] for people in shown]
    assert sum(map(bool, found)) >= 4


def some_photos(to:Path, each:int) -> pd.DataFrame:
    "A data set of a few photographs of each class"
    table = pd.read_csv(Path(DATA)/'Training_set.csv').groupby('label').head(each)
    (to/'train').mkdir(parents=True)
    for f in table.filename: shutil.copy(Path(DATA)/'train'/f, to/'train'/f)
    table.to_csv(to/'Training_set.csv', index=False)
    return table


def test_a_model_of_poses(tmp_path):
    "Better than chance, 1 of 15, from twenty photographs of each class"
    table = some_photos(tmp_path/'data', 20)
    done = run('har_train', '--data', tmp_path/'data', '--recipe', 'pose', '--out', tmp_path/'run')
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path/'run'/'metrics.json').read_text())
    assert scores['test']['accuracy']['value'] > .12
    photos = [tmp_path/'data'/'train'/f for f in table.filename[:4]]
    done = run('har_explain', *photos, '--model', tmp_path/'run', '--out', tmp_path/'limbs')
    assert done.returncode == 0 and len(list((tmp_path/'limbs').iterdir())) == 4, done.stderr


def test_a_fused_model_of_photographs(tmp_path):
    table = some_photos(tmp_path/'data', 7)
    shutil.copytree(shipped_model('baseline'), tmp_path/'model')
    done = run('har_fuse', tmp_path/'model', '--data', tmp_path/'data', '--split', 'grouped')
    assert done.returncode == 0 and 'fused less alone' in done.stdout, done.stderr
    assert 'test images: scores on them are too good' in done.stderr # the included model was trained on them
    info = json.loads((tmp_path/'model'/'fusion.json').read_text())
    assert list(info['streams']) == ['image', 'person', 'pose', 'parts', 'objects'] and info['metrics']['test']['n'] >= 8
    photo = tmp_path/'data'/'train'/table.filename.iloc[0]
    done = run('har_predict', photo, '--model', tmp_path/'model', '--fusion', '--top', 15)
    assert done.returncode == 0 and table.label.iloc[0] in done.stdout, done.stderr
