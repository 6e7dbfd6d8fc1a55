"A kill, a full disk, a NaN or a second run never costs what was reached, and a run can be repeated bit for bit"
import os, resource, signal, time
from contextlib import contextmanager, suppress

import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from safetensors.torch import load_file, save_file

from har_fastai import cli
from har_fastai.core import prepare, recipe_dls, train_baseline
from har_fastai.files import RunError, lock_folder
from har_fastai.inference import Predictor
from har_fastai.loaders import PackedDL
from har_fastai.models import BaselineCNN
from har_fastai.runs import find_recipe
from helpers import run, start, unlike


def history(folder): return pd.read_csv(folder/'history.csv').drop(columns='seconds')
def weights(folder): return load_file(folder/'model.safetensors')
def leftovers(folder): return sorted(f.name for f in folder.rglob('*') if f.name.endswith('.part') or f.name.startswith('.') and f.name != '.lock')


def wait_for(p, line:str):
    "Read the output of a command up to the line that begins with `line`"
    for got in iter(p.stdout.readline, b''):
        if got.decode().startswith(line): return time.perf_counter()
    pytest.fail(f'{line!r} never came: {p.stderr.read().decode()}')


def stop_in_epoch(p, folder, after:int):
    "Freeze a run in the middle of an epoch, at the earliest the one that follows epoch `after`; gives the number of whole epochs"
    before = wait_for(p, f'epoch {after - 1}/')
    for epoch in range(after, 99):
        ends = wait_for(p, f'epoch {epoch}/')
        time.sleep((ends - before) / 2)
        os.kill(p.pid, signal.SIGSTOP)
        if len(pd.read_csv(folder/'history.csv')) == epoch: return epoch
        before = ends; os.kill(p.pid, signal.SIGCONT) # the epoch ended before we struck


def same_as_whole(out, trained):
    "Whether a resumed run ended as the one that was never interrupted"
    assert unlike(weights(out), weights(trained.run)) == []
    pd.testing.assert_frame_equal(history(out), history(trained.run), check_exact=True)
    last = [load_file(f/'checkpoint'/'last.safetensors') for f in (out, trained.run)]
    assert unlike(*last) == [], 'the best epoch is the same, the last one is not'
    assert (out/'metrics.json').read_text() == (trained.run/'metrics.json').read_text()
    assert leftovers(out) == []


def test_killed_after_the_first_epoch(trained, tmp_path):
    out = tmp_path/'run'
    with start('har_train', '--data', trained.data, '--out', out, *trained.options) as p:
        try:
            wait_for(p, 'epoch 1/')
            while not (out/'checkpoint'/'last.safetensors').exists(): assert p.poll() is None; time.sleep(.001) # the line comes a moment earlier
        finally: p.kill() # SIGKILL: no code of the command runs after it
    assert p.returncode == -signal.SIGKILL and not (out/'model.json').exists()
    assert len(history(out)) < trained.epochs
    done = run('har_train', '--resume', '--out', out, '--device', 'cpu', '--workers', 0)
    assert done.returncode == 0, done.stderr
    assert not [l for l in done.stdout.splitlines() if l.startswith('epoch 1/')], 'it began again'
    same_as_whole(out, trained)


def test_killed_in_mid_epoch_beside_a_second_run(trained, tmp_path, refuse):
    out = tmp_path/'run'
    with start('har_train', '--data', trained.data, '--out', out, *trained.options) as p:
        try:
            epochs = stop_in_epoch(p, out, 2)
            code, told = refuse(cli.har_train, '--resume', '--out', out, '--device', 'cpu') # frozen, but alive: the folder is taken
            assert code == 2 and 'in use' in told and str(out) in told
            code, told = refuse(cli.har_train, '--data', trained.data, '--out', out, *trained.options)
            assert code == 2 and str(out) in told
            assert epochs < trained.epochs and len(history(out)) == epochs
        finally: p.kill()
    (out/'checkpoint'/'.last.safetensors.k5jlnsd0.part').write_bytes(b'as a kill in the middle of a write leaves it')
    assert not (out/'model.json').exists()
    code, told = refuse(cli.har_predict, trained.data/'test', '--model', out)
    assert code == 2 and 'not finished' in told and '--resume' in told
    done = run('har_train', '--resume', '--out', out, '--device', 'cpu', '--workers', 0)
    assert done.returncode == 0, done.stderr
    same_as_whole(out, trained)


