"The report of a run, heat-maps and comparisons, from the command line"
import json, re, shutil

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as skm
from PIL import Image

from har_fastai import cli
from har_fastai.data.tables import ACTIONS
from har_fastai.evaluate.metrics import apply_temperature, nll, prob_array
from helpers import call, dataset, image, read_rows

SECTIONS = ('training', 'data', 'evaluation', 'calibration', 'images', 'gradcam', 'faithfulness', 'published')
FIGURES = {'history', 'confusion', 'classes', 'reliability', 'predictions', 'top_losses', 'heatmaps', 'atlas', 'faithfulness'}


def succeeds(*argv):
    "Call a command that must succeed"
    done = call(*argv)
    assert done.returncode == 0, done.stderr
    return done


def macro_f1(preds): return skm.f1_score(preds.label, preds.predicted, average='macro', zero_division=0)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "A folder per class, with synthetic samples on which no run was trained"
    from har_fastai.drawing.dataset import draw_har
    fresh, home = draw_har(tmp_path_factory.mktemp('fresh')/'har', n=60, size=64, seed=7), tmp_path_factory.mktemp('folders')
    for r in read_rows(fresh/'Training_set.csv'):
        (home/r['label']).mkdir(exist_ok=True); shutil.copy(fresh/'train'/r['filename'], home/r['label'])
    return home


# ---- reports ----

def test_training_writes_a_report(trained):
    html = (trained.run/'report.html').read_text(encoding='utf-8')
    assert all(f'id="{s}"' in html for s in SECTIONS) and '0.54' in html and '0.498' in html
    assert not re.findall(r'(?:src|href)="(?!data:image/|#)', html) and '<script' not in html, 'the page refers to another file'
    assert str(trained.data) not in html and str(trained.run.parent) not in html
    kept = json.loads((trained.run/'metrics.json').read_text())['test']
    assert f'{kept["macro_f1"]["value"]:.3f}' in html and {f.stem for f in (trained.run/'figures').glob('*.png')} >= FIGURES


def test_unseen_images_get_the_same_metrics_everywhere(trained, folders, tmp_path):
    home = shutil.copytree(trained.run, tmp_path/'run')
    done = succeeds('har_evaluate', home, '--data', folders, '--split', 'all', '--json', tmp_path/'m.json', '--csv', tmp_path/'p.csv',
                    '--faithfulness', 0)
    got, preds = json.loads((tmp_path/'m.json').read_text()), pd.read_csv(tmp_path/'p.csv')
    assert got['n'] == 60 and 'trained_on' not in got
    assert got['macro_f1']['value'] == pytest.approx(macro_f1(preds), abs=1e-9)
    assert got['accuracy']['value'] == pytest.approx(skm.accuracy_score(preds.label, preds.predicted))
    assert got['calibration']['nll'] == pytest.approx(skm.log_loss(preds.label, prob_array(preds, ACTIONS)), rel=1e-4)
    printed = next(l for l in done.stdout.splitlines() if l.startswith('macro avg')).split()
    assert float(printed[-2]) == pytest.approx(got['macro_f1']['value'], abs=0.006)
    assert (home/'report-all.html').is_file() and (home/'report.html').read_bytes() == (trained.run/'report.html').read_bytes()


def test_the_temperature_is_saved_and_changes_no_label(trained):
    t = json.loads((trained.run/'model.json').read_text())['temperature']
    preds = pd.read_csv(trained.run/'predictions.csv').query('part == "valid"')
    p, y = prob_array(preds, ACTIONS), np.array([ACTIONS.index(l) for l in preds.label])
    raw = apply_temperature(p, 1 / t)
    assert t > 0 and (raw.argmax(1) == p.argmax(1)).all() and nll(y, p).mean() <= nll(y, raw).mean() + 1e-6


def test_one_image_and_one_class(trained, tmp_path):
    (tmp_path/'data'/'running').mkdir(parents=True); image(1).save(tmp_path/'data'/'running'/'a.png')
    home = shutil.copytree(trained.run, tmp_path/'run')
    done = succeeds('har_evaluate', home, '--data', tmp_path/'data', '--split', 'all', '--faithfulness', 0)
    assert ', 1 image' in done.stdout and '1 images' not in done.stdout, done.stderr


