"Predicting from the command line: every way in, every way out, what's broken, and clips"
import csv, io, json, os, signal, subprocess, sys, zipfile
from pathlib import Path

import numpy as np
import pytest

from helpers import run, start, write_table
from har_fastai.cli import har_explain, har_predict


def rows(file): return list(csv.DictReader(open(file, encoding='utf-8')))
def told(file): return [(Path(r['path']).name, r['label'], r['probability']) for r in rows(file)]


def call(*argv) -> int:
    "The exit code of `har_predict` in this process"
    try: har_predict([*map(str, argv)])
    except SystemExit as e: return e.code
    return 0


@pytest.fixture(scope='module')
def images(trained): return sorted((trained.data/'test').iterdir())


@pytest.fixture(scope='module')
def expected(trained, images):
    "What the model says of the images, asked one by one"
    from har_fastai.predict.predictor import Predictor
    p = Predictor(trained.run)
    return {f.name: p.predict(f) for f in images}


# ---- ways in ----

def given(kind, images, tmp_path):
    "The arguments that name the images in one way, and what goes to standard input"
    if kind == 'files': return images, None
    if kind == 'folder': return [images[0].parent], None
    if kind == 'pattern': return [images[0].parent/'*.jpg'], None # as a shell that doesn't expand it would leave it
    if kind == 'list': return ['-'], '\n'.join(map(str, images)).encode()
    if kind == 'list of a folder': return ['-'], f'{images[0].parent}\r\n\r\n'.encode()
    if kind == 'table': return [images[0].parent.parent/'Testing_set.csv'], None
    with zipfile.ZipFile(tmp_path/'sent.zip', 'w', zipfile.ZIP_DEFLATED if kind == 'zip' else zipfile.ZIP_STORED) as z:
        for f in images: z.write(f, f'trip/{f.name}')
        z.writestr('trip/notes.txt', 'no image')
    return [tmp_path/'sent.zip'], None


@pytest.mark.parametrize('kind', ['files', 'folder', 'pattern', 'list', 'list of a folder', 'table', 'zip', 'stored zip'])
def test_every_way_in_gives_the_same_answers(trained, images, expected, tmp_path, monkeypatch, capsys, kind):
    args, stdin = given(kind, images, tmp_path)
    if stdin is not None: monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(stdin)))
    assert call(*args, '--model', trained.run, '--csv', tmp_path/'t.csv', '--json', tmp_path/'t.jsonl', '--top', 2) == 0
    got = rows(tmp_path/'t.csv')
    assert [Path(r['path']).name for r in got[::2]] == [f.name for f in images] and [r['rank'] for r in got] == ['1', '2'] * len(images)
    for r in got[::2]:
        label, _, probs = expected[Path(r['path']).name]
        assert r['label'] == label and float(r['probability']) == pytest.approx(float(probs.max()), abs=2e-4)
    objects = [json.loads(l) for l in open(tmp_path/'t.jsonl')]
    assert [(o['path'], o['label'], o['problem']) for o in objects] == [(r['path'], r['label'], None) for r in got[::2]]
    assert [list(o['probabilities'].items()) for o in objects] == [[(r['label'], float(r['probability'])) for r in got[i:i + 2]] for i in range(0, len(got), 2)]
    out = capsys.readouterr()
    assert len(out.out.splitlines()) == len(images) and out.err == ''
    assert {f.name for f in tmp_path.iterdir()} <= {'t.csv', 't.jsonl', 'sent.zip'} # nothing was unpacked


def test_names_with_odd_characters(trained, images, tmp_path, capsys):
    odd = [tmp_path/'père 2 [1].jpg', tmp_path/'a,b"c.jpg', Path(os.fsdecode(os.fsencode(tmp_path) + b'/caf\xe9\x1b[2J.jpg'))]
    for f in odd: f.write_bytes(images[0].read_bytes())
    broken = Path(os.fsdecode(os.fsencode(tmp_path) + b'/\xff\x1b[31m.jpg')); broken.write_bytes(b'')
    assert call(*odd, broken, '--model', trained.run, '--csv', tmp_path/'t.csv', '--json', tmp_path/'t.jsonl') == 1
    out = capsys.readouterr()
    assert '\x1b' not in out.out + out.err and [Path(r['path']).name for r in rows(tmp_path/'t.csv')] == ['père 2 [1].jpg', 'a,b"c.jpg', 'caf\ufffd\ufffd[2J.jpg', '\ufffd\ufffd[31m.jpg']
    with pytest.raises(SystemExit): har_explain([*map(str, (*odd, broken)), '--model', str(trained.run), '--out', str(tmp_path/'maps')])
    out = capsys.readouterr(); assert '\x1b' not in out.out + out.err and len(out.out.splitlines()) == 3


