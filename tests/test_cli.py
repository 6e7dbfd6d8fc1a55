"The commands: instant help, one story from training to prediction, output that can be piped"
import csv, json, resource, shutil, statistics, subprocess, sys, time
from importlib import import_module

import pytest

from helpers import image, run, scripts, start

BAR = '\r\x1b█▏░' # what a progress bar leaves behind


def plain(text): return not set(text) & set(BAR)


def test_console_scripts_can_be_called():
    assert len(scripts()) >= 6
    for module, func in scripts().values(): assert callable(getattr(import_module(module), func))


@pytest.mark.parametrize('name', scripts())
def test_help_is_instant(name):
    wall, cpu = [], []
    for _ in range(5):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = run(name, '--help')
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall.append(time.perf_counter() - began); cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0 and done.stdout.startswith(f'usage: {name}') and not done.stderr
    assert statistics.median(cpu) < .5 and statistics.median(wall) < 1.5, (cpu, wall) # processor time does not depend on other processes


def test_help_loads_nothing_heavy():
    code = ('import sys\nfrom importlib import import_module\n'
            f'for module, func in {list(scripts().values())!r}:\n    try: getattr(import_module(module), func)(["--help"])\n    except SystemExit as e: assert e.code == 0\n'
            'print("loaded:", *sorted({"torch", "torchvision", "fastai", "fastcore", "pandas", "sklearn", "scipy", "matplotlib", "IPython", "streamlit"} & set(sys.modules)))')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ['loaded:']


@pytest.mark.parametrize('name', scripts())
def test_unknown_option_is_refused(name):
    done = run(name, '--no-such-option')
    assert done.returncode == 2 and 'Traceback' not in done.stderr


def test_training_prints_a_line_an_epoch(trained):
    lines = [l for l in trained.out.splitlines() if l.startswith('epoch ')]
    assert [l.split()[1] for l in lines] == [f'{i}/{trained.epochs}' for i in range(1, trained.epochs + 1)]
    assert 'train_loss' in lines[0] and 'valid_macro_f1' in lines[0]
    assert plain(trained.out) and plain(trained.err)


def test_training_tells_where_the_run_is(trained):
    assert str(trained.run) in trained.out.splitlines()[-1]
    files = {'recipe.json', 'split.csv', 'history.csv', 'model.safetensors', 'model.json', 'metrics.json', 'predictions.csv'}
    assert files <= {f.name for f in trained.run.iterdir()}


def test_training_says_nothing_of_programming(trained):
    noise = [l for l in trained.err.splitlines() if any(w in l for w in ('deprecated', 'shadowing', 'Warning', 'torch.jit'))]
    assert noise == [], 'notes on standard error that no user can act on'


def test_evaluation_repeats_the_figures_exactly(trained, tmp_path):
    home = shutil.copytree(trained.run, tmp_path/'run') # the report of the training stays what it is
    done = run('har_evaluate', home, '--data', trained.data, '--json', tmp_path/'figures.json', '--csv', tmp_path/'preds.csv')
    assert done.returncode == 0, done.stderr
    got, kept = json.loads((tmp_path/'figures.json').read_text()), json.loads((trained.run/'metrics.json').read_text())
    assert {k: got[k] for k in ('n', 'macro_f1', 'accuracy')} == {k: kept['test'][k] for k in ('n', 'macro_f1', 'accuracy')}
    assert got['split'] == 'test' and 'trained_on' not in got and 'WARNING' not in done.stdout
    mine = {(r['filename'], r['predicted']) for r in csv.DictReader(open(tmp_path/'preds.csv'))}
    assert mine == {(r['filename'], r['predicted']) for r in csv.DictReader(open(trained.run/'predictions.csv')) if r['part'] == 'test'}
    assert f'{got["n"]:,} images' in done.stdout.splitlines()[-2] and done.stdout.splitlines()[-1].startswith('Report: ') and plain(done.stdout + done.stderr)


@pytest.mark.parametrize('split', ['all', 'tail'])
def test_evaluation_tells_of_images_trained_on(trained, tmp_path, capsys, split):
    from har_fastai.cli import har_evaluate
    har_evaluate([str(trained.run), '--data', str(trained.data), '--split', split, '--json', str(tmp_path/'f.json')])
    out, got = capsys.readouterr().out, json.loads((tmp_path/'f.json').read_text())
    rows = list(csv.DictReader(open(trained.data/'Training_set.csv')))
    part = {r['filename']: r['part'] for r in csv.DictReader(open(trained.run/'split.csv'))}
    scored = rows if split == 'all' else rows[-round(len(rows) * .2):]
    seen = sum(part[r['filename']] == 'train' for r in scored)
    assert 0 < seen < len(scored)
    assert (got['n'], got['trained_on'], got['unseen']['n']) == (len(scored), seen, len(scored) - seen)
    assert 'WARNING' in out and 'trained on' in out and f'{got["unseen"]["macro_f1"]["value"]:.3f}' in out


