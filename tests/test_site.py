"The documentation site: its configuration, and every page of the preview opened in a browser at two widths"
import importlib.util, json, re, shutil, subprocess, sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest, yaml

from helpers import NBS, PACKAGE, ROOT

NOTEBOOKS = sorted(p.relative_to(NBS).as_posix() for p in NBS.rglob('*.ipynb') if not any(part[0] in '._' for part in p.relative_to(NBS).parts))
CONFIG = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))
WIDTHS = 1280, 390

# The keys we may use, as Quarto documents them: quarto.org/docs/reference/projects/websites.html and formats/html.html,
# and src/resources/schema/{project,definitions,document-*}.yml in quarto-dev/quarto-cli. Quarto refuses a key it doesn't know.
KNOWN = {
    '': {'project', 'format', 'execute', 'website', 'metadata-files'},
    'project': {'title', 'type', 'render', 'execute-dir', 'output-dir', 'lib-dir', 'resources', 'preview', 'pre-render', 'post-render'},
    'format': {'html'},
    'format.html': {'theme', 'css', 'toc', 'toc-depth', 'toc-location', 'code-copy', 'code-fold', 'code-overflow', 'fig-responsive', 'fig-align', 'html-math-method', 'lightbox', 'link-external-newwindow', 'anchor-sections', 'code-links'},
    'format.html.theme': {'light', 'dark'},
    'execute': {'enabled', 'eval', 'echo', 'output', 'warning', 'error', 'include', 'cache', 'freeze', 'daemon'},
    'website': {'title', 'description', 'favicon', 'site-url', 'site-path', 'repo-url', 'repo-subdir', 'repo-branch', 'issue-url', 'repo-actions', 'reader-mode', 'search', 'navbar', 'sidebar', 'body-header', 'body-footer',
                'margin-header', 'margin-footer', 'page-navigation', 'back-to-top-navigation', 'bread-crumbs', 'page-footer', 'image', 'image-alt', 'open-graph', 'twitter-card', 'other-links', 'code-links'},
    'website.twitter-card': {'title', 'description', 'image', 'image-alt', 'image-width', 'image-height', 'card-style', 'creator', 'site'},
    'website.navbar': {'title', 'logo', 'logo-alt', 'logo-href', 'background', 'foreground', 'search', 'pinned', 'collapse', 'collapse-below', 'left', 'right', 'tools', 'toggle-position'},
    'website.sidebar': {'id', 'title', 'logo', 'search', 'tools', 'contents', 'style', 'background', 'foreground', 'border', 'alignment', 'collapse-level', 'pinned', 'header', 'footer'},
    'item': {'text', 'href', 'icon', 'aria-label', 'menu', 'rel', 'target', 'section', 'contents', 'file', 'url'},
    'cell': {'echo', 'eval', 'output', 'include', 'warning', 'error', 'fig-alt', 'fig-cap', 'label', 'code-fold', 'code-summary'},
}
VALUES = {'website.sidebar.style': {'docked', 'floating'}, 'website.twitter-card.card-style': {'summary', 'summary_large_image'}, 'website.repo-actions': {'none', 'edit', 'source', 'issue'},
          'project.type': {'default', 'website', 'book', 'manuscript'}, 'format.html.html-math-method': {'plain', 'webtex', 'gladtex', 'mathml', 'mathjax', 'katex'}}


def unknown(config, where='') -> list[str]:
    "What a configuration says that Quarto doesn't document"
    wrong = [f'{where}.{k}'.strip('.') for k in config if k not in KNOWN[where]]
    for k, v in config.items():
        path = f'{where}.{k}'.strip('.')
        if path in VALUES: wrong += [f'{path}: {x}' for x in (v if isinstance(v, list) else [v]) if x not in VALUES[path]]
        if path in KNOWN and isinstance(v, dict): wrong += unknown(v, path)
        items = [i for i in v if isinstance(i, dict)] if isinstance(v, list) else []
        while items:
            i = items.pop(); wrong += [f'{path}: {x}' for x in i if x not in KNOWN['item']]; items += [j for j in i.get('contents', []) if isinstance(j, dict)]
    return wrong


