"Render README.md and MODEL_CARD.md from their notebooks: python .ci/readme.py [FOLDER]. Figures go to nbs/images/."
import re
import sys
from pathlib import Path

import nbformat
import yaml
from nbconvert import MarkdownExporter
from traitlets.config import Config

root = Path(__file__).resolve().parent.parent
PAGES = {'README.md': 'index', 'MODEL_CARD.md': 'model_card'} # file: the notebook that it's rendered from


def has(cell, directive):
    "Whether a cell carries an nbdev or Quarto directive"
    return re.search(rf'(?m)^#\|\s*{directive}\s*$', cell.source)


def plain(output):
    "An output that Markdown can show: figures, text, and tables; None for what it cannot"
    data = output.get('data', {})
    html = data.get('text/html', '')
    if 'image/png' in data: output['data'] = {'image/png': data['image/png']}
    elif '<table' in html:
        rows = [re.findall(r'<t[hd][^>]*>(.*?)</t[hd]>', row, re.S) for row in re.findall(r'<tr[^>]*>(.*?)</tr>', html, re.S)]
        lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
        output['data'] = {'text/markdown': '\n'.join([lines[0], '|---' * len(rows[0]) + '|', *lines[1:]])}
    elif html: return None
    return output


def readable(cell):
    "A cell without directives, its input left out where it asks for that, and with plain outputs only"
    cell.metadata['was'] = cell.source
    if has(cell, 'echo: false'): cell.source = ''
    cell.source = re.sub(r'(?m)^#\|.*\n?', '', cell.source)
    if 'outputs' in cell: cell.outputs = [o for o in map(plain, cell.outputs) if o]
    return cell


def spoken(cell):
    "What each figure of a cell shows, in words: its directive fig-alt"
    n = sum(any(k.startswith('image/') for k in o.get('data', {})) for o in cell.get('outputs', []))
    alt = re.search(r'(?m)^#\|\s*fig-alt:(.*)$', cell.metadata.get('was', ''))
    alt = yaml.safe_load(alt[1]) if alt else 'figure'
    return alt if isinstance(alt, list) else [alt] * n


def render(name):
    "The notebook `name` as Markdown, and its figures by file name"
    nb = nbformat.read(root/'nbs'/f'{name}.ipynb', 4)
    nb.cells = [readable(c) for c in nb.cells if not has(c, 'hide')]
    names = Config({'ExtractOutputPreprocessor': {'output_filename_template': f'nbs/images/{name}_{{cell_index}}_{{index}}{{extension}}'}})
    text, resources = MarkdownExporter(config=names).from_notebook_node(nb)
    text = re.sub(r'```(python)?\n\s*```\n', '', text) # a cell whose input was left out
    alts = iter([alt for c in nb.cells for alt in spoken(c)])
    text = re.sub(r'!\[(png|jpeg)\]', lambda m: f'![{next(alts)}]', text)
    text = re.sub(r'\]\(([\w/]+\.ipynb)\)', r'](nbs/\1)', text) # links to notebooks, seen from the top
    note = f'<!-- Rendered from nbs/{name}.ipynb by `make readme`: edit that notebook. -->\n\n'
    return note + re.sub(r'\n{3,}', '\n\n', re.sub(r'(?m)[ \t]+$', '', text)).strip() + '\n', resources['outputs']


if __name__ == '__main__':
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else root
    for file, name in PAGES.items():
        text, figures = render(name)
        (target/file).write_text(text, encoding='utf-8')
        for figure, data in figures.items():
            (target/figure).parent.mkdir(parents=True, exist_ok=True)
            (target/figure).write_bytes(data)