def test_evaluation_on_foreign_images_says_so(trained, tmp_path, refuse):
    from har_fastai.cli import har_evaluate
    from har_fastai.drawing.dataset import draw_har
    other = draw_har(tmp_path/'other', n=30, size=32, seed=7, test=0)
    code, told = refuse(har_evaluate, trained.run, '--data', other)
    assert code == 2 and 'none of the' in told and '--split all' in told


def test_prediction_survives_broken_images(trained, tmp_path):
    good = sorted((trained.data/'test').iterdir())
    (tmp_path/'broken.jpg').write_bytes(good[0].read_bytes()[:200])
    done = run('har_predict', good[0], tmp_path/'broken.jpg', trained.data/'test', '--model', trained.run, '--csv', tmp_path/'t.csv', '--top', 3)
    assert done.returncode == 1 and 'broken.jpg' in done.stderr and '1 of the' in done.stderr, done.stderr
    rows = list(csv.DictReader(open(tmp_path/'t.csv')))
    assert [r['path'] for r in rows if r['problem']] == [str(tmp_path/'broken.jpg')]
    assert sorted({r['path'] for r in rows if not r['problem']}) == sorted(map(str, good)) # each once, though good[0] is named twice
    for p in map(str, good):
        probs = [float(r['probability']) for r in rows if r['path'] == p]
        assert [r['rank'] for r in rows if r['path'] == p] == ['1', '2', '3'] and probs == sorted(probs, reverse=True) and 0 < sum(probs) <= 1
    assert len(done.stdout.splitlines()) == len(good) and plain(done.stdout + done.stderr)


def test_prediction_of_broken_images_only(trained, tmp_path, refuse):
    from har_fastai.cli import har_predict
    (tmp_path/'a.jpg').write_bytes(b'')
    code, told = refuse(har_predict, tmp_path/'a.jpg', '--model', trained.run)
    assert code == 2 and 'could not be read' in told


@pytest.mark.parametrize('argv, words', [(['missing.jpg'], ['missing.jpg', 'does not exist']), (['empty'], ['empty', 'no images']), (['empty', '--top', '0'], ['--top', '0']),
                                         (['a.png', '--device', 'abacus'], ['abacus'])])
def test_prediction_refuses_what_it_cannot_do(trained, tmp_path, refuse, monkeypatch, argv, words):
    from har_fastai.cli import har_predict
    monkeypatch.chdir(tmp_path); (tmp_path/'empty').mkdir(); image(1).save('a.png')
    code, told = refuse(har_predict, *argv, '--model', trained.run)
    assert code == 2 and all(w in told for w in words), told


def test_check_and_draw(tmp_path):
    drawn = run('har_draw', tmp_path/'d', '--n', 30, '--size', 32)
    assert drawn.returncode == 0 and len(list((tmp_path/'d'/'train').iterdir())) == 30, drawn.stderr
    checked = run('har_check', tmp_path/'d')
    assert checked.returncode == 0 and '30 images of 15 classes' in checked.stdout and 'cannot be used: 0' in checked.stdout
    assert plain(drawn.stdout + drawn.stderr + checked.stdout + checked.stderr)
    again = run('har_draw', tmp_path/'d', '--n', 30)
    assert again.returncode == 2 and 'not empty' in again.stderr and len(again.stderr.splitlines()) == 1


def test_download_without_kagglehub(tmp_path, refuse, monkeypatch):
    from har_fastai.cli import har_download
    monkeypatch.setitem(sys.modules, 'kagglehub', None)
    code, told = refuse(har_download, tmp_path/'d')
    assert code == 2 and 'kagglehub' in told and 'pip install' in told and not (tmp_path/'d').exists()


def test_closed_pipe_is_no_accident(trained):
    with start('har_predict', trained.data/'train', '--model', trained.run) as p:
        p.stdout.readline(); p.stdout.close() # as `| head -1` does
        err = p.stderr.read().decode()
    assert 'Traceback' not in err and 'Exception' not in err


@pytest.mark.parametrize('argv, words', [(['--recipe', 'stew'], ['stew', 'report', 'demo']), (['--arch', 'lenet'], ['lenet', 'baseline']), (['--epochs', '0'], ['epochs', '0']), (['--size', '8'], ['size', '8']),
                                         (['--split', 'odd'], ['odd', 'grouped', 'tail']), (['--device', 'abacus'], ['abacus']), (['--weights', 'no.pth'], ['no.pth']), (['--pretrained', 'yes'], ['pretrained']),
                                         (['--seed', '-1'], ['seed', '-1']), (['--bs', '1'], ['bs', '1']), (['--resume'], ['--out'])])
def test_training_refuses_bad_options(trained, tmp_path, refuse, argv, words):
    from har_fastai.cli import har_train
    out = [] if '--resume' in argv else ['--out', tmp_path/'run']
    code, told = refuse(har_train, '--data', trained.data, *out, *argv)
    assert code == 2 and all(w in told for w in words), told
    if out: assert not (tmp_path/'run'/'recipe.json').exists(), 'a refused option must not leave a run behind'