def entries(contents) -> list[str]: return [e for c in contents for e in ([c] if isinstance(c, str) else entries(c['contents']) if 'contents' in c else [c['href']])]


def options(cell) -> dict: return yaml.safe_load('\n'.join(re.findall(r'(?m)^#\|\s*([\w-]+\s*:.*)$', ''.join(cell['source'])))) or {}
def figures(cell) -> int: return sum(any(k.startswith('image/') for k in o.get('data', {})) for o in cell.get('outputs', []))


def test_quarto_knows_what_is_configured(): assert unknown(CONFIG) == []


def test_an_unknown_key_is_seen():
    wrong = {'format': {'html': {'them': 1}}, 'website': {'sidebar': {'style': 'flying', 'contents': [{'section': 'a', 'contents': [{'txt': 'b', 'href': 'c'}]}]}}}
    assert unknown(wrong) == ['format.html.them', 'website.sidebar.style: flying', 'website.sidebar.contents: txt']


def test_the_sidebar_holds_every_notebook_once(): assert sorted(entries(CONFIG['website']['sidebar']['contents'])) == NOTEBOOKS


def test_the_files_that_are_configured_exist():
    web = CONFIG['website']
    assert all((NBS/f).is_file() for f in (web['favicon'], web['image'], web['navbar']['logo'], CONFIG['format']['html']['css'], '404.qmd'))


