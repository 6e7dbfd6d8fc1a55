"""The HTTP service under load, compared with plain FastAPI handlers, all on one machine in one run.

Four servers run in processes of their own and are loaded alternately: the service as `har_serve` starts it; the service with
batches of up to 32 images, gathered for a few milliseconds; a plain FastAPI handler with eager PyTorch (`async def`, as in most
examples); and the same handler as `def`, which FastAPI runs in threads. Clients send one image per request over persistent
connections without pauses, and compare each response with the prediction of `Predictor`. Then 32 clients send 500 uploads, every
fifth of them hostile. Clients and server share the cores, so the results are those of a small machine. Prints one JSON line;
ratios above 1 mean that the service is faster.
"""
from __future__ import annotations
import argparse, contextlib, http.client, json, os, random, re, socket, subprocess, sys, tempfile, threading, time, zlib
from pathlib import Path
from statistics import median
import fastapi, numpy as np, torch
from har_fastai.images import preprocess, find_images, open_image
from har_fastai.predict.base import shipped_model
from har_fastai.predict.bundle import load_bundle
from har_fastai.predict.predictor import Predictor
from har_fastai.drawing.dataset import draw_har
from har_fastai.serve.service import listen, make_service, serve

SIDES = ('service', 'gathered', 'plain', 'plain_threads')
CLIENTS = (1, 8, 32)
HOSTILE = ('empty', 'text', 'cut', 'bomb', 'too long', 'hangs up', 'no HTTP', 'no form')

