"`har_annotate` in a browser: keys, undo, two tabs, phones, and a server or a disk that fails while images are being labelled"
import http.client, json, re, signal, threading, time
from contextlib import contextmanager

import pytest

from har_fastai.cli_curate import har_annotate
from har_fastai.core import train_baseline
from har_fastai.curate.annotate import make_annotator, open_session
from har_fastai.curate.labelling import UNUSABLE, open_labels
from har_fastai.data.tables import read_har
from helpers import image, random_run, read_rows, start, write_table
from interruptions import fill, sealed, small_disk

pytest.importorskip('fastapi')
from starlette.testclient import TestClient

N = 8 # images, of which the fourth is broken
CLASSES = ['running', 'sitting', 'stand, or lean', '走る']


@pytest.fixture
def folder(tmp_path):
    "Eight images without labels, of which one is broken"
    (tmp_path/'photos').mkdir()
    for i in range(1, N + 1): image(i, 96).save(tmp_path/'photos'/f'{i}.jpg')
    (tmp_path/'photos'/'4.jpg').write_bytes(b'no image')
    return tmp_path/'photos'


@contextmanager
def served(*args, port=0):
    "A server in a process of its own: the process and its port"
    with start('har_annotate', *args, '--port', port) as p:
        try:
            line = next((l for l in iter(p.stdout.readline, b'') if b'page is at' in l), b'')
            assert line, p.stderr.read().decode()
            yield p, int(re.search(rb':(\d+)/', line)[1])
        finally: p.kill()


def until(page, js:str, seconds:float=20) -> None:
    "Wait until an expression of the page is true; the content security policy forbids Playwright's own way"
    end = time.time() + seconds
    while not page.evaluate(js):
        assert time.time() < end, js
        time.sleep(.01)


def opened(browser, port:int, **kw):
    "A page that shows its first image; errors of its script fail the test when it is closed"
    page = browser.new_page(**kw)
    page.errors = []
    page.on('pageerror', lambda e: page.errors.append(str(e)))
    page.goto(f'http://127.0.0.1:{port}/')
    until(page, 'S !== null && seen()')
    return page


def press(page, *keys:str) -> None:
    "Press keys, each when the image is visible"
    for k in keys:
        until(page, 'seen()')
        page.keyboard.press(k)


def saved(page): until(page, '!waiting.length')
def table(folder) -> dict: return {r['filename']: r['label'] for r in read_rows(folder/'labels.csv')}
def current(page) -> str: return page.evaluate('name()')


def test_images_are_labelled_with_keys(folder, browser):
    with served(folder, '--classes', *CLASSES) as (p, port):
        page = opened(browser, port, viewport=dict(width=1280, height=800))
        assert page.evaluate('S.classes') == [['running', 'r'], ['sitting', 's'], ['stand, or lean', 'o'], ['走る', '1']]
        press(page, 'r', 'o', '1') # the next image is the broken one
        until(page, 'seen()'); assert 'not an image' in page.inner_text('#frame')
        press(page, 'r'); assert current(page) == '4.jpg' # nobody can have seen a person run there
        press(page, '-', ' ', 'ArrowLeft', 's'); until(page, 'seen()') # 5 skipped, back, labelled
        assert current(page) == '6.jpg'
        press(page, '/'); page.keyboard.type('run'); page.keyboard.press('Enter') # the first class that fits
        press(page, '/'); page.keyboard.type('wave, "hi"'); page.keyboard.press('Enter') # a new class
        until(page, 'name() === "8.jpg"'); press(page, 'Backspace'); until(page, 'name() === "7.jpg"'); saved(page)
        page.reload(); until(page, 'S && seen()'); assert current(page) == '7.jpg'
        press(page, 'Control+z'); until(page, 'name() === "6.jpg"') # what was decided before the reload
        press(page, '?'); assert page.locator('#keys').is_visible(); page.keyboard.press('r'); page.keyboard.press('Escape')
        press(page, '.', 'w'); saved(page); assert page.evaluate('S.decided.get("7.jpg")') == 'wave, "hi"'
        assert page.inner_text('#count') == '5 of 8 labelled, 1 not usable' and page.errors == []
        page.close(); p.send_signal(signal.SIGINT); assert p.wait(20) == 0 and b'5 of 8 images labelled, 1 not usable' in p.stdout.read()
    assert table(folder) == {'1.jpg': 'running', '2.jpg': 'stand, or lean', '3.jpg': '走る', '5.jpg': 'sitting', '7.jpg': 'wave, "hi"'}
    assert set(read_har(folder/'labels.csv').label) == {'running', 'stand, or lean', '走る', 'sitting', 'wave, "hi"'}
    assert sorted(f.name for f in folder.iterdir() if f.suffix != '.jpg' and f.suffix != '.lock') == ['labels.csv', 'labels.history.jsonl']