# ---- ways out ----

def test_standard_output_holds_the_table_and_nothing_else(trained, images, tmp_path):
    (tmp_path/'broken.jpg').write_bytes(b'')
    for form, read in (('--csv', lambda t: [r['path'] for r in csv.DictReader(io.StringIO(t))]), ('--json', lambda t: [json.loads(l)['path'] for l in t.splitlines()])):
        done = run('har_predict', images[0].parent, tmp_path/'broken.jpg', '--model', trained.run, form, '-')
        assert done.returncode == 1 and read(done.stdout) == [*map(str, images), str(tmp_path/'broken.jpg')]
        assert done.stderr.count('\n') == 2 and 'broken.jpg' in done.stderr and '1 of the 5' in done.stderr, done.stderr


def test_the_submission_keeps_the_order_of_the_table(trained, images, expected, tmp_path, capsys):
    import shutil
    data = shutil.copytree(trained.data/'test', tmp_path/'d'/'test').parent
    order = [images[i].name for i in (2, 0, 3, 1)]
    table = write_table(data/'Testing_set.csv', [[n] for n in order], ['filename'])
    assert call(table, '--model', trained.run, '--submission', tmp_path/'s.csv') == 0
    assert (tmp_path/'s.csv').read_text() == 'filename,label\n' + ''.join(f'{n},{expected[n][0]}\n' for n in order)
    (data/'test'/order[1]).write_bytes(b'no image')
    assert call(table, '--model', trained.run, '--submission', tmp_path/'s.csv') == 1 and order[1] in capsys.readouterr().err
    assert [(r['filename'], r['label']) for r in rows(tmp_path/'s.csv')] == [(n, '' if i == 1 else expected[n][0]) for i, n in enumerate(order)]
    (data/'test'/order[1]).unlink()
    assert call(table, '--model', trained.run, '--submission', tmp_path/'s2.csv') == 2 and order[1] in capsys.readouterr().err and not (tmp_path/'s2.csv').exists()


@pytest.mark.parametrize('argv, words', [(['t/*.gif'], ['t/*.gif', 'no images']), (['t', '--csv', 'x', '--json', 'x'], ['--csv', '--json', 'same']), (['t', '--csv', '-', '--json', '-'], ['--csv', '--json', 'same']),
                                         (['t', '--submission', 's.csv'], ['--submission', 'table']), (['t', 'a.mp4'], ['clips', 'images']), (['a.mp4', '--submission', 's.csv'], ['--submission']),
                                         (['t', '--figure', 'f.png'], ['--figure', 'one clip']), (['a.mp4', 'b.mp4', '--figure', 'f.png'], ['--figure', 'one clip']), (['broken.zip'], ['broken.zip', 'zip']),
                                         (['a.mp4', '--fps', '0'], ['--fps', '0']), (['a.mp4', '--smooth', '-1'], ['--smooth', '-1']), (['bare.zip'], ['bare.zip', 'no images']), (['t', '--csv', 'd'], ['d'])])
def test_what_makes_no_sense_is_refused(trained, images, tmp_path, refuse, monkeypatch, argv, words):
    monkeypatch.chdir(tmp_path); (tmp_path/'t').symlink_to(images[0].parent); (tmp_path/'d').mkdir()
    (tmp_path/'broken.zip').write_bytes(b'PK\x03\x04 and nothing more')
    with zipfile.ZipFile('bare.zip', 'w') as z: z.writestr('notes.txt', 'no image')
    code, why = refuse(har_predict, *argv, '--model', trained.run)
    assert code == (1 if argv[-1] == 'd' else 2) and all(w in why for w in words), why
    assert {f.name for f in tmp_path.iterdir()} == {'t', 'd', 'broken.zip', 'bare.zip'}


# ---- streams ----

def test_answers_come_while_the_list_is_still_written(trained, images):
    with start('har_predict', '-', '--model', trained.run, stdin=subprocess.PIPE) as p:
        try:
            p.stdin.write('\n'.join([str(images[0])] * 200 + ['']).encode()); p.stdin.flush() # and the list goes on
            assert images[0].name in p.stdout.readline().decode()
            p.stdin.close(); rest = p.stdout.read().decode()
            assert rest.count(images[0].name) == 199 and p.wait(60) == 0
        finally: p.kill()


