"After a kill, a full disk, a NaN or a second run, finished work is kept; a resumed run equals an uninterrupted one bit for bit"
import os, shutil, signal, subprocess, sys, time
from contextlib import suppress

import pytest
import torch
from fastai.callback.core import Callback
from safetensors.torch import save_file

from har_fastai import cli
from har_fastai.core import load_run, resume_run, train_baseline
from har_fastai.data import loaders
from har_fastai.data.loaders import CachedDL
from har_fastai.drawing.dataset import draw_har
from har_fastai.files import RunError, lock_folder
from har_fastai.models import BaselineCNN
from har_fastai.predict.predictor import Predictor
from har_fastai.testing import tiny_har
from helpers import call, contents, start
from interruptions import TINY, FillDisk, Poison, Stop, fill, history, leftovers, same_runs, small_disk, wait_for

RESUME = dict(resume=True, device='cpu', num_workers=0, faithfulness=0)


# ---- kills ----

def test_killed_after_the_first_epoch(trained, tmp_path):
    out = tmp_path/'run'
    with start('har_train', '--data', trained.data, '--out', out, *trained.options) as p:
        try:
            wait_for(p, 'epoch 1/')
            while not (out/'checkpoint'/'last.safetensors').exists(): assert p.poll() is None; time.sleep(.001) # the line comes first
        finally: p.kill() # SIGKILL: no code of the command runs after it
    assert p.returncode == -signal.SIGKILL and not (out/'model.json').exists()
    assert len(history(out)) < trained.epochs
    done = call('har_train', '--resume', '--out', out, '--device', 'cpu', '--workers', 0)
    assert done.returncode == 0, done.stderr
    assert not [l for l in done.stdout.splitlines() if l.startswith('epoch 1/')], 'training started again from the first epoch'
    same_runs(out, trained.run)


def test_killed_before_the_first_checkpoint(trained, tmp_path):
    out = tmp_path/'run'
    with start('har_train', '--data', trained.data, '--out', out, *trained.options) as p:
        try:
            while not (out/'recipe.json').exists(): assert p.poll() is None; time.sleep(.01)
        finally: p.kill()
    assert not (out/'checkpoint'/'last.safetensors').exists()
    done = call('har_train', '--resume', '--out', out, '--device', 'cpu', '--workers', 0)
    assert done.returncode == 0, done.stderr
    same_runs(out, trained.run)


def test_ctrl_c_is_one_line(trained, tmp_path):
    def accept_sigint(): signal.signal(signal.SIGINT, signal.SIG_DFL) # a background job of a shell ignores it
    with start('har_train', '--data', trained.data, '--out', tmp_path/'run', *trained.options, preexec_fn=accept_sigint) as p:
        try: wait_for(p, 'epoch 1/'); p.send_signal(signal.SIGINT); err = p.communicate(timeout=60)[1].decode()
        finally: p.kill()
    lines = [l for l in err.splitlines() if not l.startswith('note: ')]
    assert p.returncode == 130 and len(lines) == 1 and 'interrupted' in lines[0], err


# ---- protection of run folders ----

def test_a_finished_run_is_not_overwritten(trained, refuse):
    before = contents(trained.run)
    code, message = refuse(cli.har_train, '--data', trained.data, '--out', trained.run, *trained.options)
    assert code == 2 and 'already holds a run' in message and '--resume' in message
    assert contents(trained.run) == before


def test_resume_needs_a_run_and_its_own_recipe(trained, tmp_path, refuse):
    code, message = refuse(cli.har_train, '--resume', '--out', tmp_path/'nothing')
    assert code == 2 and 'nothing' in message and not (tmp_path/'nothing').exists()
    code, message = refuse(cli.har_train, '--resume', '--out', trained.run, '--epochs', 9)
    assert code == 2 and 'recipe' in message


def test_a_run_in_the_home_folder_is_found(trained, monkeypatch):
    monkeypatch.setenv('HOME', str(trained.run.parent))
    folder = f'~/{trained.run.name}'
    assert resume_run(folder, None, [])[0].path == trained.run
    assert load_run(folder, device='cpu').run.path == trained.run


