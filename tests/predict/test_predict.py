"har_predict: every kind of input and output, broken files, video clips"
import csv, io, json, os, shutil, signal, subprocess, sys, zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from har_fastai.cli import har_predict
from har_fastai.images import open_image
from har_fastai.predict.predictor import Predictor
from har_fastai.testing import shake, write_clip
from helpers import call, image, read_rows, start, write_table


def predict(*args): return call('har_predict', *args)


@pytest.fixture(scope='module')
def images(trained): return sorted((trained.data/'test').iterdir())


@pytest.fixture(scope='module')
def expected(trained, images):
    "The prediction for each image, computed one by one"
    p = Predictor(trained.run)
    return {f.name: p.predict(f) for f in images}


# ---- inputs ----

def given(kind, images, tmp_path):
    "Command-line arguments for the images, and the content of standard input"
    if kind == 'files': return images, None
    if kind == 'folder': return [images[0].parent], None
    if kind == 'pattern': return [images[0].parent/'*.jpg'], None # as passed by a shell that does not expand it
    if kind == 'list': return ['-'], '\n'.join(map(str, images)).encode()
    if kind == 'list of a folder': return ['-'], f'{images[0].parent}\r\n\r\n'.encode()
    if kind == 'table': return [images[0].parent.parent/'Testing_set.csv'], None
    with zipfile.ZipFile(tmp_path/'sent.zip', 'w', zipfile.ZIP_DEFLATED if kind == 'zip' else zipfile.ZIP_STORED) as z:
        for f in images: z.write(f, f'trip/{f.name}')
        z.writestr('trip/notes.txt', 'no image')
    return [tmp_path/'sent.zip'], None


@pytest.mark.parametrize('kind', ['files', 'folder', 'pattern', 'list', 'list of a folder', 'table', 'zip', 'stored zip'])
def test_every_kind_of_input_gives_the_same_predictions(trained, images, expected, tmp_path, monkeypatch, kind):
    args, stdin = given(kind, images, tmp_path)
    if stdin is not None: monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(stdin)))
    done = predict(*args, '--model', trained.run, '--csv', tmp_path/'t.csv', '--json', tmp_path/'t.jsonl', '--top', 2)
    assert done.returncode == 0 and done.stderr == '' and len(done.stdout.splitlines()) == len(images) + 1 # and a summary of the files
    got = read_rows(tmp_path/'t.csv'); first = got[::2]
    assert [Path(r['path']).name for r in first] == [f.name for f in images] and [r['rank'] for r in got] == ['1', '2'] * len(images)
    for r in first:
        label, _, probs = expected[Path(r['path']).name]
        assert r['label'] == label and float(r['probability']) == pytest.approx(float(probs.max()), abs=2e-4)
    objects = [json.loads(l) for l in open(tmp_path/'t.jsonl')]
    assert [(o['path'], o['label'], o['problem']) for o in objects] == [(r['path'], r['label'], None) for r in first]
    for o, *two in zip(objects, first, got[1::2]):
        assert list(o['probabilities'].items()) == [(r['label'], float(r['probability'])) for r in two]
    assert {f.name for f in tmp_path.iterdir()} <= {'t.csv', 't.jsonl', 'sent.zip'} # nothing was unpacked


def test_names_with_unusual_characters(trained, images, tmp_path):
    odd = [tmp_path/'père 2 [1].jpg', tmp_path/'a,b"c.jpg', Path(os.fsdecode(os.fsencode(tmp_path) + b'/caf\xe9\x1b[2J.jpg'))]
    for f in odd: f.write_bytes(images[0].read_bytes())
    broken = Path(os.fsdecode(os.fsencode(tmp_path) + b'/\xff\x1b[31m.jpg')); broken.write_bytes(b'')
    done = predict(*odd, broken, '--model', trained.run, '--csv', tmp_path/'t.csv', '--json', tmp_path/'t.jsonl')
    assert done.returncode == 1 and '\x1b' not in done.stdout + done.stderr
    names = [Path(r['path']).name for r in read_rows(tmp_path/'t.csv')]
    assert names == ['père 2 [1].jpg', 'a,b"c.jpg', 'caf\ufffd\ufffd[2J.jpg', '\ufffd\ufffd[31m.jpg']
    done = call('har_explain', *odd, broken, '--model', trained.run, '--out', tmp_path/'maps')
    assert done.returncode and '\x1b' not in done.stdout + done.stderr and len(done.stdout.splitlines()) == 3


