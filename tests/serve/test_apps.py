"The apps for notebook and browser: their predictions, the uploads they refuse, many requests at once"
import http.client, io, json, re, shutil, signal, subprocess, sys, time
from pathlib import Path
from threading import Event, Thread

import pytest
from PIL import Image

from helpers import DATA, free_port, start
from har_fastai.serve.models import MAX_BYTES, MAX_IMAGES, app_queue, label_text, percent
from har_fastai.predict.predictor import Predictor
from har_fastai.testing import Standing

pytest.importorskip('streamlit', reason='streamlit is not installed: pip install "har_fastai[app]"')
from streamlit.testing.v1 import AppTest
from har_fastai.serve.web import ALL, LAUNCHER, app_models



def as_file(img, kind='PNG') -> bytes:
    img.save(out := io.BytesIO(), kind)
    return out.getvalue()


BOMB = as_file(Image.new('1', (20_000, 10_000))) # 200 megapixels in about 25 kB


@pytest.fixture(scope='module')
def runs(trained, tmp_path_factory):
    "A run with a report, and a copy of it whose report tries to execute a script"
    copy = shutil.copytree(trained.run, tmp_path_factory.mktemp('copies')/'copy')
    hostile = '<script>document.title = parent.document.title = "taken over"</script><img src="http://example.invalid/x.png"><h1>'
    report = copy/'report.html'
    report.write_text(report.read_text(encoding='utf-8').replace('<h1>', hostile, 1), encoding='utf-8')
    return [trained.run, copy]


@pytest.fixture(scope='module')
def files(drawn):
    "Six images: photographs if there are some, otherwise synthetic samples"
    if DATA: return sorted((Path(DATA)/'test').glob('*.jpg'))[:6]
    return sorted((drawn/'train').glob('*.jpg'))[:6]


@pytest.fixture(scope='module')
def expected(runs, files):
    "The predicted label of the first image and its probability, as the apps show it"
    label, i, probs = Predictor(runs[0], half=False).predict(files[0])
    return label, percent(probs[i])


# ---- the browser app in Streamlit's own test harness ----

def app(*runs) -> AppTest:
    return AppTest.from_string(LAUNCHER.format(runs=tuple(map(str, runs)), device='cpu', people=False), default_timeout=60).run()


def html(at) -> str: return ' '.join(h.value for h in at.get('html'))
def labels(at) -> list: return re.findall(r'<p class="har-label">(.*?)</p>', html(at))


def send(at, *named):
    "Upload files, given by name and content"
    at.file_uploader[0].set_value([(n, d, 'image/jpeg') for n, d in named])
    return at.run()


def works(at):
    assert not at.exception, at.exception
    return True


def test_the_page_shows_the_prediction(runs, files, expected):
    at = send(app(runs[0]), ('a.jpg', files[0].read_bytes()))
    assert works(at) and labels(at) == [label_text(expected[0])] and f'<td>{expected[1]}</td>' in html(at)
    for k in (1, 10):
        at.slider[0].set_value(k).run()
        assert works(at) and html(at).count('scope="row"') == k
    assert (at.slider[0].min, at.slider[0].max) == (1, 10)


def test_every_top_class_has_a_heat_map(runs, files):
    at = send(app(runs[0]), ('a.jpg', files[0].read_bytes()))
    menu = next(s for s in at.selectbox if s.key.startswith('heat'))
    assert len(menu.options) == 5
    alts = []
    for i in range(5):
        next(s for s in at.selectbox if s.key.startswith('heat')).select_index(i).run()
        alts += re.findall(r'alt="(Heat-map of a\.jpg for .*?)"', html(at))
    assert works(at) and len(set(alts)) == 5


def test_models_side_by_side(runs, files, expected):
    at = send(app(*runs), ('a.jpg', files[0].read_bytes()))
    at.selectbox(key='model').set_value(ALL).run()
    assert works(at) and labels(at) == [label_text(expected[0])] * 2


def test_examples(runs):
    at = app(runs[0])
    at.button_group(key='source').set_value('Examples').run()
    assert works(at) and len(labels(at)) == 1
    at.button_group(key='drawn').set_value(['running', 'sitting', 'sleeping']).run()
    assert works(at) and len(labels(at)) == 3


LONG, CUT = bytes(MAX_BYTES + 1), as_file(Image.effect_noise((300, 300), 60), 'JPEG')[:5000]
BAD = { # kind -> (name of the file, content, what the reason must contain)
    'text': ('text.jpg', b'This is no image.', 'not an image'), 'empty': ('nothing.jpg', b'', 'is empty'),
    'bomb': ('bomb.png', BOMB, '200 megapixels'), 'too long': ('long.jpg', LONG, 'MB and the limit is 20'),
    'cut short': ('cut.jpg', CUT, 'truncated'), 'markdown': ('![x](http://example.invalid/x.png)<b>.jpg', b'no', 'not an image')}


