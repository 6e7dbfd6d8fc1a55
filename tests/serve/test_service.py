"The HTTP service: each client gets its own predictions, requests beyond a limit are refused, and the service keeps running"
import asyncio, io, json, signal, socket, sys, threading, time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import broken_images
import har_fastai.serve.service as service
from har_fastai import cli
from har_fastai.explain.gradcam import Explainer
from har_fastai.files import HARError
from har_fastai.images import find_images, open_image
from har_fastai.predict.predictor import Predictor
from har_fastai.serve.batching import BatchQueue, Refused
from har_fastai.serve.service import PREDICT_EXAMPLES, Limits, make_predict, docs_page, listen, make_service
from helpers import start

pytest.importorskip('fastapi')
from starlette.testclient import TestClient

MULTIPART = {'content-type': 'multipart/form-data; boundary=b'}
PART = b'--b\r\nContent-Disposition: form-data; name="f"; filename="%s"\r\n\r\n'


@pytest.fixture(scope='module')
def client(trained):
    with TestClient(make_service(trained.run)) as client: yield client


@pytest.fixture(scope='module')
def images(drawn): return find_images(drawn/'train')[:24]


@pytest.fixture(scope='module')
def expected(trained, images):
    "The classes, and the predictor's probabilities for each image"
    p = Predictor(trained.run)
    return p.vocab, dict(zip([f.name for f in images], p.probs(images)))


def form(files, field='files'):
    "Files, or their bytes, as a form"
    return [(field, (getattr(f, 'name', str(i)), f if isinstance(f, bytes) else f.read_bytes())) for i, f in enumerate(files)]


def encoded(img, **kw) -> bytes:
    b = io.BytesIO(); img.save(b, 'PNG', **kw)
    return b.getvalue()


def size_of(response): return Image.open(io.BytesIO(response.content)).size


def check(records, files, expected, top=5):
    "The predictions have the names of the files, their order and their values; classes of equal probability may change places"
    vocab, probs = expected
    assert [a['name'] for a in records] == [f.name for f in files]
    for a, f in zip(records, files):
        own, got = probs[f.name], np.array([t['probability'] for t in a['top']])
        assert a['problem'] is None and a['label'] == a['top'][0]['label'] and len(got) == top, f
        assert np.abs(got - np.sort(own)[::-1][:top]).max() < 1e-5
        assert np.abs(got - own[[vocab.index(t['label']) for t in a['top']]]).max() < 1e-5


# ---- predictions ----

def test_one_image(client, images, expected):
    r = client.post('/predict', files=form(images[:1], 'whatever'))
    assert r.status_code == 200; check(r.json()['predictions'], images[:1], expected)


def test_several_images_keep_their_order(client, images, expected):
    check(client.post('/predict?top=15', files=form(images[::-1])).json()['predictions'], images[::-1], expected, 15)


def test_batches_give_the_predictions_of_single_images(trained, images, expected):
    "As on a GPU: several images at a time in one thread"
    with TestClient(make_service(trained.run, threads=1, most=8)) as c:
        check(c.post('/predict', files=form(images)).json()['predictions'], images, expected)


def test_a_broken_image_does_not_affect_others(client, images, expected):
    r = client.post('/predict?top=2', files=form([images[0], images[1].read_bytes()[:300], b'', images[2]]))
    a = r.json()['predictions']
    assert r.status_code == 200 and [x['problem'] is None for x in a] == [True, False, False, True]
    assert a[1]['top'] == [] and a[1]['label'] is None
    check([a[0], a[3]], [images[0], images[2]], expected, 2)


@pytest.mark.parametrize('fault', [f for f in broken_images.UNREADABLE if f not in ('folder', 'link loop')])
def test_every_kind_of_broken_file(client, tmp_path, images, expected, fault):
    bad = broken_images.make(tmp_path/'bad', fault)
    r = client.post('/predict', files=form([bad, images[0]]))
    a, b = r.json()['predictions']
    assert r.status_code == 200 and broken_images.UNREADABLE[fault][2] in a['problem'] and a['problem'].startswith(bad.name)
    check([b], images[:1], expected)
    assert client.post('/explain', files=form([bad])).status_code == 422