def test_a_run_without_validation_images_has_a_report(trained, tmp_path):
    "No part selects an epoch, so the last one is kept"
    out = tmp_path/'all'
    succeeds('har_train', '--data', trained.data, '--out', out, *trained.options, '--split', 'whole', '--faithfulness', 0)
    unseen = dataset(tmp_path/'unseen', labels=('running', 'sitting', 'texting'))
    succeeds('har_evaluate', out, '--data', unseen, '--split', 'all', '--faithfulness', 0)
    page = (out/'report-all.html').read_text(encoding='utf-8')
    assert f'the weights of epoch {trained.epochs} were kept' in page and 'no images were held out' in page
    assert 'on validation images' not in page and 'part of the split' not in page


# ---- heat-maps and comparisons ----

def test_heat_maps(trained, tmp_path):
    image(3).save(tmp_path/'a.png'); (tmp_path/'broken.png').write_bytes(b'no image')
    done = call('har_explain', tmp_path/'a.png', tmp_path/'broken.png', trained.data/'test', '--model', trained.run,
                '--out', tmp_path/'maps', '--class', 'running')
    assert done.returncode == 1 and 'note: ' in done.stderr and 'broken.png cannot be read' in done.stderr, done.stderr
    assert 'broken.png' not in done.stdout
    assert len(list((tmp_path/'maps').iterdir())) == 1 + len(list((trained.data/'test').iterdir()))
    assert Image.open(tmp_path/'maps'/'a.png').width > 600


def test_runs_are_compared(trained, tmp_path):
    other = tmp_path/'other'
    succeeds('har_train', '--data', trained.data, '--out', other, *trained.options, '--lr', 4e-3, '--faithfulness', 0)
    for ending in ('html', 'csv', 'json', 'png'):
        succeeds('har_compare', trained.run, other, '--out', tmp_path/f'c.{ending}')
        assert (tmp_path/f'c.{ending}').stat().st_size > 200
    table = pd.read_csv(tmp_path/'c.csv', index_col=0)
    for r, name in ((trained.run, 'whole'), (other, 'other')):
        p = pd.read_csv(r/'predictions.csv').query('part == "test"')
        assert table.macro_f1[name] == pytest.approx(macro_f1(p), abs=1e-9)


def test_models_of_the_package_are_compared(tmp_path, refuse):
    from har_fastai.drawing.dataset import draw_har
    data = draw_har(tmp_path/'data', n=30, size=64, test=0)
    succeeds('har_compare', 'lite2', 'baseline', '--data', data, '--out', tmp_path/'c.csv')
    table = pd.read_csv(tmp_path/'c.csv', index_col=0)
    assert list(table.index) == ['lite2', 'baseline'] and table.arch.lite2 == 'efficientnet_lite2'
    assert table.macro_f1.lite2 > 0.9 > table.macro_f1.baseline, 'only lite2 was trained on drawings'
    code, message = refuse(cli.har_compare, 'lite2', 'baseline')
    assert code == 2 and 'lite2' in message and '--data' in message


def test_impossible_evaluations_are_refused(trained, tmp_path, refuse):
    for i in range(3): image(i).save(tmp_path/f'{i}.png')
    code, message = refuse(cli.har_evaluate, trained.run, '--data', tmp_path, '--split', 'all') # images without any labels
    assert code == 2 and 'har_predict' in message
    other = dataset(tmp_path/'other', labels=('running', 'juggling'))
    code, message = refuse(cli.har_evaluate, trained.run, '--data', other, '--split', 'all')
    assert code == 2 and 'juggling' in message and 'running' in message
    code, message = refuse(cli.har_compare, trained.run)
    assert code == 2 and 'two runs' in message
    explain = (cli.har_explain, tmp_path/'0.png', '--out', tmp_path/'m', '--model')
    code, message = refuse(*explain, trained.run, '--class', 'juggling')
    assert code == 2 and 'juggling' in message and not (tmp_path/'m').exists()
    new = shutil.copytree(trained.run, tmp_path/'new'); card = json.loads((new/'model.json').read_text())
    (new/'model.json').write_text(json.dumps({**card, 'format': 99}))
    code, message = refuse(*explain, new)
    assert code == 2 and 'format' in message and '99' in message
