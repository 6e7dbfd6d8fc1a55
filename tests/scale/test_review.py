"Corrections of labels: two writers, a kill while they are written, and the page in a browser"
import importlib.util, os, signal, socket, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor

import pytest

from har_fastai.scale.label import label_images
from har_fastai.scale.parts import LabelJob
from har_fastai.scale.review import add_corrections, read_corrections
from har_fastai.testing import put_shapes
from helpers import start

WRITE = '''
import sys
from har_fastai.scale.parts import LabelJob
from har_fastai.scale.review import add_corrections
job = LabelJob(sys.argv[1])
for row in range(1000): print(len(add_corrections(job, {row: 'running'})), flush=True)
''' # a process that saves until it is killed


@pytest.fixture
def job(tmp_path):
    "A job of thirty drawings"
    put_shapes(tmp_path/'photos', [(f'{i:02d}.png', 'circles') for i in range(30)])
    label_images(tmp_path/'photos', tmp_path/'labels', 'baseline')
    return LabelJob(tmp_path/'labels')


def test_two_writers_lose_nothing(job):
    "Pages are threads of one process, and a second har_review may run"
    with ThreadPoolExecutor(4) as pool: list(pool.map(lambda row: add_corrections(LabelJob(job.dest), {row: 'eating'}), range(30)))
    assert read_corrections(job) == dict.fromkeys(range(30), 'eating')


@pytest.mark.parametrize('after', [1, 7, 20])
def test_a_kill_while_saving_loses_nothing(job, after):
    info = job.read('_job.json').decode().replace('"images": 30', '"images": 1000')
    job.write('_job.json', info.encode())
    p = subprocess.Popen([sys.executable, '-c', WRITE, job.dest], stdout=subprocess.PIPE)
    for _ in range(after): saved = int(p.stdout.readline())
    p.send_signal(signal.SIGKILL)
    saved = max([saved, *map(int, p.stdout.read().split())]) # of those it had printed
    p.wait()
    known = read_corrections(LabelJob(job.dest))
    assert known == dict.fromkeys(range(len(known)), 'running') and saved <= len(known) <= saved + 1
    assert len(add_corrections(job, {999: 'eating'})) == len(known) + 1 # its lock is not left behind


def test_a_folder_that_cannot_be_written(job):
    from har_fastai.files import RunError
    if os.geteuid() == 0: pytest.skip('root may write everywhere')
    os.chmod(job.dest, 0o500)
    with pytest.raises(RunError, match='the label is not saved'): add_corrections(job, {1: 'eating'})
    os.chmod(job.dest, 0o700)


@pytest.fixture
def served(job):
    "The address of `har_review`, which runs in a process of its own"
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    with start('har_review', job.dest, '--port', port) as process:
        try:
            for _ in range(600):
                assert process.poll() is None, process.stderr.read().decode()
                with socket.socket() as s:
                    if not s.connect_ex(('127.0.0.1', port)): break
                time.sleep(.2)
            yield f'http://127.0.0.1:{port}/'
            process.send_signal(signal.SIGINT)
            assert process.wait(30) in (0, 130)
        finally: process.kill()


def choose_first(page, menu):
    "Choose the first class of a menu, which is opened again if it closes because the page scrolls or is drawn anew"
    from playwright.sync_api import TimeoutError as TooLate
    for _ in range(10):
        menu.click()
        try: return page.get_by_role('option').first.click(timeout=3000)
        except TooLate: page.keyboard.press('Escape')
    raise AssertionError('the menu does not stay open')


@pytest.mark.slow('apps in a browser')
@pytest.mark.skipif(importlib.util.find_spec('streamlit') is None, reason='streamlit is not installed')
@pytest.mark.parametrize('width', [1280, 390])
def test_a_class_is_saved_and_shown_again(job, served, browser, width):
    page = browser.new_page(viewport=dict(width=width, height=800))
    page.goto(served)
    for _ in range(2): # the second time, there is nothing to choose
        menu = page.get_by_role('combobox', name='Correct class').first
        menu.wait_for()
        if not read_corrections(job): choose_first(page, menu)
        page.get_by_text('Saved: the prediction is confirmed').wait_for()
        assert len(read_corrections(job)) == 1 and page.evaluate('document.documentElement.scrollWidth') <= width
        page.reload()
    page.close()