def test_only_broken_images(client):
    r = client.post('/predict', files=form([b'', b'<html>']))
    assert r.status_code == 422 and 'none of the 2 images' in r.json()['detail'] and len(r.json()['predictions']) == 2


@pytest.mark.parametrize('send, words', [
    (dict(), 'multipart/form-data'), (dict(content=b'x', headers={'content-type': 'multipart/form-data'}), 'cannot be read as a form'),
    (dict(json={'a': 1}), 'no images'), (dict(content=PART % b'a.png' + b'abc', headers=MULTIPART), ''),
    (dict(data={'files': 'a.png'}), 'no images'), (dict(params={'top': 'many'}), "top is 'many'"), (dict(params={'top': -1}), 'top')])
def test_invalid_requests(client, send, words):
    r = client.post('/predict', **send)
    assert r.status_code == 422 and words in r.json()['detail'] and '\n' not in r.json()['detail'], r.text


# ---- limits ----

def test_limits(trained, images):
    bomb, large = encoded(Image.new('1', (20_000, 20_000))), encoded(Image.new('RGB', (1001, 1000)))
    cases = (([bomb], 422, 'megapixels'), ([large], 422, 'megapixels'), (images[:4], 413, 'more than 3 images'),
             ([bytes(400_000)], 413, 'limit is 300,000'))
    with TestClient(make_service(trained.run, limits=Limits(bytes=300_000, images=3, pixels=1_000_000))) as c:
        for files, status, words in cases:
            r = c.post('/predict', files=form(files))
            assert r.status_code == status and words in r.json()['detail'], r.text
        def endless(): # without a length
            yield PART % b'a.png'
            for _ in range(1000): yield bytes(10_000)
        r = c.post('/predict', content=endless(), headers=MULTIPART)
        assert r.status_code == 413 and 'more than 300,000 bytes' in r.json()['detail']
        assert c.post('/predict', files=form(images[:1])).status_code == 200


def test_the_limit_on_pixels_can_be_raised(trained):
    poster = encoded(Image.new('L', (10_000, 6500), 200)) # 65 megapixels
    for limits, status in ((Limits(), 422), (Limits(pixels=70_000_000), 200)):
        with TestClient(make_service(trained.run, limits=limits)) as c:
            for path in ('/predict', '/explain'): assert c.post(path, files=form([poster])).status_code == status, path


def test_a_full_queue_and_a_slow_network(trained, images, monkeypatch):
    "429 if too many images are waiting, 503 if there is no result in time; then the service works again"
    gate = threading.Event()
    def held(predictor, pixels):
        predict = make_predict(predictor, pixels)
        return lambda items: (gate.wait(), predict(items))[1]
    monkeypatch.setattr(service, 'make_predict', held)
    limited = make_service(trained.run, limits=Limits(queue=3, seconds=1.5), threads=1)
    with TestClient(limited) as c, ThreadPoolExecutor(4) as pool:
        def send(n): return pool.submit(c.post, '/predict', files=form(images[:n]))
        def until(n):
            end = time.monotonic() + 30
            while c.get('/health').json()['waiting'] < n: assert time.monotonic() < end; time.sleep(.01)
        waiting = [send(2)]; until(1) # one image is being processed
        waiting.append(send(2)); until(3) # and three wait
        r = c.post('/predict', files=form(images[:1]))
        assert r.status_code == 429 and 'queue is full' in r.json()['detail'] and r.headers['retry-after']
        for w in waiting: assert w.result().status_code == 503 and 'within 1.5 seconds' in w.result().json()['detail']
        gate.set()
        assert c.post('/predict', files=form(images[:2])).status_code == 200