def test_an_interrupted_command_leaves_no_file(trained, images, tmp_path):
    with start('har_predict', '-', '--model', trained.run, '--csv', tmp_path/'t.csv', stdin=subprocess.PIPE) as p:
        try:
            p.stdin.write('\n'.join([str(images[0])] * 200 + ['']).encode()); p.stdin.flush()
            p.stdout.readline()
            assert [f.suffix for f in tmp_path.iterdir()] == ['.part'] # half-written, under another name
            p.send_signal(signal.SIGINT)
            assert p.wait(60) == 130 and 'Traceback' not in p.stderr.read().decode() and not list(tmp_path.iterdir())
        finally: p.kill()


@pytest.mark.skipif(sys.platform == 'win32', reason='there are no such terminals')
def test_a_bar_where_somebody_watches(trained, images, tmp_path):
    import pty
    code = 'import sys; sys.argv[0] = "har_predict"; from har_fastai.cli import har_predict; har_predict()'
    def on_terminal(*args):
        ours, theirs = pty.openpty()
        with subprocess.Popen([sys.executable, '-c', code, *map(str, args)], stdout=theirs, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as p:
            os.close(theirs); said = b''
            try:
                while piece := os.read(ours, 4096): said += piece
            except OSError: pass # the other end has closed
            err = p.stderr.read().decode()
        os.close(ours)
        return p.returncode, said.decode(), err
    (tmp_path/'broken.jpg').write_bytes(b'')
    code1, bar, err = on_terminal(images[0].parent, tmp_path/'broken.jpg', '--model', trained.run, '--csv', tmp_path/'t.csv')
    assert code1 == 1 and '%' in bar and images[0].name not in bar and 'broken.jpg' in err and len(rows(tmp_path/'t.csv')) == 5
    code2, lines, _ = on_terminal(images[0].parent, '--model', trained.run)
    assert code2 == 0 and '%' not in lines and all(f.name in lines for f in images)


def test_the_stream_answers_as_all_at_once(trained, images):
    from har_fastai.predict.predictor import Predictor
    p, rng = Predictor(trained.run), np.random.default_rng(0)
    mixed = [[*images, b'no image'][i] for i in rng.integers(0, 5, 60)]
    streamed, at_once = list(p.stream(iter(mixed))), p.try_probs(mixed)
    for (a, why), (b, why2), src in zip(streamed, at_once, mixed, strict=True):
        assert why == why2 and (a is None) == (src == b'no image') and (a is None or np.array_equal(a, b))


# ---- archives ----

def test_a_hostile_archive_spoils_no_other_image(trained, images, tmp_path, capsys):
    home = tmp_path/'home'; home.mkdir()
    with zipfile.ZipFile(home/'evil.zip', 'w', zipfile.ZIP_DEFLATED) as z:
        z.write(images[0], 'good.jpg'); z.writestr('bomb.png', bytes(80_000_000)); z.writestr('page.jpg', '<html>'); z.write(images[1], 'lzma.jpg', zipfile.ZIP_LZMA)
        for n in ('../up.jpg', '/abs.jpg', 'a/../../up.jpg', 'C:\\up.jpg'): z.writestr(zipfile.ZipInfo(n), images[0].read_bytes())
        z.writestr('inner.zip', b'PK'); z.writestr('.hidden.jpg', b''); z.writestr('dir/', b'')
    assert call(home/'evil.zip', '--model', trained.run, '--csv', tmp_path/'t.csv') == 1
    got = {r['path'].removeprefix(f'{home}/evil.zip/'): r['problem'] for r in rows(tmp_path/'t.csv')}
    assert {n for n, why in got.items() if not why} == {'good.jpg'} and set(got) == {'good.jpg', 'bomb.png', 'page.jpg', 'lzma.jpg', '../up.jpg', '/abs.jpg', 'a/../../up.jpg', 'C:/up.jpg', 'inner.zip'}
    assert 'MB' in got['bomb.png'] and 'deflate' in got['lzma.jpg'] and 'within' in got['inner.zip'] and all('leads out' in got[n] for n in got if 'up.jpg' in n or 'abs' in n)
    assert [f.name for f in home.iterdir()] == ['evil.zip'] and len(capsys.readouterr().err.splitlines()) == 9


# ---- clips ----

@pytest.fixture(scope='module')
def clip(trained, tmp_path_factory):
    "A clip of two drawings, four seconds each, of which the model says different things, and those"
    pytest.importorskip('av', reason='clips need PyAV: pip install "har_fastai[video]"')
    from har_fastai.images import open_image
    from har_fastai.predict.predictor import Predictor
    from har_fastai.testing import shake, write_clip
    p, rng = Predictor(trained.run, half=False), np.random.default_rng(0)
    files = sorted((trained.data/'train').iterdir())
    films = [shake(open_image(f), 40, rng, (128, 128), 2., .04) for f in files]
    probs = np.stack([p.probs(f[::20]).mean(0) for f in films])
    one = probs.max(1).argmax(); others = np.where(probs.argmax(1) == probs[one].argmax(), 0, probs.max(1)); two = others.argmax()
    assert others[two] > 0, 'the model says the same of all drawings'
    file = write_clip(tmp_path_factory.mktemp('clip')/'clip.mp4', films[one] + films[two])
    return file, [p.vocab[probs[i].argmax()] for i in (one, two)]


def test_a_clip_gets_a_timeline(trained, clip, tmp_path, capsys):
    file, labels = clip
    assert call(file, '--model', trained.run, '--csv', tmp_path/'t.csv', '--json', tmp_path/'t.jsonl', '--figure', tmp_path/'f.png', '--smooth', .5) == 0
    got, [whole] = rows(tmp_path/'t.csv'), [json.loads(l) for l in open(tmp_path/'t.jsonl')]
    assert [r['label'] for r in got] == labels and [s['label'] for s in whole['segments']] == labels and whole['problem'] is None
    assert (float(got[0]['start']), float(got[1]['end'])) == (0, 8) and abs(float(got[0]['end']) - 4) <= .5 and got[0]['end'] == got[1]['start']
    assert 0 < float(got[0]['probability']) <= 1 and whole['seconds'] == 8
    from PIL import Image
    with Image.open(tmp_path/'f.png') as img: assert img.format == 'PNG' and img.width > 700
    out = capsys.readouterr().out
    assert 'clip.mp4: 8.0 s, 16 frames' in out and all(l in out for l in labels)


def test_broken_clips_are_told_and_what_can_be_read_is_kept(trained, clip, tmp_path, capsys):
    import av
    from har_fastai.testing import shake, write_clip
    from helpers import image
    webm = write_clip(tmp_path/'whole.webm', shake(image(1, 128), 60, np.random.default_rng(0)))
    (tmp_path/'cut.webm').write_bytes(webm.read_bytes()[:webm.stat().st_size // 2])
    (tmp_path/'cut.mp4').write_bytes(clip[0].read_bytes()[:5000]); (tmp_path/'page.mov').write_text('<html>')
    with av.open(str(tmp_path/'sound.mp4'), 'w') as c:
        s = c.add_stream('aac', rate=8000)
        f = av.AudioFrame.from_ndarray(np.zeros((1, 4000), np.float32), format='fltp', layout='mono'); f.rate = 8000
        c.mux(s.encode(f)); c.mux(s.encode())
    assert call(tmp_path/'cut.webm', '--model', trained.run) == 1 and 'breaks off' in capsys.readouterr().err
    for name, why in (('cut.mp4', 'cut short'), ('page.mov', 'no video'), ('sound.mp4', 'no images'), ('gone.mp4', 'no such file')):
        assert call(tmp_path/name, '--model', trained.run) == 2
        err = capsys.readouterr().err
        assert why in err and name in err and err.count('\n') == 2 and 'Traceback' not in err
    assert call(*(tmp_path/n for n in ('cut.webm', 'page.mov', 'whole.webm')), '--model', trained.run, '--csv', tmp_path/'t.csv') == 1
    got = {r['path'].split('/')[-1]: r for r in rows(tmp_path/'t.csv')}
    assert got['whole.webm']['problem'] == '' and got['page.mov']['label'] == '' and 'breaks off' in got['cut.webm']['problem'] and got['cut.webm']['label']


def test_clips_want_an_extra(trained, clip, refuse, monkeypatch):
    monkeypatch.setitem(sys.modules, 'av', None)
    code, why = refuse(har_predict, clip[0], '--model', trained.run)
    assert code == 2 and 'pip install "har_fastai[video]"' in why


def test_a_list_that_calls_itself_a_clip_opens_nothing(trained, clip, tmp_path, refuse):
    import av
    (tmp_path/'list.mp4').write_text(f'#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{clip[0]}\n#EXT-X-ENDLIST\n')
    code, why = refuse(har_predict, tmp_path/'list.mp4', '--model', trained.run)
    assert code == 2 and 'the one clip could not be read' in why