@pytest.mark.parametrize('kind', BAD)
def test_broken_uploads_get_a_sentence(runs, files, kind):
    name, data, reason = BAD[kind]
    at = send(app(runs[0]), (name, data), ('good.jpg', files[0].read_bytes()))
    assert works(at) and len(labels(at)) == 1
    [error] = [e.value for e in at.error]
    assert reason in error.replace('\\', '') and '![' not in error and '<b>' not in error


def test_too_many_files(runs, files):
    many = [(f'{i}.png', as_file(Image.new('RGB', (40, 30), (i * 10, 80, 200)))) for i in range(25)]
    at = send(app(runs[0]), *many)
    assert works(at) and len(labels(at)) == MAX_IMAGES
    assert '25 images are too many' in at.warning[0].value and f'only the first {MAX_IMAGES} are used' in at.warning[0].value


def test_two_files_of_one_name(runs, files):
    at = send(app(runs[0]), *[('a.jpg', f.read_bytes()) for f in (files[0], files[1], files[0])])
    assert works(at) and len(labels(at)) == 3


def test_people_in_two_copies_of_an_image(runs, files, monkeypatch):
    at = app(runs[0])
    monkeypatch.setattr(app_models((str(runs[0]),), 'cpu', False), 'detector', Standing(.3, .7))
    send(at, *[('a.jpg', files[0].read_bytes())] * 2)
    assert works(at) and html(at).count('class="har-people"') == 2


def test_a_full_queue_is_reported(runs, files, monkeypatch):
    at, models = app(runs[0]), app_models((str(runs[0]),), 'cpu', False)
    monkeypatch.setattr(models, 'queue', app_queue(0))
    fresh = as_file(Image.new('RGB', (50, 50), 'teal'))
    gate = Event(); job = Thread(target=models.queue.run, args=(gate.wait,)); job.start()
    while not models.queue.busy: time.sleep(0.01)
    send(at, ('a.png', fresh))
    assert works(at) and labels(at) == [] and 'queue is full' in at.warning[0].value
    gate.set(); job.join()
    at.button(key='again-0').click().run()
    assert works(at) and len(labels(at)) == 1 and not at.warning


def test_every_widget_has_a_label(runs, files):
    at = send(app(*runs), ('a.jpg', files[0].read_bytes()))
    for kind in ('file_uploader', 'selectbox', 'slider', 'button_group'):
        found = at.get(kind)
        assert found and all(w.label.strip() for w in found), kind
    assert all(alt for alt in re.findall(r'<img alt="(.*?)"', html(at)))


PAGE = 'from har_fastai.serve.web import *\n{page}(app_models({runs}, "cpu"))'


def page(name, *runs) -> AppTest:
    return AppTest.from_string(PAGE.format(page=name, runs=tuple(map(str, runs))), default_timeout=120).run()


def frames(at) -> list: return [f.proto.srcdoc for f in at.get('iframe')]


def test_the_pages_with_report_and_comparison(runs, tmp_path):
    at = page('report_page', *runs)
    assert works(at) and 'sandbox="allow-same-origin"' in frames(at)[0] and 'human action recognition' in frames(at)[0]
    at = page('compare_page', *runs)
    assert works(at) and 'copy is right on the same images as' in frames(at)[0]
    bare = tmp_path/'bare'; bare.mkdir()
    for f in ('model.json', 'model.safetensors'): shutil.copy(runs[0]/f, bare)
    at = page('report_page', bare)
    assert works(at) and not frames(at) and 'has no report' in at.info[0].value
    for at, reason in ((page('compare_page', bare), 'two runs or more'), (page('compare_page', runs[0], bare), 'bare has no split.csv')):
        assert works(at) and not frames(at) and reason in at.info[0].value.replace('\\', '')


# ---- many requests at once ----

CROWD = '''
import io, json, re, resource, sys
from concurrent.futures import ThreadPoolExecutor
from PIL import Image
from har_fastai.serve.models import Models, open_upload
def file(i):
    Image.new('1', (5000, 5000), i % 2).save(out := io.BytesIO(), 'PNG'); return out.getvalue() + bytes([i])
models, files = Models([sys.argv[1]]), [file(i) for i in range(20)]
def peak(): # in GB; getrusage would include the memory of the parent process
    try: return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1e6
    except OSError: return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
models.predict(files[0])
one = peak()
with ThreadPoolExecutor(20) as pool: answers = list(pool.map(models.predict, files))
crowd = peak()
with ThreadPoolExecutor(20) as pool: list(pool.map(open_upload, files))
print(json.dumps([len(answers), len({[*p.values()][0].probs.tobytes() for _, p in answers}), one, crowd, peak()]))
'''


