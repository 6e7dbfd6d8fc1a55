"The documentation site: its configuration, and every page of the preview opened in a browser at two widths"
import json, re, shutil, subprocess, sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest, yaml

from har_fastai.drawing.dataset import draw_action
from har_fastai.predict.predictor import Predictor
from helpers import NBS, ROOT, modules, notebooks

NOTEBOOKS = [p.relative_to(NBS).as_posix() for p in notebooks()]
CONFIG = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))
WIDTHS = 1280, 390 # pixels: a laptop and a phone
slow = pytest.mark.slow('site preview in a browser')

# The keys that Quarto documents: quarto.org/docs/reference/projects/websites.html and formats/html.html,
# and src/resources/schema/{project,definitions,document-*}.yml in quarto-dev/quarto-cli. Quarto rejects unknown keys.
KNOWN = {k: set(v.split()) for k, v in {
    '': 'project format execute website metadata-files',
    'project': 'title type render execute-dir output-dir lib-dir resources preview pre-render post-render',
    'format': 'html',
    'format.html': 'theme css toc toc-depth toc-location code-copy code-fold code-overflow fig-responsive fig-align html-math-method '
                   'lightbox link-external-newwindow anchor-sections code-links',
    'format.html.theme': 'light dark',
    'execute': 'enabled eval echo output warning error include cache freeze daemon',
    'website': 'title description favicon site-url site-path repo-url repo-subdir repo-branch issue-url repo-actions reader-mode search '
               'navbar sidebar body-header body-footer margin-header margin-footer page-navigation back-to-top-navigation bread-crumbs '
               'page-footer image image-alt open-graph twitter-card other-links code-links',
    'website.twitter-card': 'title description image image-alt image-width image-height card-style creator site',
    'website.navbar': 'title logo logo-alt logo-href background foreground search pinned collapse collapse-below left right tools '
                      'toggle-position',
    'website.sidebar': 'id title logo search tools contents style background foreground border alignment collapse-level pinned header '
                       'footer',
    'item': 'text href icon aria-label menu rel target section contents file url',
    'cell': 'echo eval output include warning error fig-alt fig-cap label code-fold code-summary',
}.items()}
VALUES = {k: set(v.split()) for k, v in {
    'website.sidebar.style': 'docked floating', 'website.twitter-card.card-style': 'summary summary_large_image',
    'website.repo-actions': 'none edit source issue', 'project.type': 'default website book manuscript',
    'format.html.html-math-method': 'plain webtex gladtex mathml mathjax katex',
}.items()}


def listed(v) -> list: return v if isinstance(v, list) else [v]


def unknown_items(items, path) -> list[str]:
    "Unknown keys of the entries of a menu or sidebar, and of what they contain"
    wrong = []
    for i in (i for i in items if isinstance(i, dict)):
        wrong += [f'{path}: {k}' for k in i if k not in KNOWN['item']] + unknown_items(i.get('contents', []), path)
    return wrong


def unknown(config, where='') -> list[str]:
    "Keys and values of a configuration that Quarto does not document"
    wrong = [f'{where}.{k}'.strip('.') for k in config if k not in KNOWN[where]]
    for k, v in config.items():
        path = f'{where}.{k}'.strip('.')
        if path in VALUES: wrong += [f'{path}: {x}' for x in listed(v) if x not in VALUES[path]]
        if path in KNOWN and isinstance(v, dict): wrong += unknown(v, path)
        if isinstance(v, list): wrong += unknown_items(v, path)
    return wrong


def entries(contents) -> list[str]:
    "The pages of a sidebar, in its order"
    found = []
    for c in contents: found += [c] if isinstance(c, str) else entries(c['contents']) if 'contents' in c else [c['href']]
    return found


def options(cell) -> dict:
    "The directives of a cell that have a value"
    return yaml.safe_load('\n'.join(re.findall(r'(?m)^#\|\s*([\w-]+\s*:.*)$', ''.join(cell['source'])))) or {}


def figures(cell) -> int: return sum(any(k.startswith('image/') for k in o.get('data', {})) for o in cell.get('outputs', []))


def lacks_alt(cell) -> bool:
    "Whether a cell shows figures without alternative texts"
    n, alt = figures(cell), options(cell).get('fig-alt')
    if not n or '#| hide\n' in ''.join(cell['source']): return False
    return not (isinstance(alt, str) and n == 1 or isinstance(alt, list) and len(alt) == n)


# ---- configuration ----

def test_quarto_documents_all_configured_keys(): assert unknown(CONFIG) == []