# ---- outputs ----

READERS = {'--csv': lambda t: [r['path'] for r in csv.DictReader(io.StringIO(t))],
           '--json': lambda t: [json.loads(l)['path'] for l in t.splitlines()]}


@pytest.mark.parametrize('form', READERS)
def test_standard_output_holds_the_table_and_nothing_else(trained, images, tmp_path, form):
    (tmp_path/'broken.jpg').write_bytes(b'')
    done = predict(images[0].parent, tmp_path/'broken.jpg', '--model', trained.run, form, '-')
    assert done.returncode == 1 and READERS[form](done.stdout) == [*map(str, images), str(tmp_path/'broken.jpg')]
    assert done.stderr.count('\n') == 2 and 'broken.jpg' in done.stderr and '1 of the 5' in done.stderr, done.stderr


def test_the_submission_keeps_the_order_of_the_table(trained, images, expected, tmp_path):
    data = shutil.copytree(trained.data/'test', tmp_path/'d'/'test').parent
    order = [images[i].name for i in (2, 0, 3, 1)]
    table = write_table(data/'Testing_set.csv', [[n] for n in order], ['filename'])
    submit = (table, '--model', trained.run, '--submission')
    assert predict(*submit, tmp_path/'s.csv').returncode == 0
    assert (tmp_path/'s.csv').read_text() == 'filename,label\n' + ''.join(f'{n},{expected[n][0]}\n' for n in order)
    (data/'test'/order[1]).write_bytes(b'no image')
    done = predict(*submit, tmp_path/'s.csv')
    assert done.returncode == 1 and order[1] in done.stderr
    got = [(r['filename'], r['label']) for r in read_rows(tmp_path/'s.csv')]
    assert got == [(n, '' if i == 1 else expected[n][0]) for i, n in enumerate(order)]
    (data/'test'/order[1]).unlink()
    done = predict(*submit, tmp_path/'s2.csv')
    assert done.returncode == 2 and order[1] in done.stderr and not (tmp_path/'s2.csv').exists()


@pytest.mark.parametrize('argv, words', [
    (['t/*.gif'], ['t/*.gif', 'no images']), (['t', '--csv', 'x', '--json', 'x'], ['--csv', '--json', 'same']),
    (['t', '--csv', '-', '--json', '-'], ['--csv', '--json', 'same']), (['t', '--submission', 's.csv'], ['--submission', 'table']),
    (['t', 'a.mp4'], ['clips', 'images']), (['a.mp4', '--submission', 's.csv'], ['--submission']),
    (['t', '--figure', 'f.png'], ['--figure', 'one clip']), (['a.mp4', 'b.mp4', '--figure', 'f.png'], ['--figure', 'one clip']),
    (['broken.zip'], ['broken.zip', 'zip']), (['a.mp4', '--fps', '0'], ['--fps', '0']), (['a.mp4', '--smooth', '-1'], ['--smooth', '-1']),
    (['bare.zip'], ['bare.zip', 'no images']), (['t', '--csv', 'd'], ['d'])])
def test_impossible_arguments_are_refused(trained, images, tmp_path, refuse, monkeypatch, argv, words):
    monkeypatch.chdir(tmp_path); (tmp_path/'t').symlink_to(images[0].parent); (tmp_path/'d').mkdir()
    (tmp_path/'broken.zip').write_bytes(b'PK\x03\x04 and nothing more')
    with zipfile.ZipFile('bare.zip', 'w') as z: z.writestr('notes.txt', 'no image')
    code, message = refuse(har_predict, *argv, '--model', trained.run)
    assert code == (1 if argv[-1] == 'd' else 2) and all(w in message for w in words), message
    assert {f.name for f in tmp_path.iterdir()} == {'t', 'd', 'broken.zip', 'bare.zip'}


# ---- streams ----

def list_of(image, n=200) -> bytes: return '\n'.join([str(image)] * n + ['']).encode()


def test_predictions_come_while_the_list_is_still_written(trained, images):
    with start('har_predict', '-', '--model', trained.run, stdin=subprocess.PIPE) as p:
        try:
            p.stdin.write(list_of(images[0])); p.stdin.flush() # and more may follow
            assert images[0].name in p.stdout.readline().decode()
            p.stdin.close(); rest = p.stdout.read().decode()
            assert rest.count(images[0].name) == 199 and p.wait(60) == 0
        finally: p.kill()