def test_a_suggestion_is_accepted_and_a_held_key_labels_one_image(folder, browser, tmp_path):
    images = [folder/f'{i}.jpg' for i in (1, 2, 3)]
    model = random_run(tmp_path/'model', images, vocab=('cooking', 'running', 'sitting'))
    with served(folder, '--model', model, '--order', 'unsure') as (_, port):
        page = opened(browser, port)
        assert [c for c, _ in page.evaluate('S.classes')] == ['cooking', 'running', 'sitting']
        assert page.evaluate('S.images')[-1] == '4.jpg' # the broken one has no prediction
        until(page, 'hint !== null'); first, label = current(page), page.evaluate('hint.top[0][0]')
        for _ in range(2): page.keyboard.down('Enter') # the second is a repetition
        page.keyboard.up('Enter'); until(page, 'seen()')
        for _ in range(3): page.keyboard.down('c')
        page.keyboard.up('c'); until(page, 'seen()'); saved(page)
        assert page.errors == [] and page.evaluate('S.decided.size') == 2; page.close()
    assert table(folder)[first] == label and len(table(folder)) == 2


def test_two_tabs_lose_nothing_and_the_last_decision_holds(folder, browser):
    with served(folder, '--classes', 'running', 'sitting') as (_, port):
        context = browser.new_context()
        a, b = opened(context, port), opened(context, port)
        press(a, 'r', 'r'); saved(a); press(b, 's'); saved(b) # b has not heard of a's decisions
        assert current(b) == '2.jpg' and 'Labelled running' in b.inner_text('#name') # now it has; the image stays
        press(b, '.', 's'); saved(b); press(a, 's'); saved(a)
        assert table(folder) == {'1.jpg': 'sitting', '2.jpg': 'running', '3.jpg': 'sitting'}
        assert a.errors == b.errors == []; context.close()
        lines = (folder/'labels.history.jsonl').read_text(encoding='utf-8').splitlines()
        assert ('1.jpg', 'running', 'sitting') in [(e['filename'], e['before'], e['label']) for e in map(json.loads, lines)]


def test_a_page_outlives_a_server_that_is_killed(folder, browser):
    with served(folder, '--classes', 'running', 'sitting') as (p, port):
        context = browser.new_context(); page = opened(context, port)
        press(page, 'r', 's'); saved(page); until(page, 'seen()')
        p.kill(); p.wait()
    page.keyboard.press('s'); until(page, '!document.getElementById("alert").hidden')
    assert 'not saved yet' in page.inner_text('#alert') and set(table(folder)) == {'1.jpg', '2.jpg'}
    page.close(); page = context.new_page() # the browser fails as well
    with served(folder, port=port) as (p, _):
        page.goto(f'http://127.0.0.1:{port}/'); until(page, 'S !== null && seen()'); saved(page)
        assert table(folder)['3.jpg'] == 'sitting' and current(page) == '4.jpg'; context.close()


def test_what_was_confirmed_survives_kill_9(tmp_path):
    "The server is killed at random moments while decisions arrive; the table is complete each time"
    (tmp_path/'photos').mkdir()
    for i in range(200): image(i, 16).save(tmp_path/'photos'/f'{i}.png')
    confirmed = {}
    def decide(port):
        c = http.client.HTTPConnection('127.0.0.1', port, timeout=10)
        while True:
            i = len(confirmed) % 200
            entry = f'{i}.png', f'class {len(confirmed) % 7}'
            try:
                c.request('POST', '/decide', json.dumps(dict(filename=entry[0], label=entry[1])))
                r = c.getresponse()
                if r.read() and r.status == 200: confirmed.update([entry])
            except (OSError, http.client.HTTPException): return
    for n in (11, 30):
        with served(tmp_path/'photos', '--classes', 'class 0') as (p, port):
            t = threading.Thread(target=decide, args=(port,)); t.start()
            while len(confirmed) < n and t.is_alive(): time.sleep(.001)
            p.kill(); p.wait(); t.join(20)
        labels = table(tmp_path/'photos')
        assert len(confirmed) >= n and {k: labels[k] for k in confirmed} == confirmed and len(labels) <= len(confirmed) + 1
    with open_labels(tmp_path/'photos'/'labels.csv') as t: assert len(t.past) >= len(confirmed) and t.undo()
    assert len(read_har(tmp_path/'photos'/'labels.csv')) >= len(confirmed) - 1
    assert not list((tmp_path/'photos').glob('.*.part'))


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_the_page_on_a_phone(folder, browser, scheme):
    with served(folder, '--classes', *CLASSES, *(f'class {i}' for i in range(12))) as (_, port):
        page = opened(browser, port, viewport=dict(width=390, height=700), color_scheme=scheme, has_touch=True, is_mobile=True)
        assert page.evaluate('[document.documentElement.scrollWidth, document.documentElement.scrollHeight]') == [390, 700]
        sizes = page.evaluate('[...document.querySelectorAll("button, input")].map(e => e.getBoundingClientRect()).filter(r => r.width)'
                              '.map(r => [r.width, r.height])')
        assert len(sizes) > 20 and all(w >= 44 and h >= 44 for w, h in sizes)
        assert page.evaluate('document.getElementById("frame").getBoundingClientRect().height') > 150
        page.tap('.class >> nth=1'); until(page, 'seen()'); page.tap('#skip'); until(page, 'seen()'); page.tap('#unusable'); saved(page)
        assert page.errors == [] and page.evaluate('[...S.decided]') == [['1.jpg', 'sitting'], ['3.jpg', False]]; page.close()


