"Fixtures of the fault cases: their context, and one data set with every kind of broken image"
import contextlib, csv, io, json, warnings
from types import SimpleNamespace

import numpy as np
import pytest

from broken_images import UNREADABLE, make
from har_fastai import cli
from helpers import dataset, write_table
from registry import Context


@pytest.fixture
def context(request, tmp_path): return Context(request, tmp_path)


@pytest.fixture(scope='session')
def broken_run(shared):
    "A data set with every kind of broken image, trained on and scored: which files were broken, and which were used"
    made = shared('broken_run', train_on_broken_images)
    return SimpleNamespace(bad={k: set(v) for k, v in made['bad'].items()}, used=set(made['used']), stderr=made['stderr'])


def train_on_broken_images(tmp) -> dict:
    data, err = dataset(tmp/'d'), io.StringIO()
    bad = {fault: [make(data/'train'/f'bad_{i}', fault).name] for i, fault in enumerate(UNREADABLE)}
    rows = [*csv.reader(open(data/'Training_set.csv'))][1:]
    write_table(data/'Training_set.csv', rows + [(b, 'sitting') for names in bad.values() for b in names])
    train = ['--data', data, '--out', tmp/'run', '--recipe', 'demo', '--size', 32, '--bs', 32, '--epochs', 1, '--device', 'cpu',
             '--faithfulness', 0]
    score = [tmp/'run', '--data', data, '--split', 'all', '--report', 'no', '--json', tmp/'all.json']
    with warnings.catch_warnings(), contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('always')
        cli.har_train([*map(str, train)])
        cli.har_evaluate([*map(str, score)])
    assert f'set aside: {len(bad)} of {24 + len(bad)}' in err.getvalue() and 'bad_0' in err.getvalue()
    assert json.loads((tmp/'all.json').read_text())['n'] == 24
    [epoch] = csv.DictReader(open(tmp/'run'/'history.csv'))
    assert np.isfinite([float(v) for v in epoch.values()]).all()
    return dict(bad=bad, used=[r['filename'] for r in csv.DictReader(open(tmp/'run'/'split.csv'))], stderr=err.getvalue())
