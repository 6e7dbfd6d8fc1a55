"""The page of `har_export --format web` in headless Chromium, compared with Python on photographs.

The same images are predicted in the page and by a `Predictor` in 32 bits. Prints one JSON line: the share of equal labels and of
equal verdicts about unsure predictions, the largest difference of a probability, the size of the page, and the milliseconds of an
image (preprocessing and network, one thread). Needs --data, Playwright, Chromium, and the network or --runtime.
"""
import argparse
import base64
import functools
import http.server
import json
import os
import random
import shutil
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from har_fastai.images import find_images
from har_fastai.predict.browser import export_web
from har_fastai.predict.predictor import Predictor

PREDICT = '''async data => {
    const app = await import('./app.js'), bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0))
    const r = await app.predict(new Blob([bytes])); return [r.label, r.probs, r.unsure, r.ms] }'''
READY = 'document.getElementById("status").textContent.startsWith("Ready")'


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('model', nargs='?', default='lite2', help='folder of a model, or name of an included one')
    p.add_argument('--data', required=True, help='folder of images')
    p.add_argument('--n', type=int, default=300, help='number of images')
    p.add_argument('--runtime', help='as for har_export')
    a = p.parse_args()
    files = find_images(a.data)
    files = random.Random(0).sample(files, min(a.n, len(files)))
    with tempfile.TemporaryDirectory() as tmp, sync_playwright() as play:
        site = export_web(a.model, Path(tmp)/'site', runtime=a.runtime)
        megabytes = sum(f.stat().st_size for f in site.iterdir()) / 1e6
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = play.chromium.launch(executable_path=shutil.which('chromium'), args=['--no-sandbox', '--disable-gpu'])
        page = browser.new_page(bypass_csp=True) # Playwright evaluates text, which the page forbids
        page.goto(f'http://127.0.0.1:{server.server_port}/')
        page.wait_for_function(READY, timeout=120_000)
        seen = [page.evaluate(PREDICT, base64.b64encode(f.read_bytes()).decode()) for f in files]
        version = browser.version
        browser.close()
        server.shutdown()
    own = Predictor(a.model, half=False)
    probs = own._collect(files)
    labels = [own.vocab[q.argmax()] for q in probs]
    print(json.dumps(dict(
        what='page in a browser against Python', model=a.model, n=len(files), megabytes=round(megabytes, 1),
        same_class=float(np.mean([l == s[0] for l, s in zip(labels, seen)])),
        same_unsure=float(np.mean([own.unsure(q) == s[2] for q, s in zip(probs, seen)])),
        difference=round(float(max(np.abs(q - s[1]).max() for q, s in zip(probs, seen))), 4),
        one_ms=round(float(np.median([s[3] for s in seen]))), chromium=version, cores=os.cpu_count())), file=sys.stdout)