def test_twenty_at_once_take_the_memory_of_one(runs):
    "Images of 25 megapixels; without the queue, as in the last part of the script, they take gigabytes"
    done = subprocess.run([sys.executable, '-c', CROWD, str(runs[0])], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    n, kinds, one, crowd, without = json.loads(done.stdout)
    assert (n, kinds) == (20, 2) and crowd < one + 0.3 and without > crowd + 0.6, (one, crowd, without) # GB


# ---- in a browser ----

slow = pytest.mark.slow('apps in a browser')


def wait_for(port, path, process, seconds=120):
    "Wait until a server responds"
    for _ in range(seconds * 5):
        assert process.poll() is None, process.stdout.read().decode()
        try:
            c = http.client.HTTPConnection('127.0.0.1', port, timeout=10); c.request('GET', path); c.getresponse().read()
            return f'http://127.0.0.1:{port}'
        except OSError: time.sleep(0.2)
    pytest.fail('the server does not respond')


@pytest.fixture(scope='module')
def served(runs):
    "The address of `har_app`, which runs in a separate process"
    port = free_port()
    with start('har_app', *runs, '--port', port) as process:
        yield wait_for(port, '/_stcore/health', process)
        assert process.poll() is None, 'the app has stopped'
        process.send_signal(signal.SIGINT)
        assert process.wait(30) in (0, 130), process.stderr.read().decode()


def idle(p):
    "Wait until the script of the page has ended and all elements are current"
    p.locator('[data-testid=stMain]').wait_for(); p.wait_for_timeout(400)
    p.wait_for_function('document.querySelector("[data-test-script-state=notRunning]") && !document.querySelector("[data-stale=true]")')


def choose(p, menu, option):
    "Choose an option of a menu, by its name or number; a menu closes when the page scrolls, so wait until it has stopped"
    p.get_by_role('combobox', name=menu).scroll_into_view_if_needed(); idle(p)
    p.get_by_role('combobox', name=menu).click()
    found = p.get_by_role('option')
    (found.nth(option) if isinstance(option, int) else found.filter(has_text=option).first).click()


@pytest.fixture
def tab(browser, served):
    "Open a page of the app; `outside` lists the requests to other servers"
    def visit(path='', width=1280, height=900, **kwargs):
        p = browser.new_context(viewport=dict(width=width, height=height), **kwargs).new_page()
        p.outside = []
        inside = (served, served.replace('http', 'ws'), 'data:', 'blob:', 'about:')
        p.on('request', lambda r: None if r.url.startswith(inside) else p.outside.append(r.url))
        p.on('requestfailed', lambda r: p.outside.remove(r.url) if r.failure == 'csp' else None) # the browser blocked it
        p.goto(served + path); idle(p)
        return p
    yield visit
    for c in browser.contexts: c.close()


@slow
@pytest.mark.parametrize('width', [1280, 390])
def test_upload_and_read_the_prediction(tab, files, expected, width):
    p = tab(width=width)
    p.get_by_role('heading', name='What is the person doing?').wait_for()
    p.set_input_files('input[type=file]', files[0])
    p.locator('.har-label').wait_for()
    assert p.locator('.har-label').inner_text() == label_text(expected[0])
    assert p.get_by_role('row').filter(has_text=expected[1]).count() >= 1
    p.locator('img[alt^="Heat-map"]').wait_for(); idle(p)
    first = p.locator('img[alt^="Heat-map"]').get_attribute('alt')
    choose(p, 'Heat-map for', 1)
    p.wait_for_function('first => document.querySelector(\'img[alt^="Heat-map"]\')?.alt != first', arg=first); idle(p)
    choose(p, 'Model', ALL)
    p.locator('.har-label').nth(2).wait_for() # two runs, and the included model to compare with
    assert p.locator('.har-label').all_inner_texts()[:2] == [label_text(expected[0])] * 2
    assert p.evaluate('document.documentElement.scrollWidth') <= width, 'the page is too wide'
    assert p.outside == []


@slow
def test_by_keyboard_alone(tab):
    p = tab()
    p.get_by_role('heading', name='What is the person doing?').wait_for()
    def go_to(text):
        for _ in range(40):
            p.keyboard.press('Tab')
            if p.evaluate('(e => e.getAttribute("aria-label") || e.innerText)(document.activeElement)').strip().startswith(text): return
        pytest.fail(f'{text} is not reached')
    p.get_by_role('slider').wait_for()
    go_to('Upload')
    for key in ('ArrowRight', 'ArrowRight', 'Space'): p.keyboard.press(key)
    p.locator('.har-label').wait_for()
    idle(p); go_to('calling')
    p.keyboard.press('Space')
    p.locator('.har-label').nth(1).wait_for(); idle(p)
    go_to('Number of actions'); p.keyboard.press('ArrowLeft')
    p.wait_for_function('document.querySelectorAll("table.har-bars")[1]?.tBodies[0].rows.length == 4')


@slow
def test_the_camera(tab):
    p = tab(permissions=['camera'])
    p.get_by_role('radio', name='Camera').or_(p.get_by_role('button', name='Camera')).first.click()
    p.wait_for_function("[...document.querySelectorAll('video')].some(v => v.videoWidth)") # the camera's first frame
    p.get_by_role('button', name='Take Photo').click(timeout=20_000)
    p.locator('.har-label').wait_for()


@slow
def test_bad_files_in_the_browser(tab, tmp_path, files):
    (tmp_path/'text.jpg').write_text('no image'); (tmp_path/'bomb.png').write_bytes(BOMB)
    (tmp_path/'long.jpg').write_bytes(bytes(MAX_BYTES + 1_000_000))
    p = tab()
    p.get_by_role('heading', name='What is the person doing?').wait_for()
    p.set_input_files('input[type=file]', [tmp_path/'text.jpg', tmp_path/'bomb.png', tmp_path/'long.jpg', files[0]])
    p.locator('.har-label').wait_for()
    assert sorted(a.split(' ')[0] for a in p.get_by_role('alert').all_inner_texts() if 'image' in a) == ['bomb.png', 'text.jpg']
    texts = ('File must be 20', '20MB or smaller', 'exceed') # of several versions of Streamlit
    assert any(p.get_by_text(t).count() for t in texts), p.inner_text('body')


@slow
def test_a_report_is_shown_and_its_script_is_not_run(tab):
    p = tab('/report')
    choose(p, 'Run', 'copy')
    inner = p.frame_locator('iframe[title="Report of copy"]').frame_locator('iframe')
    inner.get_by_role('heading', level=1).wait_for()
    assert inner.locator('img').count() > 3 and 'taken over' not in p.title() and p.outside == []
    height = p.locator('iframe[title="Report of copy"]').bounding_box()['height']
    assert height > 3000, 'the report has its own scroll bar'


@slow
def test_runs_are_compared(tab):
    p = tab('/compare')
    inner = p.frame_locator('iframe[title="Comparison of runs"]').frame_locator('iframe')
    inner.get_by_text('is right on the same images as').wait_for(timeout=60_000)


# ---- the notebook app ----

def write_notebook(file, source):
    import nbformat
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    nb.metadata.kernelspec = dict(display_name='python3', language='python', name='python3')
    nbformat.write(nb, file)


@slow
def test_the_notebook_app_under_voila(browser, runs, files, expected, tmp_path):
    pytest.importorskip('voila', reason='voila is not installed')
    write_notebook(tmp_path/'app.ipynb', f'from har_fastai.serve.notebook import ActionApp\nActionApp({str(runs[0])!r})')
    port = free_port()
    argv = [sys.executable, '-m', 'voila', 'app.ipynb', '--no-browser', f'--port={port}', '--Voila.ip=127.0.0.1']
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            p = browser.new_page(); p.goto(wait_for(port, '/voila/static/', process), timeout=120_000)
            with p.expect_file_chooser(timeout=60_000) as chooser: p.get_by_role('button', name='Upload an image').click(timeout=60_000)
            chooser.value.set_files(files[0])
            p.locator('.har-label').wait_for(timeout=60_000); p.locator('img[alt^="Heat-map"]').wait_for()
            assert p.locator('.har-label').inner_text() == label_text(expected[0]) and p.locator('.har-bars tbody tr').count() == 5
        finally: process.send_signal(signal.SIGINT); time.sleep(0.5); process.terminate()


# ---- errors of the command ----

def test_the_command_refuses(refuse, tmp_path):
    from har_fastai.cli import har_app
    assert refuse(har_app, tmp_path) == (2, f'har_app: {tmp_path} holds no model: model.json is missing')
    assert refuse(har_app, tmp_path/'m.pkl')[0] == 2


def test_a_missing_package_is_named(runs):
    code = 'import sys; sys.modules["streamlit"] = None; from har_fastai.cli import har_app; har_app(sys.argv[1:])'
    done = subprocess.run([sys.executable, '-c', code, str(runs[0])], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'pip install "har_fastai[app]"' in done.stderr, done.stderr