def test_an_unknown_key_is_found():
    sidebar = {'style': 'flying', 'contents': [{'section': 'a', 'contents': [{'txt': 'b', 'href': 'c'}]}]}
    wrong = {'format': {'html': {'them': 1}}, 'website': {'sidebar': sidebar}}
    assert unknown(wrong) == ['format.html.them', 'website.sidebar.style: flying', 'website.sidebar.contents: txt']


def test_the_sidebar_holds_every_notebook_once(): assert sorted(entries(CONFIG['website']['sidebar']['contents'])) == NOTEBOOKS


def test_the_configured_files_exist():
    web = CONFIG['website']
    files = (web['favicon'], web['image'], web['navbar']['logo'], CONFIG['format']['html']['css'], '404.qmd')
    assert [f for f in files if not (NBS/f).is_file()] == []


@pytest.mark.parametrize('nb', NOTEBOOKS)
def test_each_figure_has_an_alternative_text(nb):
    cells = [c for c in json.loads((NBS/nb).read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    assert {k for c in cells for k in options(c)} <= KNOWN['cell']
    without = [''.join(c['source'])[:80] for c in cells if lacks_alt(c)]
    assert without == [], 'add a line #| fig-alt: "what the figure shows" to the cell (a YAML list if it shows several)'


# ---- pages ----

@pytest.fixture(scope='module')
def site(shared):
    "The preview of the site (nbdev processes only notebooks that have changed)"
    if shutil.which('quarto'): pytest.skip('these tests are about the preview, and Quarto is installed')
    def build(to):
        done = subprocess.run([sys.executable, ROOT/'.ci'/'site.py', to/'docs'], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-1500:]
        return str(to/'docs')
    return Path(shared('site', build))


INSPECT = r'''() => ({
  title: document.title,
  ids: [...document.querySelectorAll("[id]")].map(e => e.id),
  text: document.querySelector("main").innerText,
  sources: [...document.querySelectorAll(".sourceCode pre")].map(e => e.textContent),
  links: [...document.querySelectorAll("a[href]")].map(e => e.href),
  images: [...document.images].map(i => [i.src.slice(0, 80), i.naturalWidth, i.closest(".brand") ? "logo" : i.alt]),
  raw: [...document.querySelectorAll("main > p, main > ul, main td")].map(e => {
    const c = e.cloneNode(true); c.querySelectorAll("code, math").forEach(x => x.remove()); return c.textContent
  }).filter(t => /\]\(|\{target=|:::|^#\|/.test(t)) })'''


def inspect(browser, file) -> dict:
    "Open a page: its title, anchors, links, images, what the browser's console reports, and by how many pixels it is too wide"
    page, errors, too_wide = browser.new_page(), [], []
    page.on('console', lambda m: m.type in ('error', 'warning') and errors.append(m.text))
    page.on('pageerror', lambda e: errors.append(str(e)))
    page.on('requestfailed', lambda r: errors.append('not loaded: ' + r.url))
    for w in WIDTHS:
        page.set_viewport_size(dict(width=w, height=800))
        if not too_wide: page.goto(file.as_uri())
        too_wide.append(page.evaluate('document.documentElement.scrollWidth - innerWidth'))
    found = dict(page.evaluate(INSPECT), errors=errors, too_wide=max(too_wide))
    page.close()
    return found


@pytest.fixture(scope='module')
def pages(site, browser, shared):
    "What the browser shows of every page, by the page's path"
    files = [f for f in sorted(site.rglob('*.html')) if f.parent != site/'try'] # that page needs a server: it has a test of its own
    found = shared('pages', lambda to: {f.relative_to(site).as_posix(): inspect(browser, f) for f in files})
    return {name: SimpleNamespace(**p) for name, p in found.items()}


@slow
def test_each_notebook_has_a_page(pages): assert len(pages) == len(NOTEBOOKS) + 1 and '404.html' in pages


@slow
def test_no_page_has_errors(pages): assert {n: p.errors for n, p in pages.items() if p.errors} == {}


@slow
def test_no_page_is_too_wide(pages): assert {n: p.too_wide for n, p in pages.items() if p.too_wide > 0} == {}


@slow
def test_no_markup_is_left(pages): assert {n: p.raw for n, p in pages.items() if p.raw} == {}


@slow
def test_all_images_load_and_have_a_text(pages):
    assert {n: bad for n, p in pages.items() if (bad := [i for i in p.images if not i[1] or not i[2]])} == {}
    assert sum(len(p.images) for p in pages.values()) > len(pages) + 40


def dead(link:str, site:Path, pages) -> bool:
    "Whether a link leads to a page, an anchor or a file of the repository that does not exist"
    url = urlsplit(link)
    if url.scheme in ('http', 'https'):
        m = re.match(r'/har-fastai/har_fastai/(?:blob|edit)/main/(.+)', url.path)
        return bool(m) and not (ROOT/m[1]).exists()
    if url.scheme != 'file': return True
    path = Path(unquote(url.path))
    if not path.is_relative_to(site) or not path.is_file(): return True
    name = path.relative_to(site).as_posix()
    return bool(url.fragment) and name in pages and unquote(url.fragment) not in pages[name].ids


@slow
def test_no_link_is_dead(pages, site):
    found = {n: sorted({l.removeprefix(site.as_uri()) for l in p.links if dead(l, site, pages)}) for n, p in pages.items()}
    assert {n: links for n, links in found.items() if links} == {}


@slow
def test_a_dead_link_is_found(pages, site):
    at, repo = site.as_uri(), 'https://github.com/har-fastai/har_fastai/blob/main'
    alive = [f'{at}/index.html', f'{at}/predict/predictor.html#predictor', f'{repo}/README.md', 'https://nbdev.fast.ai']
    gone = [f'{at}/predict/02_predictor.ipynb', f'{at}/predict/predictor.html#oracle', f'{repo}/NO_README.md', (ROOT/'README.md').as_uri()]
    assert [dead(l, site, pages) for l in alive + gone] == [False] * 4 + [True] * 4


@slow
@pytest.mark.parametrize('module', modules())
def test_public_names_are_documented(module, pages):
    m, page = import_module(f'har_fastai.{module}'), pages[f'{module.replace(".", "/")}.html']
    def documented(name):
        if callable(getattr(m, name)): return name.lower() in page.ids # the anchor that show_doc makes
        return any(re.search(rf'(?m)^(.*, )?{re.escape(name)}(, .*)?\s*= ', c) for c in page.sources)
    missing = [n for n in m.__all__ if not documented(n)]
    assert missing == [], 'a constant is documented by showing its cell: #| exports instead of #| export'


@slow
def test_search_theme_and_menu_work(site, browser):
    page = browser.new_page(viewport=dict(width=390, height=800), color_scheme='light')
    page.goto((site/'tutorials'/'leak.html').as_uri())
    theme = 'document.documentElement.dataset.theme'
    assert page.evaluate(theme) == 'light'; page.click('#theme'); assert page.evaluate(theme) == 'dark'
    assert not page.is_visible('#sidebar'); page.click('#menu'); assert page.is_visible('#sidebar'); page.click('#menu')
    page.fill('#search', 'onnxpredictor'); page.press('#search', 'Enter'); page.wait_for_url('**/predict/onnx.html#onnxpredictor')
    assert page.evaluate(theme) == 'dark'
    for word in ('install', 'confidence', 'webcam', 'colab', 'gpu'): # in headings, or only in the text
        page.fill('#search', word); assert word in page.inner_text('#found').lower(), word
    page.fill('#search', 'qzx'); assert page.inner_text('#found') == 'Nothing found'
    page.close()


@slow
def test_the_included_model_can_be_tried_on_the_site(site, browser, serve, tmp_path):
    if (site/'try'/'index.html').stat().st_size < 1000: pytest.skip('the site was built without a network')
    assert sum(f.stat().st_size for f in (site/'try').iterdir()) < 20e6
    page, errors = browser.new_page(viewport=dict(width=1280, height=800)), []
    page.on('pageerror', lambda e: errors.append(str(e)))
    page.goto(serve(site)[0] + 'tutorials/leak.html')
    page.click('header nav >> text=Try it')
    page.wait_for_url('**/try/index.html')
    page.wait_for_selector('#status:has-text("Ready")', timeout=120_000)
    draw_action('cycling', np.random.default_rng(0), 200).save(tmp_path/'drawing.png')
    page.set_input_files('#file', tmp_path/'drawing.png')
    page.wait_for_selector('#result:not([hidden])', timeout=60_000)
    shown = page.inner_text('#label').removeprefix('Perhaps ')
    assert shown == Predictor(half=False).predict(tmp_path/'drawing.png')[0].replace('_', ' ') and errors == []
    page.close()


def test_git_ignores_the_built_site():
    if not (ROOT/'.git').exists(): pytest.skip('not a git repository')
    assert subprocess.run(['git', 'check-ignore', '-q', '_docs/try/model.onnx'], cwd=ROOT).returncode == 0