def request(app, messages, path='/predict'):
    "Send messages to an ASGI app, where a number is a pause in seconds; return the status and the body of its response"
    sent, messages = [], iter(messages)
    async def receive():
        for m in messages:
            if not isinstance(m, float): return dict(type='http.request', body=m, more_body=True)
            await asyncio.sleep(m)
        return dict(type='http.disconnect')
    async def send(m): sent.append(m)
    headers = [(k.encode(), v.encode()) for k, v in MULTIPART.items()]
    scope = dict(type='http', method='POST', path=path, raw_path=path.encode(), query_string=b'', headers=headers, scheme='http',
                 server=('t', 80), client=('c', 1), http_version='1.1', root_path='')
    asyncio.run(app(scope, receive, send))
    return sent[0]['status'], b''.join(m.get('body', b'') for m in sent[1:])


def test_a_slow_client(trained):
    status, body = request(make_service(trained.run, limits=Limits(seconds=.3)), [b'--b\r\n', 5., b'...'])
    assert status == 408 and b'did not arrive within 0.3 seconds' in body


def test_a_client_that_disconnects(trained):
    "This is not an error of the service"
    app = make_service(trained.run)
    assert request(app, [b'--b\r\n'])[0] == 400 and b'connection was closed' in request(app, [])[1]


def test_too_many_requests_at_once(trained):
    app, done = make_service(trained.run, limits=Limits(requests=2, seconds=2)), []
    def slow(): done.append(request(app, [b'--b\r\n', 1.])[0])
    threads = [threading.Thread(target=slow) for _ in range(2)]
    for t in threads: t.start()
    time.sleep(.4)
    status, body = request(app, [b'--b\r\n'])
    assert status == 429 and b'2 requests are being processed already' in body
    for t in threads: t.join()
    assert done == [400, 400]


def test_a_failure_of_the_network_is_reported(trained, images, monkeypatch):
    "An exception in the network gives status 500, and the next request succeeds"
    fail = [True]
    def failing(predictor, pixels):
        predict = make_predict(predictor, pixels)
        def f(items):
            if fail: raise MemoryError('no room')
            return predict(items)
        return f
    monkeypatch.setattr(service, 'make_predict', failing)
    with TestClient(make_service(trained.run), raise_server_exceptions=False) as c:
        r = c.post('/predict', files=form(images[:1]))
        assert r.status_code == 500 and 'no room' not in r.text and r.json()['detail']
        fail.clear(); assert c.post('/predict', files=form(images[:1])).status_code == 200


# ---- explanations ----

def test_explanations(client, trained, images):
    want = Explainer(trained.run).explain(images[0], 'running')
    r = client.post('/explain?cls=running&format=json', files=form(images[:1])).json()
    assert np.abs(np.array(r['map']) - want.map).max() < 1e-3
    assert (r['cls'], r['label']) == ('running', want.label) and abs(r['probability'] - want.prob) < 1e-5
    png = client.post('/explain', files=form(images[:1]))
    assert png.headers['content-type'] == 'image/png' and size_of(png) == open_image(images[0]).size
    wide = encoded(Image.new('RGB', (3000, 30)))
    assert size_of(client.post('/explain', files=form([wide]))) == (1024, 10)


@pytest.mark.parametrize('n, query, words', [(2, '', 'one at a time'), (None, '', 'cannot be read'), (1, '?cls=juggling', 'juggling'),
                                             (1, '?format=gif', 'format'), (0, '', 'no images')])
def test_invalid_explanations(client, images, n, query, words):
    r = client.post(f'/explain{query}', files=form([b'x'] if n is None else images[:n]))
    assert r.status_code == 422 and words in r.json()['detail'], r.text


