"The faults, one case each. The sentences that the cases return make up the table of the page on robustness"
import pytest

import fault_images, fault_tables, fault_runs # noqa: F401 (each registers its cases)
from registry import ROWS, WRITE, entry, table, write_entry


@pytest.mark.parametrize('n', sorted(ROWS), ids=lambda n: f'{n:02}: {ROWS[n]["fault"]}')
def test_fault(n, context):
    "The case passes, and the page contains its sentence (HAR_ROBUSTNESS=write pytest tests/faults writes the page)"
    try: happened = ROWS[n]['case'](context)
    except pytest.skip.Exception as e:
        if WRITE: write_entry(entry(n, 'skipped', e.msg))
        raise
    assert happened and '/tmp' not in happened and str(context.tmp) not in happened, happened
    if WRITE: write_entry(entry(n, 'passed', happened))
    assert table()[n] == entry(n, 'passed', happened), 'the page is out of date: HAR_ROBUSTNESS=write pytest tests/faults'


def test_all_have_a_case(): assert sorted(ROWS) == list(range(1, len(ROWS) + 1)) == sorted(table())