def test_resume_notices_changed_images(trained, tmp_path, refuse):
    run, data = shutil.copytree(trained.run, tmp_path/'run'), shutil.copytree(trained.data, tmp_path/'data')
    shutil.copy(data/'train'/'Image_2.jpg', data/'train'/'Image_1.jpg')
    code, message = refuse(cli.har_train, '--resume', '--out', run, '--data', data, '--device', 'cpu')
    assert code == 2 and 'Image_1.jpg' in message and 'changed' in message


def test_the_lock_of_a_killed_process_is_released(tmp_path):
    pid = os.fork()
    if pid == 0:
        with suppress(BaseException), lock_folder(tmp_path): os.kill(os.getpid(), signal.SIGKILL)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL and (tmp_path/'.lock').exists()
    with lock_folder(tmp_path): pass


# ---- a loss of NaN ----

def test_nan_is_reported_in_one_sentence(trained, tmp_path):
    with pytest.raises(RunError) as e: train_baseline(trained.data, out=tmp_path/'run', cbs=[Poison(0)], **TINY)
    assert len(str(e.value).splitlines()) == 1 and 'Exception' not in str(e.value), str(e.value)


def test_nan_at_the_command_line(trained, tmp_path, refuse):
    weights = BaselineCNN(15).state_dict()
    huge = {k: v * 1e30 if v.is_floating_point() else v for k, v in weights.items()} # finite, but their products overflow
    save_file(huge, tmp_path/'huge.safetensors')
    code, message = refuse(cli.har_train, '--data', trained.data, '--out', tmp_path/'run', '--weights', tmp_path/'huge.safetensors',
                           *trained.options)
    assert code == 1 and 'loss became' in message and 'epoch 1' in message and str(tmp_path/'run') in message


# ---- a resumed run equals an uninterrupted one ----

WAYS = {'decoded once': {}, 'one by one': dict(cached=False), 'one by one, 2 workers': dict(cached=False, num_workers=2),
        'averaged after a probe': dict(probe=True, ema=.998)}


@pytest.mark.parametrize('way', WAYS)
def test_a_resumed_run_equals_an_uninterrupted_one(trained, tmp_path, way):
    kw = {**TINY, 'num_ops': 2, 'erase': .5, **WAYS[way]}
    train_baseline(trained.data, out=tmp_path/'whole', **kw)
    with pytest.raises(KeyboardInterrupt): train_baseline(trained.data, out=tmp_path/'run', cbs=[Stop(epoch=1, batch=1)], **kw)
    assert len(history(tmp_path/'run')) == 1
    train_baseline(out=tmp_path/'run', **{**RESUME, 'num_workers': kw['num_workers']})
    same_runs(tmp_path/'run', tmp_path/'whole')


# ---- a full disk: a small file system of its own ----

def test_a_small_disk_fills_up_while_saving(trained, tiny_run, tmp_path):
    with small_disk(tmp_path/'disk', 60) as disk:
        out = disk/'run'; full = FillDisk(2, out, lambda: fill(disk, 1_000_000))
        with pytest.raises(RunError) as e: train_baseline(trained.data, out=out, cbs=[full], **TINY)
        message = str(e.value)
        assert not [w for w in ('No space left', 'free space', str(out), '--resume') if w not in message], message
        assert len(message.splitlines()) == 1
        assert {f: f.read_bytes() for f in full.kept} == full.kept and leftovers(out) == []
        (disk/'filler').unlink()
        train_baseline(out=out, **RESUME)
        same_runs(out, tiny_run)


def test_a_small_disk_fills_up_at_the_end_of_a_run(trained, tmp_path):
    class Late(Callback):
        order = 99
        def after_fit(self): fill(disk, 100_000) # the checkpoints are saved, the model is not yet
    with small_disk(tmp_path/'disk', 60) as disk:
        out = disk/'run'
        with pytest.raises(RunError, match='No space left.*free space.*--resume'):
            train_baseline(trained.data, out=out, cbs=[Late()], **TINY)
        assert not (out/'model.json').exists() and leftovers(out) == []
        (disk/'filler').unlink()
        train_baseline(out=out, **RESUME)
        assert len(Predictor(out).vocab) == 15


