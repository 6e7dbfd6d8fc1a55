"The page of `har_export --format web`: its resizing against Pillow, and predictions in a browser against Python"
import numpy as np
import pytest
from PIL import Image

from har_fastai.cli import har_export
from har_fastai.drawing.dataset import draw_action
from har_fastai.files import HARError
from har_fastai.images import RESIZE_RULES, eval_shape, preprocess
from har_fastai.predict.browser import WEB_RESIZE, export_web, web_runtime
from har_fastai.predict.predictor import Predictor


@pytest.mark.parametrize('rule', RESIZE_RULES)
def test_resizing_is_that_of_pillow(tmp_path, serve, browser, rule):
    (tmp_path/'resize.js').write_text(WEB_RESIZE); (tmp_path/'index.html').write_text('<!doctype html>')
    page, rng = browser.new_page(), np.random.default_rng(0)
    page.goto(serve(tmp_path)[0])
    card = dict(size=64, resize=rule, mean=[.5, .4, .3], std=[.5, .2, .1], step=8, ratio=2)
    for w, h in ((300, 170), (64, 64), (20, 31), (500, 40), (33, 200), (64, 90)):
        a = rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
        rgba = np.dstack([a, np.full((h, w), 255, np.uint8)]).ravel().tolist()
        got, dims = page.evaluate('''async ([px, w, h, card]) => { const m = await import('./resize.js')
            const [data, dims] = m.tensor(Uint8ClampedArray.from(px), w, h, 4, card); return [[...data], dims] }''', [rgba, w, h, card])
        expected = preprocess(Image.fromarray(a), 64, card['mean'], card['std'], rule)
        assert dims[::-1][:2] == [*eval_shape(w, h, 64, rule)]
        differs = np.abs(np.array(got, np.float32).reshape(expected.shape) - expected) * np.reshape(card['std'], (3, 1, 1)) * 255
        exact = h * dims[3] <= w * dims[2] # some versions of Pillow resize the columns of other images first
        assert differs.max() < (1e-9 if exact else 1.01), (w, h) # grey levels
    page.close()


@pytest.mark.slow('the exported page in a browser')
def test_the_page_predicts_as_python_does_and_works_offline(tmp_path, serve, browser):
    try: web_runtime()
    except HARError as e: pytest.skip(str(e)) # no network
    site = export_web('lite2', tmp_path/'site')
    assert sum(f.stat().st_size for f in site.iterdir()) < 20e6
    url, server = serve(site)
    context = browser.new_context(bypass_csp=True, viewport=dict(width=390, height=800)); page = context.new_page()
    asked, errors = [], []
    page.on('request', lambda r: asked.append(r.url)); page.on('pageerror', lambda e: errors.append(e))
    page.goto(url)
    page.wait_for_function('document.getElementById("status").textContent.startsWith("Ready")', timeout=120_000)
    page.evaluate('navigator.serviceWorker.ready.then(() => null)')
    rng, predictor = np.random.default_rng(0), Predictor('lite2', half=False)
    for i, label in enumerate(('cycling', 'sleeping', 'texting', 'hugging')):
        file = tmp_path/f'{label}.png'
        draw_action(label, rng, 200).resize((200 + 40 * i, 220)).save(file)
        page.evaluate('document.getElementById("result").hidden = true')
        page.set_input_files('#file', file)
        page.wait_for_function('!document.getElementById("result").hidden', timeout=60_000)
        expected, _, probs = predictor.predict(file)
        shown = page.inner_text('#label').removeprefix('Perhaps ')
        assert shown == expected.replace('_', ' ') and page.inner_text('#bars td:last-child').startswith(f'{100 * probs.max():.0f}')
    assert page.is_visible('#heat') and page.evaluate('document.documentElement.scrollWidth') <= 390
    assert errors == [] and all(u.startswith((url, 'blob:', 'data:')) for u in asked) # nothing leaves the device
    server.shutdown(); server.server_close() # no network
    page.reload()
    page.wait_for_function('document.getElementById("status").textContent.startsWith("Ready")', timeout=120_000)
    context.close()


@pytest.mark.parametrize('argv, words', [
    ('--format web --out DIR --runtime nowhere.tgz', 'nowhere.tgz cannot be read'),
    ('--format onnx --out x.onnx --runtime a.tgz', '--format web'),
    ('--format html --out x', 'onnx, pt2 or web'), ('--format web --out FULL', 'exists')])
def test_mistakes_get_one_sentence(tmp_path, refuse, argv, words):
    (tmp_path/'full').mkdir(); (tmp_path/'full'/'a').write_text('')
    code, message = refuse(har_export, *argv.replace('DIR', str(tmp_path/'site')).replace('FULL', str(tmp_path/'full')).split())
    assert code == 2 and words in message and not (tmp_path/'site').exists()
