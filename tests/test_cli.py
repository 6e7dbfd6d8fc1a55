"The commands: fast help, everything from training to prediction, output suitable for pipes, one-sentence errors"
import json, resource, shutil, subprocess, sys, time
from importlib import import_module

import pytest

from har_fastai.cli import har_app, har_predict, har_train
from har_fastai.predict.base import shipped_model
from helpers import call, image, read_rows, run, scripts, start

BAR = '\r\x1b█▏░' # characters of a progress bar
HEAVY = {'torch', 'torchvision', 'fastai', 'fastcore', 'pandas', 'sklearn', 'scipy', 'matplotlib', 'IPython', 'streamlit'}


def plain(text): return not set(text) & set(BAR)


def test_console_scripts_can_be_called():
    assert len(scripts()) >= 6
    for module, func in scripts().values(): assert callable(getattr(import_module(module), func))


def timed_help(name) -> tuple[float, float]:
    "Wall time and processor time of a command's --help"
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = run(name, '--help')
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    assert done.returncode == 0 and done.stdout.startswith(f'usage: {name}') and not done.stderr
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize('name', scripts())
def test_help_is_quick(name):
    "Other processes may slow down a run, so the test passes if one of up to five runs is fast enough"
    for _ in range(5):
        wall, cpu = timed_help(name)
        if cpu < .5 and wall < 1.5: return
    pytest.fail(f'{cpu:.2f} s of processor time, {wall:.2f} s')


def test_help_loads_nothing_heavy():
    code = ('import sys\nfrom importlib import import_module\n'
            f'for module, func in {list(scripts().values())!r}:\n'
            '    try: getattr(import_module(module), func)(["--help"])\n'
            '    except SystemExit as e: assert e.code == 0\n'
            f'print("loaded:", *sorted({HEAVY!r} & set(sys.modules)))')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].split() == ['loaded:']


@pytest.mark.parametrize('name', scripts())
def test_unknown_option_is_refused(name):
    done = call(name, '--no-such-option')
    assert done.returncode == 2 and done.stderr.startswith('usage: ') and 'Traceback' not in done.stderr


# ---- training ----

def test_training_prints_a_line_per_epoch(trained):
    lines = [l for l in trained.out.splitlines() if l.startswith('epoch ')]
    assert [l.split()[1] for l in lines] == [f'{i}/{trained.epochs}' for i in range(1, trained.epochs + 1)]
    assert 'train_loss' in lines[0] and 'valid_macro_f1' in lines[0]
    assert plain(trained.out) and plain(trained.err)


def test_training_prints_the_run_folder(trained):
    assert str(trained.run) in trained.out.splitlines()[-1]
    files = {'recipe.json', 'split.csv', 'history.csv', 'model.safetensors', 'model.json', 'metrics.json', 'predictions.csv'}
    assert files <= {f.name for f in trained.run.iterdir()}


def test_training_shows_no_warnings_for_developers(trained):
    noise = [l for l in trained.err.splitlines() if any(w in l for w in ('deprecated', 'shadowing', 'Warning', 'torch.jit'))]
    assert noise == [], 'notes on standard error that users cannot act on'


@pytest.mark.parametrize('argv, words', [
    (['--recipe', 'repotr'], ['repotr', 'report', 'demo']), (['--arch', 'lenet'], ['lenet', 'baseline']),
    (['--epochs', '0'], ['epochs', '0']), (['--size', '8'], ['size', '8']),
    (['--split', 'odd'], ['odd', 'grouped', 'tail']), (['--device', 'abacus'], ['abacus']),
    (['--weights', 'no.pth'], ['no.pth']), (['--arch', 'baseline', '--pretrained', 'yes'], ['pretrained']),
    (['--seed', '-1'], ['seed', '-1']), (['--bs', '1'], ['bs', '1']), (['--resume'], ['--out'])])
