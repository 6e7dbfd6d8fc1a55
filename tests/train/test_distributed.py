"Training in two processes on a CPU: the losses of one process, one writer, and a run that goes on after a process was killed"
import json, os, signal, subprocess, sys, time

import numpy as np
import pandas as pd
import pytest

from har_fastai.train.runs import Run
from helpers import ROOT, free_port
from interruptions import leftovers, same_runs, wait_for

pytest.importorskip('accelerate')
pytestmark = pytest.mark.slow('starts processes that train')
ENV = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
TWO = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', '2', '--master_port']
OPTIONS = ['--recipe', 'demo', '--size', 32, '--bs', 16, '--device', 'cpu', '--faithfulness', 0]

LOSSES = '''
import json, os, sys
import har_fastai.train.callbacks as callbacks
callbacks.native_bf16 = lambda: False
import torch
from fastai.callback.core import Callback
from har_fastai.core import train_baseline
from har_fastai.distributed import sum_all, world_size
class Double(Callback):
    order = -45
    def before_fit(self): self.model.double()
    def before_batch(self): self.learn.xb = (self.xb[0].double(),)
    def after_fit(self): self.model.float()
class Losses(Callback):
    order, run_valid = 95, False
    def before_fit(self): self.all, self.rows = [], []
    def after_batch(self):
        self.all.append(float(sum_all(self.loss.detach())) / world_size())
        self.rows.append(self.dls.train.batches[self.iter].tolist())
cb, (data, out) = Losses(), sys.argv[1:]
train_baseline(data, 'demo', out=out, device='cpu', size=32, bs=16, epochs=7, dropout=0., num_ops=2, erase=.25, faithfulness=0,
               cbs=[cb, Double()])
json.dump([cb.all, cb.rows], open(f'{out}-{os.environ.get("RANK", 0)}.json', 'w'))
'''


def launch(*args, **kwargs):
    "Start a command in two processes"
    return subprocess.Popen([*TWO, str(free_port()), *map(str, args)], env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            start_new_session=True, **kwargs)


def test_two_processes_compute_what_one_computes(drawn, tmp_path):
    "In 64 bits, since AdamW amplifies rounding; with augmentation, class weights and batch norms"
    script = tmp_path/'losses.py'
    script.write_text(LOSSES)
    subprocess.run([sys.executable, script, drawn, tmp_path/'one'], env=ENV, check=True, capture_output=True)
    p = launch(script, drawn, tmp_path/'two')
    out, err = p.communicate(timeout=300)
    assert p.returncode == 0, err.decode()[-2000:]
    (one, rows), (two, mine), (_, other) = (json.loads((tmp_path/f'{f}.json').read_text()) for f in ('one-0', 'two-0', 'two-1'))
    assert len(one) >= 20 and np.abs(np.subtract(one, two)).max() < 1e-4
    assert [r[0::2] for r in rows] == mine and [r[1::2] for r in rows] == other # each image of a batch in one of the processes
    a, b = (pd.read_csv(tmp_path/f/'history.csv').drop(columns='seconds') for f in ('one', 'two'))
    pd.testing.assert_frame_equal(a, b, atol=1e-4, rtol=0)
    assert Run(tmp_path/'two').info['processes'] == 2 and out.decode().count('Run folder') == 1


def test_a_process_is_killed_and_the_run_is_resumed(drawn, tmp_path, refuse):
    options = ['-m', 'har_fastai', 'train', '--data', drawn, *OPTIONS, '--epochs', 6]
    whole = launch(*options, '--out', tmp_path/'whole')
    out, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err.decode()[-2000:]
    p = launch(*options, '--out', tmp_path/'cut')
    wait_for(p, 'epoch 2/')
    children = subprocess.run(['pgrep', '-P', str(p.pid)], capture_output=True, text=True).stdout.split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    p.communicate(timeout=120)
    assert p.returncode != 0 and len(pd.read_csv(tmp_path/'cut'/'history.csv')) < 6
    from har_fastai.cli import har_train
    code, said = refuse(har_train, '--resume', '--out', tmp_path/'cut')
    assert code == 2 and 'begun by 2 processes' in said and '--num_processes 2' in said
    p = launch('-m', 'har_fastai', 'train', '--resume', '--out', tmp_path/'cut', '--faithfulness', 0)
    out, err = p.communicate(timeout=300)
    assert p.returncode == 0, err.decode()[-2000:]
    same_runs(tmp_path/'whole', tmp_path/'cut')
    assert leftovers(tmp_path/'cut') == []
