"""Build the documentation site: python .ci/site.py [FOLDER], by default _docs/

With Quarto, where it is installed. Otherwise a preview of the same pages, made by nbdev and nbconvert: front matter,
directives, links and anchors are treated as Quarto treats them, so that what a test sees in it holds for the real site.
Only the theme is not Quarto's."""
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
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
    "Markdown as Quarto renders it: its anchors, formulas without scripts, links to pages instead of notebooks"
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
        return f'<h{level} id="{slug}">{text}<a class="anchor" href="#{slug}" aria-label="Link to this place">#</a></h{level}>\n'

    def link(self, text, url, title=None):
        html = super().link(text, self.target(url), title)
        return html.replace('<a ', '<a class="source" ', 1) if text == 'source' else html

    def target(self, url):
        "Where a link leads on the site"
        if url.startswith(site_url): # what nbdev links to: pages of this site, by their address
            return os.path.relpath(url.removeprefix(site_url).lstrip('/') or 'index.html', self.base or '.')
        path, _, anchor = url.partition('#')
        page = self.pages.get(os.path.normpath(os.path.join(self.base, path)))
        return os.path.relpath(page, self.base or '.') + ('#' + anchor if anchor else '') if page else url

    def inline_math(self, body): return mathml(body)
    def block_math(self, body): return mathml(body, display='block')


def prepared(nb):
    "The front matter of a processed notebook, and the notebook with its directives read and taken out"
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
    "A processed notebook, or a Quarto document as a notebook of one cell"
    if path.suffix == '.ipynb': return nbformat.read(path, 4)
    _, front, text = path.read_text(encoding='utf-8').split('---\n', 2)
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_raw_cell(f'---\n{front}---'), nbformat.v4.new_markdown_cell(text)])


def tree(contents, pages, titles):
    "The sidebar's items with titles and addresses of pages"
    items = []
    for c in contents:
        if isinstance(c, dict) and 'section' in c:
            inner = tree(c['contents'], pages, titles)
            items.append(dict(section=c['section'], contents=inner, hrefs=[h for i in inner for h in i.get('hrefs', [i.get('href')])]))
        else:
            source = c if isinstance(c, str) else c['href']
            items.append(dict(href=pages.get(source, source), text=titles.get(source, source) if isinstance(c, str) else c['text']))
    return items


def leaves(items): return [l for i in items for l in (leaves(i['contents']) if 'section' in i else [i])]


def processed():
    "The notebooks as nbdev hands them to Quarto: hidden cells gone, exported ones replaced by their documentation"
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    refresh_quarto_yml()
    return proc_nbs(n_workers=min(2, os.cpu_count()))


def preview(out):
    cache = processed()
    sources = sorted(p.relative_to(root/'nbs').as_posix() for ext in ('ipynb', 'qmd') for p in (root/'nbs').rglob('*.' + ext) if not any(q[0] in '._' for q in p.relative_to(root/'nbs').parts))
    docs = {s: prepared(read(cache/s)) for s in sources}
    pages = {s: (Path(s).parent/front.get('output-file', Path(s).stem + '.html')).as_posix() for s, (front, _) in docs.items()}
    titles = {s: front['title'] for s, (front, _) in docs.items()}
    config = yaml.safe_load((root/'_quarto.yml').read_text(encoding='utf-8')); web = config['website']
    sidebar = tree(web['sidebar']['contents'], pages, titles); order = leaves(sidebar)
    bar = tree([i for side in ('left', 'right') for i in web['navbar'].get(side, [])], pages, titles)
    env = Environment(loader=FileSystemLoader(templates), autoescape=True)
    shutil.rmtree(out, ignore_errors=True); (out/'site').mkdir(parents=True)
    index = []
    for source, (front, nb) in docs.items():
        href = pages[source]; base = Path(href).parent.as_posix().replace('.', '')
        renderer = Renderer(pages, base)
        def markdown(text): return MarkdownWithMath(renderer=renderer).render(re.sub(r'(\]\([^)\s]*\))\{[^}]*\}', r'\1', text))
        exporter = HTMLExporter(template_name='site', extra_template_basedirs=[str(root/'.ci')], filters={'markdown2html': markdown})
        exporter.display_data_priority = ['text/html', 'text/markdown', 'image/svg+xml', 'image/png', 'image/jpeg', 'text/plain']
        body, _ = exporter.from_notebook_node(nb)
        at = next((i for i, o in enumerate(order) if o['href'] == href), None)
        around = dict(before=order[at - 1] if at else None, after=order[at + 1] if at is not None and at + 1 < len(order) else None)
        page = dict(front, href=href, source=source)
        env.globals.update(web=web, css=config['format']['html']['css'], repo=web['repo-url'], site_url=site_url, sidebar=sidebar, bar=bar)
        text = env.get_template('page.html.j2').render(page=page, body=Markup(body), description=Markup(markdown(front.get('description', ''))), headings=renderer.headings, up='../' * (base.count('/') + 1 if base else 0), **around)
        (out/href).parent.mkdir(parents=True, exist_ok=True); (out/href).write_text(text, encoding='utf-8')
        if at is not None: index += [(titles[source], '', href)] + [(titles[source], t, f'{href}#{i}') for _, i, t in renderer.headings]
    (out/'site'/'search.js').write_text('const SEARCH = ' + json.dumps(index, ensure_ascii=False), encoding='utf-8')
    for name in ('site.css', 'site.js'): shutil.copy(templates/name, out/'site')
    shutil.copy(root/'nbs'/config['format']['html']['css'], out); shutil.copytree(root/'nbs'/'images', out/'images')
    print(f'{len(docs)} pages in {out}')


def quarto(out):
    cache = processed()
    subprocess.run(['quarto', 'render', '--no-cache'], cwd=cache, check=True)
    shutil.rmtree(out, ignore_errors=True); shutil.move(cache/'_docs', out)


if __name__ == '__main__':
    out = Path(sys.argv[1] if len(sys.argv) > 1 else root/'_docs').resolve()
    os.environ['PYTHONWARNINGS'] = 'ignore:Found cells' # nbdev, about cells that are hidden anyway
    os.chdir(root); sys.path.insert(0, str(root))
    (quarto if shutil.which('quarto') else preview)(out)
