"What the cases of the 40 faults share, and the record of what happened"
import contextlib, csv, io, json, os, warnings
from types import SimpleNamespace

import numpy as np
import pytest

from broken import UNREADABLE, make
from har_fastai import cli
from helpers import NBS, dataset, write_table
from rows import ROWS, Bench

PAGE = NBS/'promises.json'
HAPPENED = {} # number -> what this session's tests saw
WRITE = os.environ.get('HAR_PROMISES') == 'write' # then the page's figures are made anew


@pytest.fixture
def bench(request, tmp_path): return Bench(request, tmp_path)


@pytest.fixture(scope='session')
def broken_run(tmp_path_factory):
    "A data set with every kind of broken image, trained on and scored: which files were bad, and which were used"
    tmp = tmp_path_factory.mktemp('broken'); data, said = dataset(tmp/'d'), io.StringIO()
    bad = {fault: {make(data/'train'/f'bad_{i}', fault).name} for i, fault in enumerate(UNREADABLE)}
    rows = [*csv.reader(open(data/'Training_set.csv'))][1:]
    write_table(data/'Training_set.csv', rows + [(b, 'sitting') for names in bad.values() for b in names])
    with warnings.catch_warnings(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('always')
        cli.har_train([*map(str, ('--data', data, '--recipe', 'demo', '--size', 32, '--epochs', 1, '--device', 'cpu', '--faithful', 0, '--out', tmp/'run'))]) # has batches of 32
        cli.har_evaluate([str(tmp/'run'), '--data', str(data), '--split', 'all', '--report', 'no', '--json', str(tmp/'all.json')])
    assert f'set aside: {len(bad)} of {24 + len(bad)}' in said.getvalue() and 'bad_0' in said.getvalue() and json.loads((tmp/'all.json').read_text())['n'] == 24
    [epoch] = csv.DictReader(open(tmp/'run'/'history.csv'))
    assert np.isfinite([float(v) for v in epoch.values()]).all()
    return SimpleNamespace(bad=bad, used={r['filename'] for r in csv.DictReader(open(tmp/'run'/'split.csv'))}, said=said.getvalue(), run=tmp/'run')


@pytest.fixture
def happened():
    "Note what a case saw"
    return HAPPENED.__setitem__


def record() -> list[dict]:
    "The rows of the page, from what this session's tests saw"
    return [dict(row=n, fault=ROWS[n]['fault'], must=ROWS[n]['must'], **HAPPENED[n]) for n in sorted(HAPPENED)]


def pytest_sessionfinish(session, exitstatus):
    if not WRITE: return
    told = {r['row']: r for r in json.loads(PAGE.read_text(encoding='utf-8'))['rows']} if PAGE.exists() else {}
    told |= {r['row']: r for r in record()} # only some of the faults may have been tried
    PAGE.write_text(json.dumps(dict(rows=[told[n] for n in sorted(told)]), indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