def test_the_exif_orientation_is_applied_once(client, trained, images, tmp_path):
    exif, p, explainer = Image.Exif(), Predictor(trained.run), Explainer(trained.run)
    wide = open_image(images[0]).resize((90, 60))
    for orientation in range(2, 9):
        exif[0x0112] = orientation; file = tmp_path/f'{orientation}.png'; wide.save(file, exif=exif)
        want = p.probs([file])[0]
        assert np.abs(want - p.probs([open_image(file)])[0]).max() < 1e-6
        answer = client.post('/predict?top=15', files=form([file])).json()['predictions'][0]
        assert max(abs(t['probability'] - want[p.vocab.index(t['label'])]) for t in answer['top']) < 1e-3
        assert size_of(client.post('/explain', files=form([file]))) == open_image(file).size
        r = client.post('/explain?format=json', files=form([file])).json()
        assert np.abs(np.array(r['map']) - explainer.explain(file).map).max() < 1e-3


def test_explanations_do_not_disturb_predictions(client, images, expected):
    "Hooks and gradients of heat-maps must not affect predictions"
    with ThreadPoolExecutor(6) as pool:
        maps = [pool.submit(client.post, '/explain', files=form([f])) for f in images[:6]]
        preds = [pool.submit(client.post, '/predict', files=form([f])) for f in images]
        for f, r in zip(images, preds): check(r.result().json()['predictions'], [f], expected)
    assert all(m.result().status_code == 200 for m in maps)


# ---- pages ----

def test_the_documentation_page_needs_no_network(client):
    page, api = client.get('/docs'), client.get('/openapi.json').json()
    assert set(api['paths']) == {'/predict', '/explain', '/health'} and all(p in page.text for p in api['paths'])
    assert '<script' not in page.text and 'src=' not in page.text and "default-src 'none'" in page.headers['content-security-policy']
    post = api['paths']['/predict']['post']
    assert post['requestBody']['content']['multipart/form-data'] and '422' in post['responses']
    assert client.get('/', follow_redirects=False).headers['location'] == '/docs' and client.get('/redoc').status_code == 404
    assert '&lt;b&gt;' in docs_page({**api, 'info': {**api['info'], 'title': '<b>'}})


def test_examples_name_the_address_of_the_service_and_work(client, images, tmp_path, monkeypatch, capsys):
    page = client.get('/docs', headers={'host': 'photos.example.org:8080'}).text
    assert 'http://photos.example.org:8080/predict?top=3' in page and '127.0.0.1' not in page
    assert '<x>' not in client.get('/docs', headers={'host': 'a"<x>'}).text
    monkeypatch.chdir(tmp_path)
    (tmp_path/'one.jpg').write_bytes(images[0].read_bytes())
    exec(PREDICT_EXAMPLES['Python'].replace('import requests', ''), {'requests': client})
    assert capsys.readouterr().out.startswith('one.jpg ')


def test_health(client, trained):
    h, card = client.get('/health').json(), json.loads((trained.run/'model.json').read_text())
    assert h['status'] == 'ok' and h['model']['sha256'] == card['sha256'] and h['waiting'] == 0


# ---- a server in a separate process ----

def serving(trained, *options, **kw):
    "Start a server; return its process and address"
    p = start('har_serve', trained.run, '--port', 0, *options, **kw)
    line = p.stdout.readline().decode()
    assert 'http://127.0.0.1:' in line, p.stderr.read().decode()
    return p, line.split()[2]


def post_during_stop(url, p, file, expected):
    "Begin a request, stop the server, wait until it accepts no connections, and send the rest, which must get a response"
    address = ('127.0.0.1', int(url.rpartition(':')[2]))
    body = PART % file.name.encode() + file.read_bytes() + b'\r\n--b--\r\n'
    headers = b'Host: x\r\nExpect: 100-continue\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: %d' % len(body)
    with socket.create_connection(address, timeout=30) as s:
        s.sendall(b'POST /predict HTTP/1.1\r\n' + headers + b'\r\n\r\n')
        assert s.recv(1000).startswith(b'HTTP/1.1 100'), 'the request has not begun'
        p.send_signal(signal.SIGTERM)
        for _ in range(600):
            try: socket.create_connection(address, timeout=30).close(); time.sleep(.05)
            except OSError: break
        s.sendall(body)
        response = b''.join(iter(lambda: s.recv(65536), b''))
    assert response.startswith(b'HTTP/1.1 200')
    check(json.loads(response.partition(b'\r\n\r\n')[2])['predictions'], [file], expected)


