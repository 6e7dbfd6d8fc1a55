"""Build the documentation site: python .ci/site.py [FOLDER], by default _docs/

Uses Quarto if it is installed. Otherwise it builds a preview of the same pages with nbdev and nbconvert. The preview handles
front matter, directives, links and anchors as Quarto does, so tests of the preview also hold for the real site. It has its
own theme. Both have the web page of the included model in try/, for which ONNX Runtime Web is downloaded from npm."""
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from html import escape, unescape
from pathlib import Path

import nbformat
import yaml
from jinja2 import Environment, FileSystemLoader
from latex2mathml.converter import convert as mathml
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

root = Path(__file__).resolve().parent.parent
templates = root/'.ci'/'site'
settings = ConfigParser(delimiters=['='])
settings.read(root/'settings.ini', encoding='utf-8')
site_url = settings['DEFAULT']['doc_host'] + settings['DEFAULT']['doc_baseurl']


class Renderer(IPythonRenderer):
    "Render Markdown as Quarto does: the same anchors, formulas as MathML, links to pages instead of notebooks"
    def __init__(self, pages, base):
        super().__init__(escape=False)
        self.pages, self.base, self.headings, self.seen = pages, base, [], {}

    def heading(self, text, level, **attrs):
        plain = re.sub(r'<[^>]+>', '', text)
        slug = re.sub(r'[^\w\s.-]', '', plain.lower().replace('&amp;', '').replace('&quot;', ''))
        slug = re.sub(r'\s+', '-', re.sub(r'^[^a-z]+', '', slug.strip())) or 'section'
        n = self.seen[slug] = self.seen.get(slug, -1) + 1
        slug += f'-{n}' if n else ''
        self.headings.append((level, slug, plain))
        anchor = f'<a class="anchor" href="#{slug}" aria-label="Link to this section">#</a>'
        return f'<h{level} id="{slug}">{text}{anchor}</h{level}>\n'

    def link(self, text, url, title=None):
        html = super().link(text, self.target(url), title)
        return html.replace('<a ', '<a class="source" ', 1) if text == 'source' else html

    def target(self, url):
        "The address of a link on the site"
        if url.startswith(site_url): # nbdev's links to pages of this site are absolute
            return os.path.relpath(url.removeprefix(site_url).lstrip('/') or 'index.html', self.base or '.')
        path, _, anchor = url.partition('#')
        page = self.pages.get(os.path.normpath(os.path.join(self.base, path)))
        return os.path.relpath(page, self.base or '.') + ('#' + anchor if anchor else '') if page else url

    def inline_math(self, body): return mathml(body)
    def block_math(self, body): return mathml(body, display='block')


def prepared(nb):
    "The front matter of a processed notebook, and the notebook with its directives moved to the metadata"
    front = yaml.safe_load(nb.cells.pop(0).source.strip().strip('-')) if nb.cells[0].cell_type == 'raw' else {}
    for cell in nb.cells:
        if cell.cell_type != 'code': continue
        cell.metadata.options = yaml.safe_load('\n'.join(re.findall(r'(?m)^#\|\s*(.+:.*)$', cell.source))) or {}
        cell.source = re.sub(r'(?m)^#\|.*\n?', '', cell.source)
        alt = cell.metadata.options.get('fig-alt', '')
        figures = [o for o in cell.outputs if any(k.startswith('image/') for k in o.get('data', {}))]
        for i, o in enumerate(figures): o.metadata.alt = alt if isinstance(alt, str) else alt[i] if i < len(alt) else ''
    return front, nb


def read(path):
    "Read a processed notebook, or a Quarto document as a notebook with one cell"
    if path.suffix == '.ipynb': return nbformat.read(path, 4)
    _, front, text = path.read_text(encoding='utf-8').split('---\n', 2)
    cells = [nbformat.v4.new_raw_cell(f'---\n{front}---'), nbformat.v4.new_markdown_cell(text)]
    return nbformat.v4.new_notebook(cells=cells)


def tree(contents, pages, titles):
    "The items of the sidebar or the navigation bar, with the titles and addresses of their pages"
    items = []
    for c in contents:
        if isinstance(c, dict) and 'section' in c:
            inner = tree(c['contents'], pages, titles)
            hrefs = [h for i in inner for h in i.get('hrefs', [i.get('href')])]
            items.append(dict(section=c['section'], contents=inner, hrefs=hrefs))
        else:
            source = c if isinstance(c, str) else c['href']
            text = titles.get(source, source) if isinstance(c, str) else c['text']
            items.append(dict(href=pages.get(source, source.removeprefix(site_url + '/')), text=text))
    return items


def leaves(items):
    "The pages of a tree, in order"
    return [l for i in items for l in (leaves(i['contents']) if 'section' in i else [i])]


def processed():
    "Process the notebooks with nbdev for Quarto: without hidden cells, and with documentation in place of exported cells"
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    refresh_quarto_yml()
    return proc_nbs(n_workers=min(2, os.cpu_count()), force=True) # without `force`, pages with links to names that have moved stay as they are


def sources():
    "All pages: notebooks and Quarto documents, by their path in nbs"
    found = [p.relative_to(root/'nbs') for ext in ('ipynb', 'qmd') for p in (root/'nbs').rglob('*.' + ext)]
    return sorted(p.as_posix() for p in found if not any(part[0] in '._' for part in p.parts))


