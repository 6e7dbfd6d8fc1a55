"The service answers each client what is its own, refuses with one sentence what's beyond its limits, and outlives all of it"
import asyncio, io, json, signal, socket, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from har_fastai import cli
from har_fastai.explain.gradcam import Explainer
from har_fastai.files import HARError
from har_fastai.images import find_images, open_image
from har_fastai.predict.predictor import Predictor
from har_fastai.serve.batching import BatchQueue, Refused
from har_fastai.serve.service import Limits, make_predict, docs_page, listen, make_service
from helpers import start

pytest.importorskip('fastapi')
from starlette.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parent/'faults'))
import broken


@pytest.fixture(scope='module')
def app(trained): return make_service(trained.run)


@pytest.fixture(scope='module')
def client(app):
    with TestClient(app) as client: yield client


@pytest.fixture(scope='module')
def images(drawn): return find_images(drawn/'train')[:24]


@pytest.fixture(scope='module')
def truth(trained, images):
    "What the predictor says of each image"
    p = Predictor(trained.run)
    return p.vocab, dict(zip([f.name for f in images], p.probs(images)))


def form(files, field='files'): return [(field, (getattr(f, 'name', str(i)), f if isinstance(f, bytes) else f.read_bytes())) for i, f in enumerate(files)]


def right(answers, files, truth, top=5):
    vocab, probs = truth
    assert [a['name'] for a in answers] == [f.name for f in files]
    for a, f in zip(answers, files):
        best = probs[f.name].argsort()[::-1][:top]
        assert a['problem'] is None and a['label'] == vocab[best[0]] and [t['label'] for t in a['top']] == [vocab[i] for i in best], f
        assert np.abs(np.array([t['probability'] for t in a['top']]) - probs[f.name][best]).max() < 1e-5


def test_one_image(client, images, truth):
    r = client.post('/predict', files=form(images[:1], 'whatever'))
    assert r.status_code == 200; right(r.json()['answers'], images[:1], truth)


def test_many_images_in_their_order(client, images, truth):
    right(client.post('/predict?top=15', files=form(images[::-1])).json()['answers'], images[::-1], truth, 15)


def test_a_broken_image_spoils_no_other(client, images, truth):
    r = client.post('/predict?top=2', files=form([images[0], images[1].read_bytes()[:300], b'', images[2]]))
    a = r.json()['answers']
    assert r.status_code == 200 and [x['problem'] is None for x in a] == [True, False, False, True] and a[1]['top'] == [] and a[1]['label'] is None
    right([a[0], a[3]], [images[0], images[2]], truth, 2)


def test_only_broken_images(client):
    r = client.post('/predict', files=form([b'', b'<html>']))
    assert r.status_code == 422 and 'none of the 2 images' in r.json()['detail'] and len(r.json()['answers']) == 2