def test_a_real_server(trained, images, expected):
    "Eight clients at once over sockets; a body that is too large; a signal during a request"
    import httpx2 as httpx
    p, url = serving(trained)
    def client(k):
        with httpx.Client(base_url=url, timeout=60) as c:
            for i in range(k, k + 6):
                own = images[i % 20:i % 20 + 1 + i % 3]
                check(c.post('/predict', files=form(own)).json()['predictions'], own, expected)
    try:
        with ThreadPoolExecutor(8) as pool: list(pool.map(client, range(8)))
        r = httpx.post(f'{url}/predict', files=form([bytes(40_000_000)]), timeout=60) # the response arrives although the body is too large
        assert r.status_code == 413 and 'the limit is 32,000,000' in r.json()['detail']
        post_during_stop(url, p, images[0], expected)
        out, err = p.communicate(timeout=60)
        assert p.returncode == 0 and b'Stopped.' in out and b'Traceback' not in err, err
    finally: p.kill(); p.wait()


def test_a_port_in_use(trained, refuse):
    with listen(port=0) as sock:
        code, message = refuse(cli.har_serve, trained.run, '--port', sock.getsockname()[1])
    assert code == 2 and 'already in use' in message and '--port' in message


@pytest.mark.parametrize('argv, words', [(['--port', 99999], '--port'), (['--host', 'nowhere.invalid'], 'nowhere.invalid'),
                                         (['--device', 'abacus', '--port', 0], 'abacus')])
def test_invalid_options(trained, refuse, argv, words):
    code, message = refuse(cli.har_serve, trained.run, *argv)
    assert code == 2 and words in message


@pytest.mark.parametrize('missing', ['fastapi', 'python_multipart'])
def test_a_missing_package_is_named(trained, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(HARError, match=r'pip install "har_fastai\[serve\]"'): make_service(trained.run)


# ---- the queue ----

@pytest.mark.parametrize('threads, most', [(3, 1), (2, 8)])
def test_the_queue_loses_nothing(threads, most):
    "Many threads submit items, several process them: every thread gets the results of its own items"
    def process(items): time.sleep(.001); return [i * i for i in items]
    with BatchQueue(process, threads, most, wait=.002, length=10_000) as b, ThreadPoolExecutor(16) as pool:
        def submit(k): return [f.result() for f in b.submit(list(range(k, k + 7)))] == [i * i for i in range(k, k + 7)]
        assert all(pool.map(submit, range(300)))
    with pytest.raises(Refused): b.submit([1])


def test_pages_of_other_origins(trained, images):
    "By default no page of another origin may use the service; `origins` names those that may"
    for origins, allowed in (((), None), (('https://example.org',), 'https://example.org')):
        with TestClient(make_service(trained.run, origins=origins)) as c:
            r = c.post('/predict', files=form(images[:1]), headers={'Origin': 'https://example.org'})
            assert r.status_code == 200 and r.headers.get('access-control-allow-origin') == allowed
            r = c.post('/predict', files=form(images[:1]), headers={'Origin': 'https://other.org'})
            assert 'access-control-allow-origin' not in r.headers


def test_an_empty_upload_is_called_empty(client, trained):
    r = client.post('/predict', files=[('files', ('a.jpg', b''))])
    assert r.status_code == 422 and 'it is empty' in r.json()['predictions'][0]['problem']
