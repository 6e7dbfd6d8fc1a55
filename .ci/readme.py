"Render README.md from nbs/index.ipynb: python .ci/readme.py [FILE]. Figures go to nbs/images/."
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import ExtractOutputPreprocessor, RegexRemovePreprocessor

root = Path(__file__).resolve().parent.parent
NOTE = '<!-- Rendered from nbs/index.ipynb by `make readme`: edit that notebook. -->\n\n'


def readable(cell):
    "A cell without nbdev's directives, and with plain outputs only"
    cell.source = re.sub(r'(?m)^#\|.*\n?', '', cell.source)
    for output in cell.get('outputs', []):
        data = output.get('data', {})
        if 'text/html' in data and 'image/png' not in data and '<progress' in data['text/html']: data.clear()
        if 'image/png' in data: data.pop('text/plain', None)
    return cell


def render(path):
    "The notebook at `path` as Markdown, and its figures by file name"
    nb = nbformat.read(path, 4)
    nb.cells = [readable(c) for c in nb.cells if not re.search(r'(?m)^#\|\s*hide\b', c.source)]
    exporter = MarkdownExporter(preprocessors=[ExtractOutputPreprocessor(output_filename_template='nbs/images/index_{cell_index}_{index}{extension}'),
                                               RegexRemovePreprocessor(patterns=[r'\s*\Z'])])
    text, resources = exporter.from_notebook_node(nb)
    text = text.replace('![png]', '![]').replace('](images/', '](nbs/images/')
    return NOTE + re.sub(r'\n{3,}', '\n\n', re.sub(r'(?m)[ \t]+$', '', text)).strip() + '\n', resources['outputs']


if __name__ == '__main__':
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else root/'README.md'
    text, figures = render(root/'nbs'/'index.ipynb')
    target.write_text(text, encoding='utf-8')
    for name, data in figures.items():
        (target.parent/name).parent.mkdir(parents=True, exist_ok=True)
        (target.parent/name).write_bytes(data)