def test_training_refuses_bad_options(trained, tmp_path, refuse, argv, words):
    from har_fastai.cli import har_train
    out = [] if '--resume' in argv else ['--out', tmp_path/'run']
    code, message = refuse(har_train, '--data', trained.data, *out, *argv)
    assert code == 2 and all(w in message for w in words), message
    if out: assert not (tmp_path/'run'/'recipe.json').exists(), 'a rejected option must not create a run'


# ---- evaluation ----

def test_evaluation_repeats_the_metrics_exactly(trained, tmp_path):
    home = shutil.copytree(trained.run, tmp_path/'run') # so that the report written by training is not replaced
    done = call('har_evaluate', home, '--data', trained.data, '--json', tmp_path/'m.json', '--csv', tmp_path/'p.csv', '--faithfulness', 2)
    assert done.returncode == 0, done.stderr
    got, kept = json.loads((tmp_path/'m.json').read_text()), json.loads((trained.run/'metrics.json').read_text())
    assert {k: got[k] for k in ('n', 'macro_f1', 'accuracy')} == {k: kept['test'][k] for k in ('n', 'macro_f1', 'accuracy')}
    assert got['split'] == 'test' and 'trained_on' not in got and 'WARNING' not in done.stdout
    mine = {(r['filename'], r['predicted']) for r in read_rows(tmp_path/'p.csv')}
    assert mine == {(r['filename'], r['predicted']) for r in read_rows(trained.run/'predictions.csv') if r['part'] == 'test'}
    *_, metrics, report = done.stdout.splitlines()
    assert f'{got["n"]:,} images' in metrics and report.startswith('Report: ') and plain(done.stdout + done.stderr)


@pytest.mark.parametrize('split', ['all', 'tail'])
def test_evaluation_warns_of_images_trained_on(trained, tmp_path, split):
    done = call('har_evaluate', trained.run, '--data', trained.data, '--split', split, '--json', tmp_path/'m.json', '--report', 'no')
    got, rows = json.loads((tmp_path/'m.json').read_text()), read_rows(trained.data/'Training_set.csv')
    part = {r['filename']: r['part'] for r in read_rows(trained.run/'split.csv')}
    scored = rows if split == 'all' else rows[-round(len(rows) * .2):]
    seen = sum(part[r['filename']] == 'train' for r in scored)
    assert 0 < seen < len(scored)
    assert (got['n'], got['trained_on'], got['unseen']['n']) == (len(scored), seen, len(scored) - seen)
    assert 'WARNING' in done.stdout and 'trained on' in done.stdout and f'{got["unseen"]["macro_f1"]["value"]:.3f}' in done.stdout


def test_evaluation_refuses_another_data_set(trained, tmp_path, refuse):
    from har_fastai.cli import har_evaluate
    from har_fastai.drawing.dataset import draw_har
    other = draw_har(tmp_path/'other', n=30, size=32, seed=7, test=0)
    code, message = refuse(har_evaluate, trained.run, '--data', other)
    assert code == 2 and 'none of the' in message and '--split all' in message


# ---- prediction ----

def test_prediction_skips_broken_images(trained, tmp_path):
    good, table = sorted((trained.data/'test').iterdir()), tmp_path/'t.csv'
    (tmp_path/'broken.jpg').write_bytes(good[0].read_bytes()[:200])
    done = run('har_predict', good[0], tmp_path/'broken.jpg', trained.data/'test', '--model', trained.run, '--csv', table, '--top', 3)
    assert done.returncode == 1 and 'broken.jpg' in done.stderr and '1 of the' in done.stderr, done.stderr
    rows = read_rows(table)
    assert [r['path'] for r in rows if r['problem']] == [str(tmp_path/'broken.jpg')]
    assert sorted({r['path'] for r in rows if not r['problem']}) == sorted(map(str, good)) # once each, though good[0] is given twice
    for p in map(str, good):
        probs = [float(r['probability']) for r in rows if r['path'] == p]
        assert [r['rank'] for r in rows if r['path'] == p] == ['1', '2', '3']
        assert probs == sorted(probs, reverse=True) and 0 < sum(probs) <= 1
    assert len(done.stdout.splitlines()) == len(good) + 1 and plain(done.stdout + done.stderr)