# ---- folders, tables and disks ----

def test_a_disk_that_is_full(tmp_path):
    with small_disk(tmp_path/'disk', 1) as disk:
        for i in range(1, 4): image(i, 16).save(disk/f'{i}.png')
        with open_session(disk, classes=['running', 'sitting']) as s:
            client = TestClient(make_annotator(s), base_url='http://127.0.0.1')
            assert client.post('/decide', json=dict(filename='1.png', label='running')).status_code == 200
            before = (disk/'labels.csv').read_bytes(), (disk/'labels.history.jsonl').read_bytes()
            fill(disk, 0)
            for name in ('2.png', '3.png'): r = client.post('/decide', json=dict(filename=name, label='x' * 90))
            assert r.status_code == 507 and 'no space left' in r.json()['detail'] and s.table.get('3.png') is None
            assert ((disk/'labels.csv').read_bytes(), (disk/'labels.history.jsonl').read_bytes()) == before
            (disk/'filler').unlink()
            assert client.post('/decide', json=dict(filename='2.png', label='sitting')).status_code == 200
        assert list(table(disk).values()) == ['running', 'sitting']


def test_a_folder_that_cannot_be_written(folder, refuse):
    with sealed(folder):
        code, message = refuse(har_annotate, folder, '--port', 0)
        assert code == 2 and 'cannot be written' in message and '--out' in message
    assert not (folder/'labels.csv').exists()


@pytest.mark.parametrize('text, words', [('name,label\n1.jpg,a\n', 'no filename column'), ('filename,label,part\n1.jpg,a,train\n', 'part'),
                                         ('filename,label\n1.jpg,a,b\n', 'more cells'), ('filename,label\n1.jpg,nan\n', "'nan'")])
def test_tables_that_cannot_be_continued(folder, refuse, text, words):
    (folder/'labels.csv').write_text(text)
    code, message = refuse(har_annotate, folder, '--port', 0)
    assert code == 2 and words in message and (folder/'labels.csv').read_text() == text


@pytest.mark.parametrize('args, words', [
    (['nowhere'], 'does not exist'), (['EMPTY'], 'contains no images'), (['FOLDER/1.jpg'], 'not a folder'),
    (['FOLDER', '--out', 'x.txt'], 'not a CSV file'), (['FOLDER', '--out', 'a/b.csv'], 'in a folder above it'),
    (['FOLDER', '--order', 'unsure'], '--model'), (['FOLDER', '--classes', 'a', 'A'], 'in case only')])
def test_mistakes_get_one_sentence(folder, tmp_path, refuse, args, words):
    (tmp_path/'empty').mkdir()
    args = [a.replace('FOLDER', str(folder)).replace('EMPTY', str(tmp_path/'empty')) for a in args]
    code, message = refuse(har_annotate, *args, '--port', 0)
    assert code == 2 and words in message and not (folder/'labels.csv').exists()


def test_a_table_is_continued_and_removed_files_are_told(folder):
    write_table(folder/'labels.csv', [('1.jpg', 'running'), ('gone.jpg', 'sitting'), ('2.jpg', 'sitting'), ('1.jpg', 'sitting')])
    with pytest.warns(UserWarning, match='1 row whose files have been removed, the first is gone.jpg'):
        with open_session(folder) as s:
            assert s.table.get('1.jpg') == 'sitting' # the later row
            s.decide(dict(filename='3.jpg', label='running')); s.decide(dict(filename='2.jpg', label=UNUSABLE))
    assert table(folder) == {'1.jpg': 'sitting', 'gone.jpg': 'sitting', '3.jpg': 'running'}


def test_a_model_is_trained_with_the_labels(folder, tmp_path):
    for i in range(N + 1, 41): image(i, 32).save(folder/f'{i}.jpg')
    with open_session(folder, classes=['running', 'sitting']) as s:
        for i, name in enumerate(s.images): s.decide(dict(filename=name, label=('running', 'sitting')[i % 2]))
        s.decide(dict(filename='4.jpg', label=UNUSABLE)) # the broken one
    learn = train_baseline(folder/'labels.csv', 'demo', out=tmp_path/'run', size=32, epochs=1, device='cpu', num_workers=0)
    assert list(learn.dls.vocab) == ['running', 'sitting']
