"Fixtures of all tests"
import os, tempfile
from types import SimpleNamespace

os.environ['MPLBACKEND'] = 'Agg'
os.environ['OMP_NUM_THREADS'] = '1' # the same sums in this process as in the commands that tests start

_cache = tempfile.TemporaryDirectory(prefix='har-cache-') # the tests' packs and samples, gone when they end
os.environ['HAR_FASTAI_CACHE'] = _cache.name

import pytest

from helpers import run

EPOCHS = 4
OPTIONS = ['--recipe', 'demo', '--size', 32, '--bs', 8, '--epochs', EPOCHS, '--device', 'cpu', '--workers', 0, '--faithful', 4]


@pytest.fixture(scope='session')
def drawn(tmp_path_factory):
    "90 drawings of the 15 actions"
    from har_fastai.drawing.dataset import draw_har
    return draw_har(tmp_path_factory.mktemp('drawn')/'har', n=90, size=64, test=4)


@pytest.fixture(scope='session')
def trained(drawn, tmp_path_factory):
    "A run of `har_train` in a process of its own, never interrupted: its folder, its data and what it printed"
    out = tmp_path_factory.mktemp('runs')/'whole'
    done = run('har_train', '--data', drawn, '--out', out, *OPTIONS)
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(run=out, data=drawn, out=done.stdout, err=done.stderr, epochs=EPOCHS, options=OPTIONS)


@pytest.fixture
def refuse(capsys):
    "Call a command that must refuse with one sentence; gives the exit code and the sentence"
    def check(command, *argv):
        capsys.readouterr()
        with pytest.raises(SystemExit) as e: command([str(a) for a in argv])
        err = capsys.readouterr().err
        lines = [l for l in err.splitlines() if not l.startswith('note: ')]
        assert len(lines) == 1 and 'Traceback' not in err, err
        return e.value.code, lines[0]
    return check