@pytest.mark.parametrize('nb', NOTEBOOKS)
def test_each_figure_says_what_it_shows(nb):
    cells = [c for c in json.loads((NBS/nb).read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'code']
    assert {k for c in cells for k in options(c)} <= KNOWN['cell']
    mute = [''.join(c['source'])[:80] for c in cells if (n := figures(c)) and not '#| hide\n' in ''.join(c['source'])
            and not (isinstance(alt := options(c).get('fig-alt'), str) and n == 1 or isinstance(alt, list) and len(alt) == n)]
    assert mute == [], 'add a line #| fig-alt: "what the figure shows" to the cell (a YAML list where it shows several)'


@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The site, built anew from what nbdev has processed (it keeps what has not changed)"
    out = tmp_path_factory.mktemp('site')/'docs'
    if shutil.which('quarto'): pytest.skip('these tests are about the preview, and Quarto is installed')
    done = subprocess.run([sys.executable, ROOT/'.ci'/'site.py', out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]
    return out


@pytest.fixture(scope='session')
def browser():
    if importlib.util.find_spec('playwright') is None: pytest.skip('playwright is not installed')
    from playwright.sync_api import Error, sync_playwright
    with sync_playwright() as p:
        try: b = p.chromium.launch(executable_path=shutil.which('chromium') or shutil.which('google-chrome'), args=['--no-sandbox', '--disable-gpu', '--disable-quic'])
        except Error as e: pytest.skip(f'no Chromium to be had: {str(e).splitlines()[0]}')
        yield b
        b.close()


LOOK = '''() => ({ title: document.title, ids: [...document.querySelectorAll("[id]")].map(e => e.id), text: document.querySelector("main").innerText,
  sources: [...document.querySelectorAll(".sourceCode pre")].map(e => e.textContent), links: [...document.querySelectorAll("a[href]")].map(e => e.href),
  images: [...document.images].map(i => [i.src.slice(0, 80), i.naturalWidth, i.closest(".brand") ? "logo" : i.alt]),
  raw: [...document.querySelectorAll("main > p, main > ul, main td")].map(e => { const c = e.cloneNode(true); c.querySelectorAll("code, math").forEach(x => x.remove()); return c.textContent }).filter(t => /\\]\\(|\\{target=|:::|^#\\|/.test(t)) })'''


@pytest.fixture(scope='session')
def pages(site, browser):
    "What the browser sees of every page: its title, anchors, links, images, complaints, and how far it's too wide"
    seen = {}
    for f in sorted(site.rglob('*.html')):
        page, complaints, too_wide = browser.new_page(), [], {}
        page.on('console', lambda m: m.type in ('error', 'warning') and complaints.append(m.text))
        page.on('pageerror', lambda e: complaints.append(str(e))); page.on('requestfailed', lambda r: complaints.append('not loaded: ' + r.url))
        for w in WIDTHS:
            page.set_viewport_size(dict(width=w, height=800))
            if w == WIDTHS[0]: page.goto(f.as_uri())
            too_wide[w] = page.evaluate('document.documentElement.scrollWidth - innerWidth')
        seen[f.relative_to(site).as_posix()] = SimpleNamespace(**page.evaluate(LOOK), complaints=complaints, too_wide=too_wide)
        page.close()
    return seen


def test_each_notebook_has_a_page(pages): assert len(pages) == len(NOTEBOOKS) + 1 and '404.html' in pages


def test_no_page_complains(pages): assert {n: p.complaints for n, p in pages.items() if p.complaints} == {}


def test_no_page_is_too_wide(pages): assert {n: p.too_wide for n, p in pages.items() if max(p.too_wide.values()) > 0} == {}


def test_no_markup_is_left_over(pages): assert {n: p.raw for n, p in pages.items() if p.raw} == {}


def test_all_images_show_and_say_what(pages):
    assert {n: bad for n, p in pages.items() if (bad := [i for i in p.images if not i[1] or not i[2]])} == {}
    assert sum(len(p.images) for p in pages.values()) > len(pages) + 40


def dead(link:str, site:Path, pages) -> bool:
    "Whether a link leads nowhere: to a page, an anchor or a file of the repository that isn't there"
    url = urlsplit(link)
    if url.scheme in ('http', 'https'):
        m = re.match(r'/har-fastai/har_fastai/(?:blob|edit)/main/(.+)', url.path)
        return bool(m) and not (ROOT/m[1]).exists()
    if url.scheme != 'file': return True
    path = Path(unquote(url.path))
    if not path.is_relative_to(site) or not path.is_file(): return True
    name = path.relative_to(site).as_posix()
    return bool(url.fragment) and name in pages and unquote(url.fragment) not in pages[name].ids


def test_no_link_is_dead(pages, site):
    assert {n: bad for n, p in pages.items() if (bad := sorted({l.removeprefix(site.as_uri()) for l in p.links if dead(l, site, pages)}))} == {}


def test_a_dead_link_is_seen(pages, site):
    at = site.as_uri()
    alive = [f'{at}/index.html', f'{at}/inference.html#predictor', 'https://github.com/har-fastai/har_fastai/blob/main/README.md', 'https://nbdev.fast.ai']
    gone = [f'{at}/27_inference.ipynb', f'{at}/inference.html#oracle', 'https://github.com/har-fastai/har_fastai/blob/main/READYOU.md', (ROOT/'README.md').as_uri()]
    assert [dead(l, site, pages) for l in alive + gone] == [False] * 4 + [True] * 4


@pytest.mark.parametrize('module', sorted(f.stem for f in PACKAGE.glob('*.py') if f.name[0] != '_'))
def test_public_names_are_documented(module, pages):
    m = import_module(f'har_fastai.{module}'); page = pages[f'{module}.html']
    def documented(name):
        if callable(getattr(m, name)): return name.lower() in page.ids # the anchor that show_doc makes
        return any(re.search(rf'(?m)^(.*, )?{re.escape(name)}(, .*)?\s*= ', c) for c in page.sources)
    assert [n for n in m.__all__ if not documented(n)] == [], 'a constant is documented by showing its cell: #| exports instead of #| export'


def test_search_theme_and_menu_work(site, browser):
    page = browser.new_page(viewport=dict(width=390, height=800), color_scheme='light'); page.goto((site/'tutorials'/'leak.html').as_uri())
    theme = 'document.documentElement.dataset.theme'
    assert page.evaluate(theme) == 'light'; page.click('#theme'); assert page.evaluate(theme) == 'dark'
    assert not page.is_visible('#sidebar'); page.click('#menu'); assert page.is_visible('#sidebar'); page.click('#menu')
    page.fill('#search', 'onnxpredictor'); page.press('#search', 'Enter'); page.wait_for_url('**/portable.html#onnxpredictor')
    assert page.evaluate(theme) == 'dark'
    page.fill('#search', 'qzx'); assert page.inner_text('#found') == 'Nothing found'
    page.close()