def test_killed_before_the_first_checkpoint(trained, tmp_path):
    out = tmp_path/'run'
    with start('har_train', '--data', trained.data, '--out', out, *trained.options) as p:
        try:
            while not (out/'recipe.json').exists(): assert p.poll() is None; time.sleep(.01)
        finally: p.kill()
    assert not (out/'checkpoint'/'last.safetensors').exists()
    done = run('har_train', '--resume', '--out', out, '--device', 'cpu', '--workers', 0)
    assert done.returncode == 0, done.stderr
    same_as_whole(out, trained)


def test_a_finished_run_is_not_written_over(trained, refuse):
    before = {f: f.read_bytes() for f in trained.run.rglob('*') if f.is_file()}
    code, told = refuse(cli.har_train, '--data', trained.data, '--out', trained.run, *trained.options)
    assert code == 2 and 'already holds a run' in told and '--resume' in told
    assert {f: f.read_bytes() for f in trained.run.rglob('*') if f.is_file()} == before


def test_resume_needs_a_run_and_its_own_recipe(trained, tmp_path, refuse):
    code, told = refuse(cli.har_train, '--resume', '--out', tmp_path/'nothing')
    assert code == 2 and 'nothing' in told and not (tmp_path/'nothing').exists()
    code, told = refuse(cli.har_train, '--resume', '--out', trained.run, '--epochs', 9)
    assert code == 2 and 'recipe' in told


def test_resume_notices_changed_pictures(trained, tmp_path, refuse):
    import shutil
    run_, data = tmp_path/'run', tmp_path/'data'
    shutil.copytree(trained.run, run_); shutil.copytree(trained.data, data)
    shutil.copy(data/'train'/'Image_2.jpg', data/'train'/'Image_1.jpg')
    code, told = refuse(cli.har_train, '--resume', '--out', run_, '--data', data, '--device', 'cpu')
    assert code == 2 and 'Image_1.jpg' in told and 'changed' in told


def test_the_lock_of_a_dead_owner_does_not_hold(tmp_path):
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException), lock_folder(tmp_path): os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL and (tmp_path/'.lock').exists()
    with lock_folder(tmp_path): pass


# ---- losses that are no numbers (faults 29, 30) ----

class Poison(Callback):
    "Make the loss NaN from an epoch on"
    order, run_valid = -30, False
    def __init__(self, epoch): self.epoch_ = epoch
    def after_pred(self):
        if self.epoch >= self.epoch_: self.learn.pred = self.pred * float('nan')


TINY = dict(recipe='demo', size=32, bs=16, epochs=3, device='cpu', num_workers=0)


def test_nan_keeps_the_best_network(trained, tmp_path):
    with pytest.raises(RunError) as e: train_baseline(trained.data, out=tmp_path/'run', cbs=[Poison(2)], **TINY)
    told = str(e.value)
    assert e.value.code == 1 and 'nan' in told and 'epoch 3' in told and str(tmp_path/'run') in told
    rows = history(tmp_path/'run')
    assert len(rows) == 2 and f'of epoch {rows.valid_macro_f1.idxmax() + 1}' in told
    kept = weights(tmp_path/'run')
    assert all(torch.isfinite(v).all() for v in kept.values())
    assert unlike(kept, load_file(tmp_path/'run'/'checkpoint'/'best.safetensors')) == []
    assert len(Predictor(tmp_path/'run').vocab) == 15
    assert all(torch.isfinite(v).all() for v in load_file(tmp_path/'run'/'checkpoint'/'last.safetensors').values())


def test_nan_is_told_in_one_sentence(trained, tmp_path):
    with pytest.raises(RunError) as e: train_baseline(trained.data, out=tmp_path/'run', cbs=[Poison(0)], **TINY)
    assert len(str(e.value).splitlines()) == 1 and 'Exception' not in str(e.value), str(e.value)


def test_nan_in_the_first_epoch_touches_no_other_run(trained, tmp_path):
    before = {f: f.read_bytes() for f in trained.run.rglob('*') if f.is_file()}
    with pytest.raises(RunError, match='epoch 1'): train_baseline(trained.data, out=tmp_path/'run', cbs=[Poison(0)], **TINY)
    assert not (tmp_path/'run'/'model.safetensors').exists()
    assert {f: f.read_bytes() for f in trained.run.rglob('*') if f.is_file()} == before