def test_prediction_of_broken_images_only(trained, tmp_path, refuse):
    from har_fastai.cli import har_predict
    (tmp_path/'a.jpg').write_bytes(b'')
    code, message = refuse(har_predict, tmp_path/'a.jpg', '--model', trained.run)
    assert code == 2 and 'could not be read' in message


@pytest.mark.parametrize('argv, words', [
    (['missing.jpg'], ['missing.jpg', 'does not exist']), (['empty'], ['empty', 'no images']),
    (['empty', '--top', '0'], ['--top', '0']), (['a.png', '--device', 'abacus'], ['abacus'])])
def test_prediction_refuses_bad_arguments(trained, tmp_path, refuse, monkeypatch, argv, words):
    from har_fastai.cli import har_predict
    monkeypatch.chdir(tmp_path); (tmp_path/'empty').mkdir(); image(1).save('a.png')
    code, message = refuse(har_predict, *argv, '--model', trained.run)
    assert code == 2 and all(w in message for w in words), message


def test_impossible_combinations_are_refused(tmp_path, refuse):
    onnx = shipped_model()/'model.onnx'
    (tmp_path/'a.jpg').write_text('no image'); (tmp_path/'a.mp4').write_text('no clip')
    for command, argv, words in ((har_predict, [tmp_path/'a.mp4', tmp_path/'a.jpg'], 'images and clips cannot be mixed'),
                                 (har_predict, [tmp_path/'a.jpg', '--model', onnx], 'could not be read'),
                                 (har_predict, [tmp_path/'a.jpg', '--model', onnx, '--device', 'cuda'], 'runs on the CPU only'),
                                 (har_app, [tmp_path/'nowhere'], 'nowhere')):
        code, message = refuse(command, *argv)
        assert code == 2 and words in message, message


def test_former_names_of_options_are_accepted(tmp_path, refuse):
    code, message = refuse(har_train, '--data', tmp_path, '--recipe', 'repotr', '--packed', 'no', '--faithful', 0)
    assert code == 2 and 'repotr' in message
    code, message = refuse(har_predict, tmp_path/'*.gif', '--least', 1)
    assert code == 2 and 'gif' in message


def test_a_closed_pipe_is_no_error(trained):
    with start('har_predict', trained.data/'train', '--model', trained.run) as p:
        p.stdout.readline(); p.stdout.close() # as `| head -1` does
        err = p.stderr.read().decode()
    assert 'Traceback' not in err and 'Exception' not in err


# ---- data ----

def test_draw_and_check(tmp_path):
    drawn = call('har_draw', tmp_path/'d', '--n', 30, '--size', 32)
    assert drawn.returncode == 0 and len(list((tmp_path/'d'/'train').iterdir())) == 30, drawn.stderr
    checked = call('har_check', tmp_path/'d')
    assert checked.returncode == 0 and '30 images of 15 classes' in checked.stdout and 'cannot be used: 0' in checked.stdout
    assert plain(drawn.stdout + drawn.stderr + checked.stdout + checked.stderr)
    again = call('har_draw', tmp_path/'d', '--n', 30)
    assert again.returncode == 2 and 'not empty' in again.stderr and len(again.stderr.splitlines()) == 1


def test_download_without_kagglehub(tmp_path, refuse, monkeypatch):
    from har_fastai.cli import har_download
    monkeypatch.setitem(sys.modules, 'kagglehub', None)
    code, message = refuse(har_download, tmp_path/'d')
    assert code == 2 and 'kagglehub' in message and 'pip install' in message and not (tmp_path/'d').exists()
