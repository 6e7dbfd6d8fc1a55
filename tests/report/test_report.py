"The page of a run, heat-maps and comparisons, from the command line"
import csv, json, re, shutil

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics as skm
from PIL import Image

from har_fastai import cli
from har_fastai.data.tables import ACTIONS
from helpers import dataset, image, run

SECTIONS = ('trained', 'data', 'good', 'sure', 'images', 'looks', 'faithful', 'beside')


@pytest.fixture(scope='module')
def folders(drawn, tmp_path_factory):
    "A folder for each class, with drawings that no run has seen"
    from har_fastai.drawing.dataset import draw_har
    fresh, home = draw_har(tmp_path_factory.mktemp('fresh')/'har', n=60, size=64, seed=7), tmp_path_factory.mktemp('folders')
    for r in csv.DictReader(open(fresh/'Training_set.csv')):
        (home/r['label']).mkdir(exist_ok=True); shutil.copy(fresh/'train'/r['filename'], home/r['label'])
    return home


def test_training_leaves_a_page(trained):
    html = (trained.run/'report.html').read_text(encoding='utf-8')
    assert all(f'id="{s}"' in html for s in SECTIONS) and '0.54' in html and '0.498' in html
    assert not re.findall(r'(?:src|href)="(?!data:image/|#)', html) and '<script' not in html, 'the page needs something but itself'
    assert str(trained.data) not in html and str(trained.run.parent) not in html
    kept = json.loads((trained.run/'metrics.json').read_text())['test']
    assert f'{kept["macro_f1"]["value"]:.3f}' in html and {f.stem for f in (trained.run/'figures').glob('*.png')} >= {'history', 'confusion', 'classes', 'reliability', 'predictions', 'top_losses', 'heatmaps', 'atlas', 'faithfulness'}


def test_images_never_seen_give_the_same_figures_everywhere(trained, folders, tmp_path):
    home = shutil.copytree(trained.run, tmp_path/'run')
    done = run('har_evaluate', home, '--data', folders, '--split', 'all', '--json', tmp_path/'f.json', '--csv', tmp_path/'p.csv', '--faithful', 0)
    assert done.returncode == 0, done.stderr
    told, preds = json.loads((tmp_path/'f.json').read_text()), pd.read_csv(tmp_path/'p.csv')
    assert told['n'] == 60 and 'trained_on' not in told
    assert told['macro_f1']['value'] == pytest.approx(skm.f1_score(preds.label, preds.predicted, average='macro', zero_division=0), abs=1e-9)
    assert told['accuracy']['value'] == pytest.approx(skm.accuracy_score(preds.label, preds.predicted)) and told['calibration']['nll'] == pytest.approx(skm.log_loss(preds.label, preds[list(ACTIONS)]), rel=1e-4)
    printed = next(l for l in done.stdout.splitlines() if l.startswith('macro avg')).split()
    assert float(printed[-2]) == pytest.approx(told['macro_f1']['value'], abs=0.006)
    assert (home/'report-all.html').is_file() and (home/'report.html').read_bytes() == (trained.run/'report.html').read_bytes()


def test_the_temperature_is_kept_and_changes_no_label(trained):
    from har_fastai.evaluate.metrics import nll, apply_temperature
    t = json.loads((trained.run/'model.json').read_text())['temperature']
    preds = pd.read_csv(trained.run/'predictions.csv').query('part == "valid"')
    p, y = preds[list(ACTIONS)].to_numpy(), np.array([ACTIONS.index(l) for l in preds.label])
    raw = apply_temperature(p, 1 / t)
    assert t > 0 and (raw.argmax(1) == p.argmax(1)).all() and nll(y, p).mean() <= nll(y, raw).mean() + 1e-6


