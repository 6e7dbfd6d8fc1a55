"`har_audit` as a command on drawings with known mistakes, and its page in a browser"
import shutil

import numpy as np
import pytest
from PIL import Image

from har_fastai.cli import har_check
from har_fastai.cli_curate import har_audit
from har_fastai.data.tables import read_har
from har_fastai.drawing.dataset import draw_har
from helpers import read_rows, write_table


@pytest.fixture(scope='module')
def audited(tmp_path_factory):
    "A folder with drawings, of which two are copies with other labels and one is blank, and its audit"
    home = tmp_path_factory.mktemp('audited')
    data = draw_har(home/'data', n=60, size=64, seed=1, test=0)
    rows = [(r['filename'], r['label']) for r in read_rows(data/'Training_set.csv')]
    shutil.copy(data/'train'/rows[0][0], data/'train'/rows[1][0])
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(data/'train'/rows[2][0])
    har_audit([str(data), '--out', str(home/'audit')])
    return data, home/'audit', [f for f, _ in rows]


def test_known_mistakes_are_found(audited):
    data, out, names = audited
    found = read_rows(out/'findings.csv')
    assert {r['filename'] for r in found if r['kind'] == 'copy'} == set(names[:2])
    assert names[2] in {r['filename'] for r in found if r['kind'] == 'flat'}
    assert {'decision', 'new_label'} <= set(found[0])


@pytest.mark.parametrize('argv, words', [(['nowhere'], 'does not exist'), (['DATA', '--most', '0'], '--most is 0')])
def test_mistakes_get_one_sentence(audited, refuse, argv, words):
    code, message = refuse(har_audit, *(str(audited[0]) if a == 'DATA' else a for a in argv))
    assert code == 2 and words in message


def test_decisions_need_fix(audited, tmp_path, refuse):
    table = write_table(tmp_path/'d.csv', [('a.png', 'drop')], ['filename', 'decision'])
    code, message = refuse(har_check, audited[0], '--decisions', table)
    assert code == 2 and '--fix' in message
    code, message = refuse(har_check, audited[0], '--fix', '--decisions', table)
    assert code == 2 and 'a.png' in message


def test_the_page_is_used_with_the_keyboard(audited, browser, tmp_path, capsys):
    data, out, names = audited
    page = browser.new_page(viewport=dict(width=390, height=800))
    errors = []
    page.on('pageerror', lambda e: errors.append(e))
    page.goto((out/'index.html').as_uri())
    assert page.evaluate('document.documentElement.scrollWidth') <= 390
    files = page.evaluate('D.items.map(i => i.filename)')
    copy = page.evaluate('D.items.findIndex(i => i.kind === "copy")')
    page.locator('.item').nth(copy).focus()
    for key in 'dzrk': page.keyboard.press(key) # dropped, undone, relabelled; the next one kept
    page.reload() # the decisions are kept
    assert page.inner_text('#count').startswith('2 of ')
    with page.expect_download() as d: page.click('#save')
    d.value.save_as(tmp_path/'decisions.csv'); page.close()
    made = {r['filename']: r for r in read_rows(tmp_path/'decisions.csv')}
    assert errors == [] and [made[files[copy]]['decision'], made[files[copy + 1]]['decision']] == ['relabel', 'keep']
    har_check([str(data), '--fix', '--decisions', str(tmp_path/'decisions.csv')])
    fixed = capsys.readouterr().out.splitlines()[-1].split(': ')[0]
    labels = read_har(fixed).set_index('filename').label
    assert labels[files[copy]] == made[files[copy]]['new_label'] == labels[files[copy + 1]]