@pytest.mark.parametrize('send, status, told', [
    (dict(), 422, 'multipart/form-data'), (dict(content=b'x', headers={'content-type': 'multipart/form-data'}), 422, 'cannot be read as a form'), (dict(json={'a': 1}), 422, 'no images'),
    (dict(content=b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nabc', headers={'content-type': 'multipart/form-data; boundary=b'}), 422, ''),
    (dict(data={'files': 'a.png'}), 422, 'no images'), (dict(params={'top': 'many'}), 422, "top is 'many'"), (dict(params={'top': -1}), 422, 'top')])
def test_what_is_no_request(client, send, status, told):
    r = client.post('/predict', **send)
    assert r.status_code == status and told in r.json()['detail'] and '\n' not in r.json()['detail'], r.text


def test_limits(trained, images):
    app = make_service(trained.run, limits=Limits(bytes=300_000, images=3, pixels=1_000_000))
    bomb, large = io.BytesIO(), io.BytesIO()
    Image.new('1', (20_000, 20_000)).save(bomb, 'PNG'); Image.new('RGB', (1001, 1000)).save(large, 'PNG')
    with TestClient(app) as c:
        for files, status, told in (([bomb.getvalue()], 422, 'megapixels'), ([large.getvalue()], 422, 'megapixels'), (images[:4], 413, 'more than 3 images'), ([bytes(400_000)], 413, 'limit is 300,000')):
            r = c.post('/predict', files=form(files)); assert r.status_code == status and told in r.json()['detail'], r.text
        def endless(): # says nothing of its length
            yield b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n'
            for _ in range(1000): yield bytes(10_000)
        r = c.post('/predict', content=endless(), headers={'content-type': 'multipart/form-data; boundary=b'})
        assert r.status_code == 413 and 'more than 300,000 bytes' in r.json()['detail']
        assert c.post('/predict', files=form(images[:1])).status_code == 200


def test_a_limit_of_pixels_may_be_raised(trained):
    poster = io.BytesIO(); Image.new('L', (10_000, 6500), 200).save(poster, 'PNG') # 65 megapixels
    for limits, status in ((Limits(), 422), (Limits(pixels=70_000_000), 200)):
        with TestClient(make_service(trained.run, limits=limits)) as c:
            for path in ('/predict', '/explain'): assert c.post(path, files=form([poster.getvalue()]), params={}).status_code == status, path


def test_a_full_queue_and_a_slow_network(trained, images, monkeypatch):
    "429 where too much waits, 503 where it takes too long; then all is well again"
    import har_fastai.serve.service as s
    gate = threading.Event()
    def held(predictor, pixels):
        answer = make_predict(predictor, pixels)
        return lambda items: (gate.wait(), answer(items))[1]
    monkeypatch.setattr(s, 'make_predict', held)
    with TestClient(make_service(trained.run, limits=Limits(queue=3, seconds=1.5), threads=1)) as c, ThreadPoolExecutor(4) as pool:
        def until(n):
            end = time.monotonic() + 30
            while c.get('/health').json()['waiting'] < n: assert time.monotonic() < end; time.sleep(.01)
        waiting = [pool.submit(c.post, '/predict', files=form(images[:2]))]; until(1) # one image is being answered
        waiting.append(pool.submit(c.post, '/predict', files=form(images[:2]))); until(3) # and three wait
        r = c.post('/predict', files=form(images[:1]))
        assert r.status_code == 429 and 'waiting already' in r.json()['detail'] and r.headers['retry-after']
        for w in waiting: r = w.result(); assert r.status_code == 503 and 'within 1.5 seconds' in r.json()['detail']
        gate.set()
        assert c.post('/predict', files=form(images[:2])).status_code == 200


def ask(app, messages, path='/predict'):
    "Speak ASGI to an app by hand; gives the status and the body of its response. A message that's a number is a pause, in seconds"
    sent, messages = [], iter(messages)
    async def receive():
        for m in messages:
            if not isinstance(m, float): return dict(type='http.request', body=m, more_body=True)
            await asyncio.sleep(m)
        return dict(type='http.disconnect')
    async def send(m): sent.append(m)
    scope = dict(type='http', method='POST', path=path, raw_path=path.encode(), query_string=b'', headers=[(b'content-type', b'multipart/form-data; boundary=b')], scheme='http', server=('t', 80), client=('c', 1), http_version='1.1', root_path='')
    asyncio.run(app(scope, receive, send))
    return sent[0]['status'], b''.join(m.get('body', b'') for m in sent[1:])


def test_a_slow_sender(trained):
    status, body = ask(make_service(trained.run, limits=Limits(seconds=.3)), [b'--b\r\n', 5., b'...'])
    assert status == 408 and b'did not arrive within 0.3 seconds' in body


def test_a_sender_who_hangs_up(trained):
    "Is no failure of the service, and leaves nothing behind"
    app = make_service(trained.run)
    assert ask(app, [b'--b\r\n'])[0] == 400 and b'hung up' in ask(app, [])[1]


def test_too_many_requests_at_once(trained):
    app, done = make_service(trained.run, limits=Limits(requests=2, seconds=2)), []
    def slow(): done.append(ask(app, [b'--b\r\n', 1.])[0])
    threads = [threading.Thread(target=slow) for _ in range(2)]
    for t in threads: t.start()
    time.sleep(.4)
    status, body = ask(app, [b'--b\r\n'])
    assert status == 429 and b'2 requests are being answered already' in body
    for t in threads: t.join()
    assert done == [400, 400]


def test_explanations(client, trained, images):
    told = Explainer(trained.run).explain(images[0], 'running')
    r = client.post('/explain?cls=running&format=json', files=form(images[:1])).json()
    assert np.abs(np.array(r['map']) - told.map).max() < 1e-3 and (r['cls'], r['label']) == ('running', told.label) and abs(r['probability'] - told.prob) < 1e-5
    png = client.post('/explain', files=form(images[:1]))
    assert png.headers['content-type'] == 'image/png' and Image.open(io.BytesIO(png.content)).size == open_image(images[0]).size
    wide = io.BytesIO(); Image.new('RGB', (3000, 30)).save(wide, 'PNG')
    assert Image.open(io.BytesIO(client.post('/explain', files=form([wide.getvalue()])).content)).size == (1024, 10)
    for files, query, what in ((images[:2], '', 'one at a time'), ([b'x'], '', 'cannot be read'), (images[:1], '?cls=juggling', 'juggling'), (images[:1], '?format=gif', 'format'), ([], '', 'no images')):
        r = client.post(f'/explain{query}', files=form(files)); assert r.status_code == 422 and what in r.json()['detail'], r.text


def test_a_turned_photo_is_turned_once(client, trained, images, tmp_path):
    "Phones write how to turn an image beside it; every way in gives the answer to the image as people see it"
    exif, p, explainer = Image.Exif(), Predictor(trained.run), Explainer(trained.run)
    wide = open_image(images[0]).resize((90, 60))
    for orientation in range(2, 9):
        exif[0x0112] = orientation; file = tmp_path/f'{orientation}.png'; wide.save(file, exif=exif)
        want = p.probs([file])[0]
        assert np.abs(want - p.probs([open_image(file)])[0]).max() < 1e-6
        answer = client.post('/predict?top=15', files=form([file])).json()['answers'][0]
        assert max(abs(t['probability'] - want[p.vocab.index(t['label'])]) for t in answer['top']) < 1e-3
        assert Image.open(io.BytesIO(client.post('/explain', files=form([file])).content)).size == open_image(file).size
        told = client.post('/explain?format=json', files=form([file])).json()
        assert np.abs(np.array(told['map']) - explainer.explain(file).map).max() < 1e-3


def test_explaining_does_not_disturb_predicting(client, images, truth):
    "Both at once: hooks and gradients of the one must not meet the other"
    with ThreadPoolExecutor(6) as pool:
        maps = [pool.submit(client.post, '/explain', files=form([f])) for f in images[:6]]
        preds = [pool.submit(client.post, '/predict', files=form([f])) for f in images]
        for f, r in zip(images, preds): right(r.result().json()['answers'], [f], truth)
    assert all(m.result().status_code == 200 for m in maps)


@pytest.mark.parametrize('fault', [f for f in broken.UNREADABLE if f not in ('folder', 'link loop')])
def test_every_kind_of_broken_file(client, tmp_path, images, truth, fault):
    bad = broken.make(tmp_path/'bad', fault)
    r = client.post('/predict', files=form([bad, images[0]]))
    a, b = r.json()['answers']
    assert r.status_code == 200 and broken.UNREADABLE[fault][2] in a['problem'] and a['problem'].startswith(bad.name); right([b], images[:1], truth)
    assert client.post('/explain', files=form([bad])).status_code == 422


def test_the_page_needs_no_network(client):
    page, api = client.get('/docs'), client.get('/openapi.json').json()
    assert set(api['paths']) == {'/predict', '/explain', '/health'} and all(p in page.text for p in api['paths'])
    assert '<script' not in page.text and 'src=' not in page.text and "default-src 'none'" in page.headers['content-security-policy']
    assert api['paths']['/predict']['post']['requestBody']['content']['multipart/form-data'] and '422' in api['paths']['/predict']['post']['responses']
    assert client.get('/', follow_redirects=False).headers['location'] == '/docs' and client.get('/redoc').status_code == 404
    assert '&lt;b&gt;' in docs_page({**api, 'info': {**api['info'], 'title': '<b>'}})


def test_health(client, trained):
    h = client.get('/health').json()
    assert h['status'] == 'ok' and h['model']['sha256'] == json.loads((trained.run/'model.json').read_text())['sha256'] and h['waiting'] == 0


def test_batches_answer_as_single_images_do(trained, images, truth):
    "As on a GPU: many images at a time in one thread"
    with TestClient(make_service(trained.run, threads=1, most=8)) as c:
        right(c.post('/predict', files=form(images)).json()['answers'], images, truth)


def test_a_failure_of_the_network_is_told_and_survived(trained, images, monkeypatch):
    import har_fastai.serve.service as s
    fail = [True]
    def moody(predictor, pixels):
        answer = make_predict(predictor, pixels)
        def f(items):
            if fail: raise MemoryError('no room')
            return answer(items)
        return f
    monkeypatch.setattr(s, 'make_predict', moody)
    with TestClient(make_service(trained.run), raise_server_exceptions=False) as c:
        r = c.post('/predict', files=form(images[:1])); assert r.status_code == 500 and 'no room' not in r.text and r.json()['detail']
        fail.clear(); assert c.post('/predict', files=form(images[:1])).status_code == 200


def serving(trained, *options, **kw):
    "A real server in a process of its own, and its address"
    p = start('har_serve', trained.run, '--port', 0, *options, **kw)
    line = p.stdout.readline().decode()
    assert 'http://127.0.0.1:' in line, p.stderr.read().decode()
    return p, line.split()[2]


def right_after_stop(url, p, file, truth):
    "Begin a request, tell the server to stop, wait until nobody new is let in, and send the rest: it's answered all the same"
    address = ('127.0.0.1', int(url.rpartition(':')[2]))
    body = b'--b\r\nContent-Disposition: form-data; name="f"; filename="%s"\r\n\r\n' % file.name.encode() + file.read_bytes() + b'\r\n--b--\r\n'
    with socket.create_connection(address, timeout=30) as s:
        s.sendall(b'POST /predict HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\n\r\n' % len(body))
        assert s.recv(1000).startswith(b'HTTP/1.1 100'), 'the request is inside'
        p.send_signal(signal.SIGTERM)
        for _ in range(600):
            try: socket.create_connection(address, timeout=30).close(); time.sleep(.05)
            except OSError: break
        s.sendall(body)
        said = b''.join(iter(lambda: s.recv(65536), b''))
    right(json.loads(said.partition(b'\r\n\r\n')[2])['answers'], [file], truth)
    return said.startswith(b'HTTP/1.1 200')


def test_a_real_server(trained, images, truth):
    "Eight clients at once over sockets; a body that's too large; then a signal in mid-request"
    import httpx2 as httpx
    p, url = serving(trained)
    try:
        def one(k):
            with httpx.Client(base_url=url, timeout=60) as c:
                for i in range(k, k + 6): mine = images[i % 20:i % 20 + 1 + i % 3]; right(c.post('/predict', files=form(mine)).json()['answers'], mine, truth)
        with ThreadPoolExecutor(8) as pool: list(pool.map(one, range(8)))
        r = httpx.post(f'{url}/predict', files=form([bytes(40_000_000)]), timeout=60) # larger than it may be: the answer is read all the same
        assert r.status_code == 413 and 'the limit is 32,000,000' in r.json()['detail']
        assert right_after_stop(url, p, images[0], truth)
        out, err = p.communicate(timeout=60)
        assert p.returncode == 0 and b'Stopped.' in out and b'Traceback' not in err, err
    finally: p.kill(); p.wait()


def test_a_port_in_use(trained, refuse):
    with listen(port=0) as sock:
        code, told = refuse(cli.har_serve, trained.run, '--port', sock.getsockname()[1])
    assert code == 2 and 'already in use' in told and '--port' in told


@pytest.mark.parametrize('argv, told', [(['--port', 99999], '--port'), (['--host', 'nowhere.invalid'], 'nowhere.invalid'), (['--device', 'abacus', '--port', 0], 'abacus')])
def test_what_cannot_be_served(trained, refuse, argv, told):
    code, said = refuse(cli.har_serve, trained.run, *argv)
    assert code == 2 and told in said


@pytest.mark.parametrize('lacking', ['fastapi', 'python_multipart'])
def test_a_missing_extra_is_named(trained, monkeypatch, lacking):
    monkeypatch.setitem(sys.modules, lacking, None)
    with pytest.raises(HARError, match=r'pip install "har_fastai\[serve\]"'): make_service(trained.run)


def test_the_queue_loses_nothing():
    "Many threads put in, several take out: every answer is its asker's"
    def answer(items): time.sleep(.001); return [i * i for i in items]
    for threads, most in ((3, 1), (2, 8)):
        with BatchQueue(answer, threads, most, wait=.002, length=10_000) as b, ThreadPoolExecutor(16) as pool:
            def asks(k): return [f.result() for f in b.submit(list(range(k, k + 7)))] == [i * i for i in range(k, k + 7)]
            assert all(pool.map(asks, range(300)))
    with pytest.raises(Refused): b.submit([1])