def test_heat_maps(trained, tmp_path):
    image(3).save(tmp_path/'a.png'); (tmp_path/'broken.png').write_bytes(b'no image')
    done = run('har_explain', tmp_path/'a.png', tmp_path/'broken.png', trained.data/'test', '--model', trained.run, '--out', tmp_path/'maps', '--class', 'running')
    assert done.returncode == 1 and 'note: ' in done.stderr and 'broken.png cannot be read' in done.stderr and 'broken.png' not in done.stdout, done.stderr
    assert len(list((tmp_path/'maps').iterdir())) == 1 + len(list((trained.data/'test').iterdir()))
    assert Image.open(tmp_path/'maps'/'a.png').width > 600


def test_runs_are_compared(trained, tmp_path):
    other = tmp_path/'other'
    assert run('har_train', '--data', trained.data, '--out', other, *trained.options, '--lr', 4e-3, '--faithful', 0).returncode == 0
    for ending in ('html', 'csv', 'json', 'png'):
        done = run('har_compare', trained.run, other, '--out', tmp_path/f'c.{ending}'); assert done.returncode == 0 and (tmp_path/f'c.{ending}').stat().st_size > 200, done.stderr
    table = pd.read_csv(tmp_path/'c.csv', index_col=0)
    for r, name in ((trained.run, 'whole'), (other, 'other')):
        p = pd.read_csv(r/'predictions.csv').query('part == "test"')
        assert table.macro_f1[name] == pytest.approx(skm.f1_score(p.label, p.predicted, average='macro', zero_division=0), abs=1e-9)


def test_what_cannot_be_scored_is_told(trained, tmp_path, refuse):
    for i in range(3): image(i).save(tmp_path/f'{i}.png')
    code, told = refuse(cli.har_evaluate, trained.run, '--data', tmp_path, '--split', 'all') # images, and no labels at all
    assert code == 2 and 'har_predict' in told
    code, told = refuse(cli.har_evaluate, trained.run, '--data', dataset(tmp_path/'other', labels=('running', 'juggling')), '--split', 'all')
    assert code == 2 and 'juggling' in told and 'running' in told
    code, told = refuse(cli.har_compare, trained.run)
    assert code == 2 and 'two runs' in told
    code, told = refuse(cli.har_explain, tmp_path/'0.png', '--model', trained.run, '--out', tmp_path/'m', '--class', 'juggling')
    assert code == 2 and 'juggling' in told and not (tmp_path/'m').exists()
    new = shutil.copytree(trained.run, tmp_path/'new'); card = json.loads((new/'model.json').read_text()); (new/'model.json').write_text(json.dumps({**card, 'format': 99}))
    code, told = refuse(cli.har_explain, tmp_path/'0.png', '--model', new, '--out', tmp_path/'m')
    assert code == 2 and 'format' in told and '99' in told


def test_one_image_and_one_class(trained, tmp_path):
    (tmp_path/'data'/'running').mkdir(parents=True); image(1).save(tmp_path/'data'/'running'/'a.png')
    home = shutil.copytree(trained.run, tmp_path/'run')
    done = run('har_evaluate', home, '--data', tmp_path/'data', '--split', 'all', '--faithful', 0)
    assert done.returncode == 0 and ', 1 image' in done.stdout and '1 images' not in done.stdout, done.stderr


def test_a_run_that_held_nothing_back_has_a_report(trained, tmp_path):
    "Nothing chose its epoch, so the last one was kept"
    out = tmp_path/'all'
    done = run('har_train', '--data', trained.data, '--out', out, *trained.options, '--split', 'whole', '--faithful', 0); assert done.returncode == 0, done.stderr
    unseen = dataset(tmp_path/'unseen', labels=('running', 'sitting', 'texting'))
    done = run('har_evaluate', out, '--data', unseen, '--split', 'all', '--faithful', 0); assert done.returncode == 0, done.stderr
    page = (out/'report-all.html').read_text(encoding='utf-8')
    assert f'the network of epoch {trained.epochs} was kept' in page and 'nothing was held back' in page and 'on validation images' not in page and 'side of the split' not in page
