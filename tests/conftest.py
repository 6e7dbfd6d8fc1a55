"""Fixtures of all tests, and the summary of the tests that are deselected

`pytest -n 2` runs the tests in two processes ("workers"). What is expensive to make, such as a trained run, is made by the first worker
that needs it; the others wait for it and read the same files, so a test must not change them."""
import collections, functools, http.server, importlib.util, json, os, shutil, tempfile, threading
from pathlib import Path
from types import SimpleNamespace

os.environ['MPLBACKEND'] = 'Agg'
os.environ['OMP_NUM_THREADS'] = '1' # the same sums in this process as in the commands that tests start

if 'PYTEST_XDIST_WORKER' not in os.environ: # workers share the cache folder of the process that starts them
    _cache = tempfile.TemporaryDirectory(prefix='har-cache-')
    os.environ['HAR_FASTAI_CACHE'] = _cache.name

import pytest
from filelock import FileLock

from helpers import chromium, run

EPOCHS = 4
OPTIONS = ['--recipe', 'demo', '--size', 32, '--bs', 8, '--epochs', EPOCHS, '--device', 'cpu', '--workers', 0, '--faithfulness', 4]


@pytest.fixture(scope='session')
def shared(tmp_path_factory):
    "`shared(name, make)`: call `make(folder)` in the first worker that needs it, and return its JSON-serialisable value in all of them"
    base = tmp_path_factory.getbasetemp()
    home = (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base)/'shared'
    home.mkdir(exist_ok=True)
    def once(name, make):
        value = home/f'{name}.json'
        with FileLock(home/f'{name}.lock'):
            if not value.exists():
                folder = home/name
                shutil.rmtree(folder, ignore_errors=True) # left by a worker that failed
                folder.mkdir()
                value.write_text(json.dumps(make(folder)), encoding='utf-8')
        return json.loads(value.read_text(encoding='utf-8'))
    return once


@pytest.fixture(scope='session')
def drawn(shared):
    "Folder of 90 synthetic samples of the 15 actions, and 4 without a label"
    from har_fastai.drawing.dataset import draw_har
    return Path(shared('drawn', lambda to: str(draw_har(to/'har', n=90, size=64, test=4))))


@pytest.fixture(scope='session')
def trained(drawn, shared):
    "A finished run of `har_train` in a process of its own: its folder, its data set, its options and its output"
    def train(to):
        done = run('har_train', '--data', drawn, '--out', to/'whole', *OPTIONS)
        assert done.returncode == 0, done.stderr
        return dict(run=str(to/'whole'), out=done.stdout, err=done.stderr)
    made = shared('trained', train)
    return SimpleNamespace(run=Path(made['run']), data=drawn, out=made['out'], err=made['err'], epochs=EPOCHS, options=OPTIONS)


@pytest.fixture(scope='session')
def tiny_run(drawn, shared):
    "Folder of a finished run with the options `TINY` of `interruptions`, which was never interrupted"
    def train(to):
        from har_fastai.core import train_baseline
        from interruptions import TINY
        train_baseline(drawn, out=to/'run', **TINY)
        return str(to/'run')
    return Path(shared('tiny_run', train))


@pytest.fixture
def refuse(capsys):
    "`refuse(command, *argv)`: call a command that must fail with one sentence on standard error; return its exit code and that sentence"
    def check(command, *argv):
        capsys.readouterr()
        with pytest.raises(SystemExit) as e: command([str(a) for a in argv])
        err = capsys.readouterr().err
        lines = [l for l in err.splitlines() if not l.startswith('note: ')]
        assert len(lines) == 1 and 'Traceback' not in err, err
        return e.value.code, lines[0]
    return check


@pytest.fixture(scope='module')
def browser():
    "A Chromium; its scope is a module because Playwright keeps an event loop running in this thread"
    if importlib.util.find_spec('playwright') is None: pytest.skip('playwright is not installed')
    if not chromium(): pytest.skip('Chromium is not installed')
    from playwright.sync_api import sync_playwright
    args = ('--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update '
            '--disable-sync --use-fake-device-for-media-stream --use-fake-ui-for-media-stream').split()
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium(), args=args)
        yield b
        b.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


@pytest.fixture
def serve():
    "`serve(folder)`: the address of a server for its files, and the server"
    servers = []
    def start(folder):
        servers.append(s := http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(_Quiet, directory=str(folder))))
        threading.Thread(target=s.serve_forever, daemon=True).start()
        return f'http://127.0.0.1:{s.server_port}/', s
    yield start
    for s in servers: s.shutdown(); s.server_close()


# ---- tests deselected by `-m "not slow"` ----

_left_out = collections.Counter() # reason of the marker `slow` -> number of tests


def pytest_deselected(items):
    for item in items:
        if mark := item.get_closest_marker('slow'): _left_out[mark.args[0]] += 1


def pytest_sessionfinish(session):
    if hasattr(session.config, 'workeroutput'): session.config.workeroutput['left_out'] = dict(_left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    "Every worker deselects the same tests, so only those of one are counted"
    if not _left_out: _left_out.update(getattr(node, 'workeroutput', {}).get('left_out', {}))


def pytest_terminal_summary(terminalreporter):
    if not _left_out: return
    terminalreporter.section('left out (make test-all runs them)')
    for reason, n in sorted(_left_out.items()): terminalreporter.line(f'{n:4} {reason}')