def test_an_interrupted_command_leaves_no_file(trained, images, tmp_path):
    with start('har_predict', '-', '--model', trained.run, '--csv', tmp_path/'t.csv', stdin=subprocess.PIPE) as p:
        try:
            p.stdin.write(list_of(images[0])); p.stdin.flush()
            p.stdout.readline()
            assert [f.suffix for f in tmp_path.iterdir()] == ['.part'] # half-written, under another name
            p.send_signal(signal.SIGINT)
            assert p.wait(60) == 130 and 'Traceback' not in p.stderr.read().decode() and not list(tmp_path.iterdir())
        finally: p.kill()


def on_terminal(*args) -> tuple[int, str, str]:
    "Run har_predict on a terminal; return its exit code, what the terminal shows, and standard error"
    import pty
    code = 'import sys; sys.argv[0] = "har_predict"; from har_fastai.cli import har_predict; har_predict()'
    ours, theirs = pty.openpty()
    argv = [sys.executable, '-c', code, *map(str, args)]
    with subprocess.Popen(argv, stdout=theirs, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as p:
        os.close(theirs); shown = b''
        try:
            while piece := os.read(ours, 4096): shown += piece
        except OSError: pass # the other end has closed
        err = p.stderr.read().decode()
    os.close(ours)
    return p.returncode, shown.decode(), err


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no such terminals')
def test_a_terminal_shows_a_progress_bar(trained, images, tmp_path):
    (tmp_path/'broken.jpg').write_bytes(b'')
    code, bar, err = on_terminal(images[0].parent, tmp_path/'broken.jpg', '--model', trained.run, '--csv', tmp_path/'t.csv')
    assert code == 1 and '%' in bar and images[0].name not in bar and 'broken.jpg' in err and len(read_rows(tmp_path/'t.csv')) == 5
    code, lines, _ = on_terminal(images[0].parent, '--model', trained.run)
    assert code == 0 and '%' not in lines and all(f.name in lines for f in images)


def test_a_stream_gives_the_predictions_of_one_call(trained, images):
    p, rng = Predictor(trained.run), np.random.default_rng(0)
    mixed = [[*images, b'no image'][i] for i in rng.integers(0, 5, 60)]
    streamed, at_once = list(p.stream(iter(mixed))), p.try_probs(mixed)
    for (a, why), (b, why2), src in zip(streamed, at_once, mixed, strict=True):
        assert why == why2 and (a is None) == (src == b'no image') and (a is None or np.array_equal(a, b))


# ---- archives ----

def test_a_hostile_archive_does_not_affect_other_images(trained, images, tmp_path):
    home = tmp_path/'home'; home.mkdir()
    climbing = ('../up.jpg', '/abs.jpg', 'a/../../up.jpg', 'C:\\up.jpg')
    with zipfile.ZipFile(home/'evil.zip', 'w', zipfile.ZIP_DEFLATED) as z:
        z.write(images[0], 'good.jpg'); z.write(images[1], 'lzma.jpg', zipfile.ZIP_LZMA)
        z.writestr('bomb.png', bytes(80_000_000)); z.writestr('page.jpg', '<html>')
        for n in climbing: z.writestr(zipfile.ZipInfo(n), images[0].read_bytes())
        z.writestr('inner.zip', b'PK'); z.writestr('.hidden.jpg', b''); z.writestr('dir/', b'')
    done = predict(home/'evil.zip', '--model', trained.run, '--csv', tmp_path/'t.csv')
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 9
    got = {r['path'].removeprefix(f'{home}/evil.zip/'): r['problem'] for r in read_rows(tmp_path/'t.csv')}
    bad = {'bomb.png': 'MB', 'lzma.jpg': 'deflate', 'inner.zip': 'within', 'page.jpg': ''}
    bad |= {n.replace('\\', '/'): 'leads out' for n in climbing}
    assert set(got) == {'good.jpg', *bad} and {n for n, why in got.items() if not why} == {'good.jpg'}
    assert {n: got[n] for n in bad if bad[n] not in got[n]} == {}
    assert [f.name for f in home.iterdir()] == ['evil.zip']


# ---- clips ----

@pytest.fixture(scope='module')
def clip(trained, tmp_path_factory):
    "A clip of two synthetic samples with different predictions, four seconds each, and those predictions"
    pytest.importorskip('av', reason='clips need PyAV: pip install "har_fastai[video]"')
    p, rng = Predictor(trained.run, half=False), np.random.default_rng(0)
    films = [shake(open_image(f), 40, rng, (128, 128), 2., .04) for f in sorted((trained.data/'train').iterdir())]
    probs = np.stack([p.probs(f[::20]).mean(0) for f in films])
    one = probs.max(1).argmax(); others = np.where(probs.argmax(1) == probs[one].argmax(), 0, probs.max(1)); two = others.argmax()
    assert others[two] > 0, 'all samples have the same prediction'
    file = write_clip(tmp_path_factory.mktemp('clip')/'clip.mp4', films[one] + films[two])
    return file, [p.vocab[probs[i].argmax()] for i in (one, two)]


def test_a_clip_gets_a_timeline(trained, clip, tmp_path):
    file, labels = clip
    done = predict(file, '--model', trained.run, '--csv', tmp_path/'t.csv', '--json', tmp_path/'t.jsonl', '--figure', tmp_path/'f.png',
                   '--smooth', .5)
    assert done.returncode == 0, done.stderr
    got, [whole] = read_rows(tmp_path/'t.csv'), [json.loads(l) for l in open(tmp_path/'t.jsonl')]
    assert [r['label'] for r in got] == labels == [s['label'] for s in whole['segments']] and whole['problem'] is None
    assert (float(got[0]['start']), float(got[1]['end'])) == (0, 8)
    assert abs(float(got[0]['end']) - 4) <= .5 and got[0]['end'] == got[1]['start']
    assert 0 < float(got[0]['probability']) <= 1 and whole['seconds'] == 8
    with Image.open(tmp_path/'f.png') as img: assert img.format == 'PNG' and img.width > 700
    assert 'clip.mp4: 8.0 s, 16 frames' in done.stdout and all(l in done.stdout for l in labels)


def sound_only(file):
    "A clip without a video stream"
    import av
    with av.open(str(file), 'w') as c:
        s = c.add_stream('aac', rate=8000)
        f = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.float32), format='fltp', layout='mono'); f.rate = 8000
        c.mux(s.encode(f)); c.mux(s.encode())


