"The 40 faults, a case each; what they say is the table of the page *What it promises*"
import json

import pytest

import fault_images, fault_tables, fault_runs # each registers its rows
from conftest_of_faults import HAPPENED, PAGE, WRITE, record
from rows import ROWS


@pytest.mark.parametrize('n', sorted(ROWS), ids=lambda n: f'{n:02}: {ROWS[n]["fault"]}')
def test_fault(n, bench, happened):
    try: said = ROWS[n]['case'](bench)
    except pytest.skip.Exception as e: happened(n, dict(outcome='skipped', happened=e.msg)); raise
    except BaseException as e: happened(n, dict(outcome='failed', happened=type(e).__name__)); raise
    assert said and '/tmp' not in said and str(bench.tmp) not in said, said
    happened(n, dict(outcome='passed', happened=said))


def test_all_40_have_a_case(): assert sorted(ROWS) == list(range(1, 41))


def test_the_page_says_what_happened():
    "The table in the docs names the same rows, outcomes and sentences as the cases above (HAR_PROMISES=write pytest tests/faults makes it anew)"
    if len(HAPPENED) < len(ROWS): pytest.skip('only some of the faults were tried')
    if WRITE: pytest.skip('the table is being written')
    told = {r['row']: r for r in json.loads(PAGE.read_text(encoding='utf-8'))['rows']}
    now = {r['row']: r for r in record()}
    assert told.keys() == now.keys()
    assert {n: (told[n], now[n]) for n in now if told[n] != now[n] and now[n]['outcome'] != 'skipped'} == {}
