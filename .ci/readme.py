"Render README.md and MODEL_CARD.md from their notebooks, and llms.txt: python .ci/readme.py [FOLDER]. Figures go to nbs/images/."
import configparser
import re
import sys
from pathlib import Path
from posixpath import join, normpath

import nbformat
import yaml
from nbconvert import MarkdownExporter
from traitlets.config import Config

root = Path(__file__).resolve().parent.parent
PAGES = {'README.md': 'nbs/index.ipynb', 'MODEL_CARD.md': 'nbs/pages/model_card.ipynb'} # file: its notebook


def has(cell, directive):
    "Whether a cell has an nbdev or Quarto directive"
    return re.search(rf'(?m)^#\|\s*{directive}\s*$', cell.source)


def table(html):
    "An HTML table as a Markdown table"
    rows = [re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row, re.S) for row in re.findall(r'<tr[^>]*>(.*?)</tr>', html, re.S)]
    lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
    return '\n'.join([lines[0], '|---' * len(rows[0]) + '|', *lines[1:]])


def plain(output):
    "Reduce an output to what Markdown can show: a figure, text or a table; None for other HTML"
    data = output.get('data', {})
    html = data.get('text/html', '')
    if 'image/png' in data: output['data'] = {'image/png': data['image/png']}
    elif '<table' in html: output['data'] = {'text/markdown': table(html)}
    elif html: return None
    return output


def readable(cell):
    "Remove the directives of a cell, its input for `echo: false`, and outputs that Markdown cannot show"
    cell.metadata['alt'] = alternative_texts(cell)
    if has(cell, 'echo: false'): cell.source = ''
    cell.source = re.sub(r'(?m)^#\|.*\n?', '', cell.source)
    if 'outputs' in cell: cell.outputs = [o for o in map(plain, cell.outputs) if o]
    return cell


def alternative_texts(cell):
    "The alternative text of each figure of a cell, from the directive fig-alt"
    n = sum(any(k.startswith('image/') for k in o.get('data', {})) for o in cell.get('outputs', []))
    alt = re.search(r'(?m)^#\|\s*fig-alt:(.*)$', cell.source)
    alt = yaml.safe_load(alt[1]) if alt else 'figure'
    return alt if isinstance(alt, list) else [alt] * n


def relink(text, folder):
    "Make links that are relative to `folder` relative to the root of the repository"
    def moved(m): return m[1] + normpath(join(folder, m[2])) + m[3]
    return re.sub(r'(\]\()(?![a-z]+:|#|/)([^)\s#]+)((?:#[^)\s]*)?\))', moved, text)


def render(source):
    "A notebook as Markdown, and its figures by file name"
    nb, file = nbformat.read(root/source, 4), Path(source)
    nb.cells = [readable(c) for c in nb.cells if not has(c, 'hide')]
    for c in nb.cells:
        if c.cell_type == 'markdown': c.source = relink(c.source, file.parent.as_posix())
    names = f'nbs/images/{file.stem}_{{cell_index}}_{{index}}{{extension}}'
    exporter = MarkdownExporter(config=Config({'ExtractOutputPreprocessor': {'output_filename_template': names}}))
    text, resources = exporter.from_notebook_node(nb)
    text = re.sub(r'```(python)?\n\s*```\n', '', text) # inputs of `echo: false`
    alts = iter([alt for c in nb.cells for alt in c.metadata['alt']])
    text = re.sub(r'!\[(png|jpeg)\]', lambda m: f'![{next(alts)}]', text)
    note = f'<!-- Rendered from {source} by `make readme`: edit that notebook. -->\n\n'
    return note + re.sub(r'\n{3,}', '\n\n', re.sub(r'(?m)[ \t]+$', '', text)).strip() + '\n', resources['outputs']


def heading(source):
    "The title of a notebook and the sentence below it"
    cell = nbformat.read(root/'nbs'/source, 4).cells[0].source
    title, said = re.search(r'(?m)^# (.*)$', cell), re.search(r'(?m)^> (.*)$', cell)
    return title[1].strip(), said[1].strip() if said else ''


def overview():
    "The pages of the site in one text file, for language models (llmstxt.org)"
    cfg = configparser.ConfigParser(delimiters='=', interpolation=None)
    cfg.read(root/'settings.ini', encoding='utf-8')
    cfg, site = cfg['DEFAULT'], yaml.safe_load((root/'_quarto.yml').read_text(encoding='utf-8'))['website']
    lines = [f'# {cfg["lib_name"]}', '', f'> {cfg["description"]}']
    def page(source):
        title, said = heading(source)
        lines.append(f'- [{title}]({cfg["doc_host"]}{cfg["doc_baseurl"]}/{source.replace(".ipynb", ".html")}): {said}')
    for entry in site['sidebar']['contents']:
        if isinstance(entry, str): continue # the home page
        lines.extend(['', f'## {entry["section"]}', ''])
        for source in entry['contents']: page(source)
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else root
    for page, source in PAGES.items():
        text, figures = render(source)
        (target/page).write_text(text, encoding='utf-8')
        for old in (target/'nbs'/'images').glob(f'{Path(source).stem}_*_*.png'): old.unlink() # of cells that have moved
        for figure, data in figures.items():
            (target/figure).parent.mkdir(parents=True, exist_ok=True)
            (target/figure).write_bytes(data)
    (target/'llms.txt').write_text(overview(), encoding='utf-8')