def test_training_works_without_space_for_a_cache(trained, tmp_path, monkeypatch):
    with small_disk(tmp_path/'disk', 1) as disk:
        fill(disk, 300_000); monkeypatch.setenv('HAR_FASTAI_CACHE', str(disk/'cache'))
        with pytest.warns(UserWarning, match='No space left.*free space there'):
            learn = train_baseline(trained.data, out=tmp_path/'run', **{**TINY, 'epochs': 1})
        assert not isinstance(learn.dls.train, CachedDL) and [*(disk/'cache'/'packs').iterdir()] == []


LIMITED = '''
import resource, sys
from har_fastai.core import train_baseline
used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 10**9,) * 2)
from har_fastai.cli import har_train
har_train(sys.argv[1:])
'''


@pytest.mark.skipif(sys.platform != 'linux', reason='limits the address space as Linux does')
def test_a_batch_that_does_not_fit_into_memory(tmp_path):
    "One sentence says what to change, and no traceback"
    data = draw_har(tmp_path/'har', n=300, size=64)
    options = ['--data', data, '--recipe', 'demo', '--size', '1024', '--bs', '240', '--device', 'cpu', '--out', tmp_path/'run']
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', LIMITED, *map(str, options)], capture_output=True, text=True, timeout=300)
    assert done.returncode and 'Traceback' not in done.stderr, done.stderr[-2000:]
    assert 'too little memory: use a smaller --bs or --size' in done.stderr and 'holds no model yet' in done.stderr


@pytest.mark.parametrize('error, advice', [
    (RuntimeError('DataLoader worker (pid 7) is killed by signal: Bus error. It may be out of shared memory.'), '--workers 0'),
    (RuntimeError('DataLoader worker (pid(s) 7) exited unexpectedly'), '--workers 0'), (MemoryError('here'), '--bs'),
    (torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 20 GiB.'), '--bs'), (OSError(24, 'Too many open files'), 'ulimit'),
    (RuntimeError("can't start new thread"), '--workers 0'), (OSError(28, 'No space left on device'), 'free space')])
def test_errors_of_resources_say_what_to_change(tmp_path, error, advice):
    "An error that PyTorch or the system raises in training becomes one sentence; the best model so far is kept"
    class Fail(Callback):
        def before_batch(self):
            if self.training and self.epoch == 1: raise error
    with pytest.raises(RunError) as e:
        train_baseline(tiny_har(150), 'demo', size=32, epochs=3, out=tmp_path/'run', cbs=Fail(), device='cpu', faithfulness=0)
    assert advice in str(e.value) and 'keeps the best model so far; continue' in str(e.value) and '\n' not in str(e.value)
    assert len(train_baseline(out=tmp_path/'run', resume=True, faithfulness=0).run.history) == 3


def test_other_errors_are_not_hidden(tmp_path):
    class Fail(Callback):
        def before_batch(self): raise RuntimeError('a fault of a callback')
    with pytest.raises(RuntimeError, match='a fault of a callback') as e:
        train_baseline(tiny_har(150), 'demo', size=32, epochs=1, out=tmp_path/'run', cbs=Fail(), device='cpu', faithfulness=0)
    assert not isinstance(e.value, RunError)


def test_images_leave_a_gpu_that_runs_out_of_memory(tmp_path, monkeypatch, capsys):
    "Training goes on from the last complete epoch; the second time, one sentence says what to change"
    class Full(Callback):
        def __init__(self, times): self.times = times
        def before_batch(self):
            if self.training and self.epoch == 1 and self.times:
                self.times -= 1
                raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 20 GiB.')
    monkeypatch.setattr(loaders, '_on_gpu', lambda cache, device: torch.from_numpy(cache.pixels).view(-1, 3)) # as if it were there
    kw = dict(size=32, epochs=3, device='cpu', faithfulness=0)
    learn = train_baseline(tiny_har(150), 'demo', out=tmp_path/'run', cbs=Full(1), **kw)
    assert learn.dls.train.pixels is None and list(learn.run.history.index) == [0, 1, 2]
    assert capsys.readouterr().out.count('the images move to main memory') == 1
    with pytest.raises(RunError, match='too little memory: use a smaller --bs or --size.*keeps the best model so far'):
        train_baseline(tiny_har(150), 'demo', out=tmp_path/'again', cbs=Full(2), **kw)
    assert capsys.readouterr().out.count('the images move to main memory') == 1