def test_nan_at_the_command_line(trained, tmp_path, refuse):
    huge = {k: v * 1e30 if v.is_floating_point() else v for k, v in BaselineCNN(15).state_dict().items()} # finite, but their products are not
    save_file(huge, tmp_path/'huge.safetensors')
    code, told = refuse(cli.har_train, '--data', trained.data, '--out', tmp_path/'run', '--weights', tmp_path/'huge.safetensors', *trained.options)
    assert code == 1 and 'loss became' in told and 'epoch 1' in told and str(tmp_path/'run') in told


# ---- repeating a run (fault 37) ----

@pytest.mark.parametrize('workers', [0, 2])
def test_the_same_seed_gives_the_same_bits(trained, tmp_path, workers):
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        train_baseline(trained.data, out=tmp_path/name, seed=seed, **{**TINY, 'epochs': 1, 'num_workers': workers, 'num_ops': 2, 'erase': .5})
        torch.rand(7) # what happens between two runs must not matter
    assert unlike(weights(tmp_path/'a'), weights(tmp_path/'b')) == []
    pd.testing.assert_frame_equal(history(tmp_path/'a'), history(tmp_path/'b'), check_exact=True)
    assert unlike(weights(tmp_path/'a'), weights(tmp_path/'c')) != [], 'the seed decides nothing'


# ---- a full disk (fault 31) ----

@contextmanager
def file_limit(n:int):
    "No file may grow beyond n bytes, as on a disk that is full"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, hard))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class FillDisk(Callback):
    "Let the disk be full from an epoch on, and remember what was there before"
    order = -30
    def __init__(self, epoch, folder): self.epoch_, self.folder = epoch, folder
    def before_epoch(self):
        if self.epoch != self.epoch_: return
        self.kept = {f: f.read_bytes() for f in (self.folder/'checkpoint').iterdir()}
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_a_full_disk_leaves_the_old_checkpoint(trained, tmp_path):
    out, fill = tmp_path/'run', FillDisk(2, tmp_path/'run')
    with file_limit(resource.getrlimit(resource.RLIMIT_FSIZE)[0]):
        with pytest.raises(RunError) as e: train_baseline(trained.data, out=out, cbs=[fill], **TINY)
    kept = fill.kept
    assert {f: f.read_bytes() for f in kept} == kept and {f.name for f in kept} == {'best.safetensors', 'last.safetensors'}
    assert e.value.code == 1 and 'too large' in str(e.value) and str(out) in str(e.value) and len(str(e.value).splitlines()) == 1, str(e.value)
    assert leftovers(out) == []
    train_baseline(out=out, resume=True, device='cpu', num_workers=0)
    train_baseline(trained.data, out=tmp_path/'whole', **TINY)
    assert unlike(weights(out), weights(tmp_path/'whole')) == []
    pd.testing.assert_frame_equal(history(out), history(tmp_path/'whole'), check_exact=True)


def test_a_cache_on_a_full_disk_is_done_without(trained, tmp_path, monkeypatch):
    monkeypatch.setenv('HAR_FASTAI_CACHE', str(tmp_path/'cache'))
    df, recipe = prepare(trained.data, 'grouped', 42), find_recipe('demo', size=32, bs=8)
    with file_limit(100_000), pytest.warns(UserWarning, match='cannot be kept'):
        dls = recipe_dls(df, recipe, torch.device('cpu'), 0)
    assert not isinstance(dls.train, PackedDL) and len(dls.train.one_batch()[0]) == 8
    assert [f for f in (tmp_path/'cache').rglob('*') if f.is_file()] == []
    assert isinstance(recipe_dls(df, recipe, torch.device('cpu')).train, PackedDL) # and once there is room, it's used


def test_ctrl_c_is_one_line(trained, tmp_path):
    def listen(): signal.signal(signal.SIGINT, signal.SIG_DFL) # a job in the background of a shell ignores it
    with start('har_train', '--data', trained.data, '--out', tmp_path/'run', *trained.options, preexec_fn=listen) as p:
        try: wait_for(p, 'epoch 1/'); p.send_signal(signal.SIGINT); err = p.communicate(timeout=60)[1].decode()
        finally: p.kill()
    lines = [l for l in err.splitlines() if not l.startswith('note: ')]
    assert p.returncode == 130 and len(lines) == 1 and 'interrupted' in lines[0], err
