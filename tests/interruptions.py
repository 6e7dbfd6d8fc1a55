"Helpers for tests of interrupted runs: stop a run, fill a disk, compare two runs"
import os, resource, shutil, signal, subprocess, time
from contextlib import contextmanager, suppress

import pandas as pd
import pytest
from fastai.callback.core import Callback
from safetensors.torch import load_file

from har_fastai.predict.bundle import MEANS
from helpers import contents, unlike

TINY = dict(recipe='demo', size=32, bs=16, epochs=3, device='cpu', num_workers=0, faithfulness=0)


def history(folder): return pd.read_csv(folder/'history.csv').drop(columns='seconds')
def weights(folder): return {k: v for k, v in load_file(folder/'model.safetensors').items() if k != MEANS} # the network's


def leftovers(folder):
    "Names of temporary files"
    return sorted(f.name for f in folder.rglob('*') if f.name.endswith('.part') or f.name[0] == '.' and f.name != '.lock')


def wait_for(p, line:str):
    "Read the output of a command up to the line that begins with `line`"
    for got in iter(p.stdout.readline, b''):
        if got.decode().startswith(line): return time.perf_counter()
    pytest.fail(f'{line!r} was not printed: {p.stderr.read().decode()}')


def stop_in_epoch(p, folder, after:int):
    "Freeze a run in the middle of an epoch, at the earliest the one after epoch `after`; return the number of finished epochs"
    before = wait_for(p, f'epoch {after - 1}/')
    for epoch in range(after, 99):
        ends = wait_for(p, f'epoch {epoch}/')
        time.sleep((ends - before) / 2)
        os.kill(p.pid, signal.SIGSTOP)
        if len(pd.read_csv(folder/'history.csv')) == epoch: return epoch
        before = ends; os.kill(p.pid, signal.SIGCONT) # the epoch had already ended


def same_runs(a, b) -> None:
    "Assert that two runs ended with bit-identical results"
    assert unlike(weights(a), weights(b)) == []
    pd.testing.assert_frame_equal(history(a), history(b), check_exact=True)
    last = [load_file(f/'checkpoint'/'last.safetensors') for f in (a, b)]
    assert unlike(*last) == [], 'the best epoch is the same, the last one is not'
    assert (a/'metrics.json').read_text() == (b/'metrics.json').read_text()
    assert leftovers(a) == []


class Stop(Callback):
    "Interrupt a run as Ctrl-C does, after a batch of an epoch (both from 0)"
    order, run_valid = -30, False
    def __init__(self, epoch=0, batch=0): self.epoch_, self.batch_ = epoch, batch
    def after_batch(self):
        if (self.epoch, self.iter) == (self.epoch_, self.batch_): raise KeyboardInterrupt


class Poison(Callback):
    "Make the loss NaN from an epoch on"
    order, run_valid = -30, False
    def __init__(self, epoch): self.epoch_ = epoch
    def after_pred(self):
        if self.epoch >= self.epoch_: self.learn.pred = self.pred * float('nan')


@contextmanager
def file_limit(n:int):
    "Limit the size of files to n bytes, which simulates a full disk"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, hard))
    try: yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class FillDisk(Callback):
    "Call `fill` before an epoch, and keep the contents of the checkpoint folder"
    order = -30
    def __init__(self, epoch, folder, fill): self.epoch_, self.folder, self.fill = epoch, folder, fill
    def before_epoch(self):
        if self.epoch == self.epoch_: self.kept = contents(self.folder/'checkpoint'); self.fill()


@contextmanager
def mounted(folder, *args):
    "A mount at `folder`; the test is skipped if that is not allowed"
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0 or not shutil.which('mount'): pytest.skip('mounting a file system needs root and the command mount')
    done = subprocess.run(['mount', *map(str, args), str(folder)], capture_output=True, text=True)
    if done.returncode: pytest.skip(f'mounting a file system is not allowed: {done.stderr.strip()}')
    try: yield folder
    finally: subprocess.run(['umount', '-l', str(folder)], check=True)


@contextmanager
def sealed(folder):
    "A read-only folder: by its permissions, or, since root ignores them, by a mount"
    if os.geteuid() == 0:
        with mounted(folder, '--bind', folder):
            subprocess.run(['mount', '-o', 'remount,ro,bind', str(folder)], check=True)
            yield
        return
    modes = {f: f.stat().st_mode for f in [folder, *folder.rglob('*')]}
    for f, mode in modes.items(): f.chmod(mode & ~0o222)
    try: yield
    finally:
        for f, mode in modes.items(): f.chmod(mode)


def small_disk(folder, megabytes:int):
    "A file system of `megabytes` MB at `folder`"
    return mounted(folder, '-t', 'tmpfs', '-o', f'size={megabytes}m', 'tmpfs')


def fill(folder, leave:int) -> None:
    "Fill the file system of `folder`, except for `leave` bytes"
    free = shutil.disk_usage(folder).free - leave
    with suppress(OSError), open(folder/'filler', 'wb') as f: f.write(bytes(max(0, free)))