def test_broken_clips_are_reported_and_readable_parts_are_kept(trained, clip, tmp_path):
    webm = write_clip(tmp_path/'whole.webm', shake(image(1, 128), 60, np.random.default_rng(0)))
    (tmp_path/'cut.webm').write_bytes(webm.read_bytes()[:webm.stat().st_size // 2])
    (tmp_path/'cut.mp4').write_bytes(clip[0].read_bytes()[:5000]); (tmp_path/'page.mov').write_text('<html>')
    sound_only(tmp_path/'sound.mp4')
    done = predict(tmp_path/'cut.webm', '--model', trained.run)
    assert done.returncode == 1 and 'breaks off' in done.stderr
    for name, why in (('cut.mp4', 'cut short'), ('page.mov', 'not a video'), ('sound.mp4', 'no video'), ('gone.mp4', 'no such file')):
        done = predict(tmp_path/name, '--model', trained.run)
        assert done.returncode == 2 and why in done.stderr and name in done.stderr, done.stderr
        assert done.stderr.count('\n') == 2 and 'Traceback' not in done.stderr
    clips = (tmp_path/n for n in ('cut.webm', 'page.mov', 'whole.webm'))
    assert predict(*clips, '--model', trained.run, '--csv', tmp_path/'t.csv').returncode == 1
    got = {r['path'].split('/')[-1]: r for r in read_rows(tmp_path/'t.csv')}
    assert got['whole.webm']['problem'] == '' and got['page.mov']['label'] == ''
    assert 'breaks off' in got['cut.webm']['problem'] and got['cut.webm']['label']


def test_clips_need_an_extra(trained, clip, refuse, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    code, message = refuse(har_predict, clip[0], '--model', trained.run)
    assert code == 2 and 'pip install "har_fastai[video]"' in message


def test_a_playlist_named_as_a_clip_opens_nothing(trained, clip, tmp_path, refuse):
    (tmp_path/'list.mp4').write_text(f'#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip[0]}\n#EXT-X-ENDLIST\n')
    code, message = refuse(har_predict, tmp_path/'list.mp4', '--model', trained.run)
    assert code == 2 and 'the clip could not be read' in message