def body_of(nb, renderer):
    "The cells of a notebook as HTML"
    exporter = HTMLExporter(template_name='site', extra_template_basedirs=[str(root/'.ci')],
                            filters={'markdown2html': lambda text: markdown(text, renderer)})
    exporter.display_data_priority = ['text/html', 'text/markdown', 'image/svg+xml', 'image/png', 'image/jpeg', 'text/plain']
    return exporter.from_notebook_node(nb)[0]


def markdown(text, renderer):
    "Markdown as HTML; attributes of links, which only Quarto knows, are removed"
    return MarkdownWithMath(renderer=renderer).render(re.sub(r'(\]\([^)\s]*\))\{[^}]*\}', r'\1', text))


def sections(body, title, href):
    "Entries for the search: the title of the page, a heading, its address, and the text below it"
    heading = r'(?s)<h[1-6] id="([^"]*)"[^>]*>(.*?)<a [^>]*class="anchor".*?</h[1-6]>'
    parts = re.split(heading, re.sub(r'(?s)<(style|script|svg)\b.*?</\1>', '', body))
    rows = zip(['', *parts[1::3]], ['', *parts[2::3]], parts[::3])
    return [(title, plain(heading), f'{href}#{slug}' if slug else href, plain(text)) for slug, heading, text in rows]


def plain(html):
    "The text of HTML"
    return ' '.join(unescape(re.sub(r'<[^>]+>', ' ', html)).split())


def neighbours(href, order):
    "The pages before and after a page in the sidebar"
    at = next((i for i, o in enumerate(order) if o['href'] == href), None)
    if at is None: return dict(before=None, after=None)
    return dict(before=order[at - 1] if at else None, after=order[at + 1] if at + 1 < len(order) else None)


def preview(out):
    "Build the preview in a folder, which is emptied first"
    cache = processed()
    docs = {s: prepared(read(cache/s)) for s in sources()}
    pages = {s: (Path(s).parent/front.get('output-file', Path(s).stem + '.html')).as_posix() for s, (front, _) in docs.items()}
    titles = {s: front['title'] for s, (front, _) in docs.items()}
    config = yaml.safe_load((root/'_quarto.yml').read_text(encoding='utf-8'))
    web, css = config['website'], config['format']['html']['css']
    sidebar = tree(web['sidebar']['contents'], pages, titles)
    bar = tree([i for side in ('left', 'right') for i in web['navbar'].get(side, [])], pages, titles)
    order, index = leaves(sidebar), []
    env = Environment(loader=FileSystemLoader(templates), autoescape=True)
    env.globals.update(web=web, css=css, repo=web['repo-url'], site_url=site_url, sidebar=sidebar, bar=bar)
    shutil.rmtree(out, ignore_errors=True); (out/'site').mkdir(parents=True)
    for source, (front, nb) in docs.items():
        href, base = pages[source], Path(source).parent.as_posix().replace('.', '')
        renderer = Renderer(pages, base)
        body, description = body_of(nb, renderer), markdown(front.get('description', ''), Renderer(pages, base))
        page = env.get_template('page.html.j2').render(
            page=dict(front, href=href, source=source), body=Markup(body), description=Markup(description),
            headings=renderer.headings, up='../' * (base.count('/') + 1 if base else 0), **neighbours(href, order))
        (out/href).parent.mkdir(parents=True, exist_ok=True)
        (out/href).write_text(page, encoding='utf-8')
        if any(o['href'] == href for o in order):
            index += sections(body, titles[source], href)
    (out/'site'/'search.js').write_text('const SEARCH = ' + json.dumps(index, ensure_ascii=False), encoding='utf-8')
    for name in ('site.css', 'site.js'): shutil.copy(templates/name, out/'site')
    shutil.copy(root/'nbs'/css, out)
    shutil.copytree(root/'nbs'/'images', out/'images')
    print(f'{len(docs)} pages in {out}')


def quarto(out):
    "Build the site with Quarto"
    cache = processed()
    subprocess.run(['quarto', 'render', '--no-cache'], cwd=cache, check=True)
    shutil.rmtree(out, ignore_errors=True); shutil.move(cache/'_docs', out)


def try_it(out):
    "Write the page that predicts in the browser; without a network a note takes its place, except on GitHub, where the build fails"
    from har_fastai.files import HARError
    from har_fastai.predict.browser import export_web
    try: export_web(None, out)
    except HARError as e:
        if os.environ.get('CI'): raise
        out.mkdir(parents=True)
        note = f'<!doctype html><title>Try it</title><p>Left out of this build: {escape(str(e))}</p>'
        (out/'index.html').write_text(note, encoding='utf-8')
        print(f'note: {out} is left out: {e}')


if __name__ == '__main__':
    out = Path(sys.argv[1] if len(sys.argv) > 1 else root/'_docs').resolve()
    os.environ['PYTHONWARNINGS'] = 'ignore:Found cells' # nbdev's warning about cells that are hidden anyway
    os.chdir(root); sys.path.insert(0, str(root))
    (quarto if shutil.which('quarto') else preview)(out)
    try_it(out/'try')