def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--model', metavar='RUN', help='folder of a run (default: the included model, else one is trained on drawings)')
    p.add_argument('--data', metavar='DIR', help='folder of images (default: drawings)')
    p.add_argument('--n', type=int, default=200, help='number of images (default: 200)')
    p.add_argument('--seconds', type=float, default=6, help='duration of each measurement (default: 6)')
    p.add_argument('--rounds', type=int, default=5, help='measurements of each server with each number of clients (default: 5)')
    p.add_argument('--uploads', type=int, default=500, help='number of uploads in the hostile part (default: 500)')
    p.add_argument('--quick', action='store_true', help='a trial run of about a minute: one round of 2 seconds, 100 uploads')
    p.add_argument('--serve', choices=SIDES, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.quick: a.seconds, a.rounds, a.uploads = min(a.seconds, 2), 1, min(a.uploads, 100)
    return a

def plain_app(run, threads:bool):
    "A handler as in most examples: open, resize, normalise, one image at a time through eager PyTorch"
    model, card = load_bundle(run)
    app = fastapi.FastAPI()
    def classify(data):
        array = preprocess(open_image(data), card.size, tuple(card.mean), tuple(card.std), card.resize)
        x = torch.from_numpy(array)[None]
        with torch.no_grad(): z = model(torch.cat([x, x.flip(-1)])).mean(0) if card.tta else model(x)[0]
        p = (z / card.temperature).softmax(0)
        return dict(label=card.vocab[int(p.argmax())], probability=float(p.max()))
    if threads:
        @app.post('/predict')
        def predict(files:fastapi.UploadFile): return classify(files.file.read())
    else:
        @app.post('/predict')
        async def predict(files:fastapi.UploadFile): return classify(await files.read())
    return app

def run_server(side, run):
    "Run a server in this process"
    with listen(port=0) as sock:
        options = dict(threads=1, most=32) if side == 'gathered' else {}
        app = plain_app(run, side == 'plain_threads') if side.startswith('plain') else make_service(run, **options)
        print(sock.getsockname()[1], flush=True)
        serve(app, sock)

class Server:
    "A server in a process of its own"
    def __init__(self, side, run):
        self.side = side
        command = [sys.executable, __file__, '--serve', side, '--model', str(run)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())
    def connect(self): return http.client.HTTPConnection('127.0.0.1', self.port, timeout=120)
    def memory(self, what):
        "Memory in MB (Linux)"
        if not Path('/proc').is_dir(): return None
        return int(re.search(rf'{what}:\s+(\d+)', Path(f'/proc/{self.process.pid}/status').read_text())[1]) / 1024
    def stop(self): self.process.terminate(); self.process.wait(60)

def form(data:bytes) -> tuple[bytes, dict]:
    "An upload as a browser sends it: body and headers"
    head = (b'--xxBORDERxx\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n'
            b'Content-Type: image/jpeg\r\n\r\n')
    return head + data + b'\r\n--xxBORDERxx--\r\n', {'Content-Type': 'multipart/form-data; boundary=xxBORDERxx'}

def right(body, truth) -> bool:
    "Whether a response equals the prediction of `Predictor` for the image"
    a = json.loads(body)
    a = a['answers'][0] if 'answers' in a else a
    return a['label'] == truth[0] and abs(a['probability'] - truth[1]) < 1e-3

class Load:
    "The results of a group of clients"
    def __init__(self): self.times, self.wrong, self.failed, self.lock = [], 0, 0, threading.Lock()
    def add(self, times, wrong, failed):
        with self.lock: self.times += times; self.wrong += wrong; self.failed += failed

def client(server, images, truth, until, seed, load):
    "Send images one after the other until a point in time"
    rng, c, times, wrong, failed = random.Random(seed), server.connect(), [], 0, 0
    while time.perf_counter() < until:
        i = rng.randrange(len(images)); body, head = images[i]
        start = time.perf_counter()
        try:
            c.request('POST', '/predict', body, head); r = c.getresponse(); response = r.read()
            if r.status == 200: times.append(time.perf_counter() - start); wrong += not right(response, truth[i])
            else: failed += 1
        except (OSError, http.client.HTTPException): failed += 1; c.close()
    c.close(); load.add(times, wrong, failed)

def turn(server, clients, seconds, images, truth, seed=0):
    "Load a server with several clients at once"
    load, began = Load(), time.perf_counter()
    threads = [threading.Thread(target=client, args=(server, images, truth, began + seconds, seed + k, load))
               for k in range(clients)]
    for t in threads: t.start()
    for t in threads: t.join()
    load.seconds = time.perf_counter() - began
    return load

def bomb() -> bytes:
    "A PNG of 200 megapixels in a few kilobytes"
    def chunk(kind, data): return len(data).to_bytes(4, 'big') + kind + data + zlib.crc32(kind + data).to_bytes(4, 'big')
    rows = zlib.compress(bytes(2501 * 10_000), 9)
    size = (20_000).to_bytes(4, 'big') + (10_000).to_bytes(4, 'big')
    chunks = chunk(b'IHDR', size + b'\x01\0\0\0\0') + chunk(b'IDAT', rows) + chunk(b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + chunks

def attack(server, kind, data, evil):
    "Send a hostile upload; the status of the response, or 0 without one"
    if kind in ('hangs up', 'no HTTP'):
        with socket.create_connection(('127.0.0.1', server.port), timeout=60) as s:
            body, head = form(data)
            start = (f'POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {head["Content-Type"]}\r\n'
                     f'Content-Length: {len(body)}\r\n\r\n').encode()
            s.sendall(b'\x16\x03\x01' * 50 if kind == 'no HTTP' else start + body[:len(body) // 2])
        return 0
    files = {'empty': b'', 'text': b'<html>no image', 'cut': data[:len(data) // 2], 'bomb': evil, 'too long': bytes(40_000_000)}
    body, head = (data, {'Content-Type': 'image/jpeg'}) if kind == 'no form' else form(files[kind])
    c = server.connect()
    try:
        c.request('POST', '/predict', body, head)
        return c.getresponse().status
    except (OSError, http.client.HTTPException): return 0
    finally: c.close()

def hostile_uploads(server, images, raw, truth, uploads, clients=32):
    "Send many uploads, every fifth of them hostile; a summary of the responses"
    load, seen, evil, todo, lock = Load(), {}, bomb(), iter(range(uploads)), threading.Lock()
    def take():
        with lock: return next(todo, None)
    def send_hostile(i):
        kind = HOSTILE[i // 5 % len(HOSTILE)]
        status = attack(server, kind, raw[i % len(raw)], evil)
        with lock: seen.setdefault(kind, set()).add(status)
    def good(i):
        c, (body, head), start = server.connect(), images[i % len(images)], time.perf_counter()
        try:
            c.request('POST', '/predict', body, head)
            r = c.getresponse(); response, ok = r.read(), r.status == 200
        except (OSError, http.client.HTTPException): ok = False
        finally: c.close()
        load.add([time.perf_counter() - start] if ok else [], ok and not right(response, truth[i % len(images)]), not ok)
    def work():
        while (i := take()) is not None: (good if i % 5 else send_hostile)(i)
    threads = [threading.Thread(target=work) for _ in range(clients)]
    for t in threads: t.start()
    for t in threads: t.join()
    c = server.connect(); c.request('GET', '/health'); health = json.loads(c.getresponse().read())
    up = server.process.poll() is None and health['status'] == 'ok' and health['waiting'] == 0
    return dict(good=len(load.times), wrong=load.wrong, lost=load.failed, up=up,
                hostile={k: sorted(v) for k, v in sorted(seen.items())})

def trained(a, tmp):
    "The run to serve"
    if a.model: return Path(a.model)
    if (shipped_model()/'model.json').is_file(): return shipped_model()
    from har_fastai.core import train_baseline
    train_baseline(out=tmp/'run', faithfulness=0)
    return tmp/'run'

def percentile(times, p): return 1e3 * float(np.percentile(times, p)) if times else None

def main(a, tmp):
    run = trained(a, tmp)
    files = find_images(a.data or draw_har(tmp/'har', n=60, size=240))[:a.n]
    raw = [f.read_bytes() for f in files]
    predictor, images = Predictor(run), [form(d) for d in raw]
    def predictions(p): return [(p.vocab[q.argmax()], float(q.max())) for q in p.probs(raw)]
    truth = dict.fromkeys(SIDES[:2], predictions(predictor))
    truth |= dict.fromkeys(SIDES[2:], predictions(Predictor(run, half=False))) # plain handlers compute in 32 bits
    servers = {s: Server(s, run) for s in SIDES}
    try:
        loads = {(s, n): [] for s in SIDES for n in CLIENTS}
        for s, server in servers.items():
            warm = turn(server, 4, 1, images, truth[s])
            if warm.failed or warm.wrong or not warm.times:
                raise SystemExit(f'{s} fails: {len(warm.times)} responses, {warm.wrong} wrong, {warm.failed} lost')
        for r in range(a.rounds):
            for n in CLIENTS:
                for s in SIDES: loads[s, n].append(turn(servers[s], n, a.seconds, images, truth[s], 1000 * r))
        idle = servers['service'].memory('VmRSS')
        hostile = hostile_uploads(servers['service'], images, raw, truth['service'], a.uploads)
        peak = servers['service'].memory('VmHWM')
    finally:
        for s in servers.values(): s.stop()
    rate = {k: median(len(l.times) / l.seconds for l in v) for k, v in loads.items()}
    def summary(s, n):
        times = [x for l in loads[s, n] for x in l.times]
        return dict(per_s=rate[s, n], p50_ms=percentile(times, 50), p95_ms=percentile(times, 95))
    ours = [l for (s, n), v in loads.items() if s == 'service' for l in v]
    others = [l for (s, n), v in loads.items() if s != 'service' for l in v]
    card = predictor.card
    return dict(what='requests per second of the service, over those of other servers',
                ratios={f'{o}_{n}': rate['service', n] / rate[o, n] for o in SIDES[1:] for n in CLIENTS},
                servers={s: {str(n): summary(s, n) for n in CLIENTS} for s in SIDES},
                answered=sum(len(l.times) for l in ours), wrong=sum(l.wrong for l in ours), lost=sum(l.failed for l in ours),
                wrong_elsewhere=sum(l.wrong for l in others), hostile_uploads=hostile,
                memory_mb=dict(before_hostile_uploads=idle, peak=peak),
                uploads=a.uploads, arch=card.arch, size=card.size, tta=card.tta,
                bfloat16=predictor.dtype is torch.bfloat16, images=a.data and 'own' or 'drawn', n=len(raw),
                mean_kb=sum(map(len, raw)) / len(raw) / 1e3, seconds=a.seconds, rounds=a.rounds,
                threads=torch.get_num_threads(), cores=os.cpu_count(), load_1min=os.getloadavg()[0],
                python=sys.version.split()[0], torch=torch.__version__)

def rounded(x):
    "Numbers to four digits, in nested dicts"
    return {k: rounded(v) for k, v in x.items()} if isinstance(x, dict) else float(f'{x:.4g}') if isinstance(x, float) else x

if __name__ == '__main__':
    args = options()
    if args.serve: run_server(args.serve, args.model)
    else:
        with tempfile.TemporaryDirectory() as d, contextlib.redirect_stdout(sys.stderr): result = main(args, Path(d))
        print(json.dumps(rounded(result)))
