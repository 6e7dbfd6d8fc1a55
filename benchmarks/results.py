"""Render RESULTS.md from results.jsonl: every measurement that was kept, failures too, with its settings and its machine.

Whoever measures something appends the line that the script printed to results.jsonl, and calls this (or `make readme`). Nothing in RESULTS.md is
typed in. With a folder as argument it goes there.
"""
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
MACHINE = ('threads', 'gpu', 'torch', 'python', 'torchvision', 'fastai', 'pillow', 'har_fastai') # what a line says of where it was measured
TITLES = dict(reproduced='Recipes, on the last 20 % of rows', experiment='Experiments with recipes', explored='Changes of recipes, scored on images that no figure is claimed for', shipped_model='The model that comes with the package')
NOTE = '<!-- Rendered from results.jsonl by results.py: change neither by hand. -->\n\n'


def cell(v):
    "A value as a person reads it"
    if isinstance(v, dict): return ', '.join(f'{k} {cell(x)}' for k, x in v.items())
    if isinstance(v, list): return '; '.join(map(cell, v)) if len(v) <= 10 else f'{len(v)} values, from {cell(v[0])} to {cell(v[-1])}'
    return {True: 'yes', False: 'no', None: ''}.get(v, f'{v}') if isinstance(v, (bool, type(None))) else f'{v:,.4g}' if isinstance(v, float) else f'{v}'.replace('|', '\\|')


def table(rows):
    "Rows of pairs as a Markdown table"
    return '\n'.join(['| | |', '|---|---|', *(f'| {k.replace("_", " ")} | {cell(v)} |' for k, v in rows)])


def reproduced(line):
    "A recipe's figures, a row a seed"
    changes = ', '.join(f'{k}={v}' for k, v in line['changes'].items())
    head = f'**{line["name"] or line["recipe"]}**: recipe `{line["recipe"]}`{" with " + changes if changes else ""}, {len(line["seeds"])} seed{"s" * (len(line["seeds"]) > 1)}: macro-F1 {line["mean"]:.4f} (95 % confidence interval over the {line["n"]:,} test images {line["low"]:.4f}–{line["high"]:.4f}' + (f'; sd over seeds {line["sd"]:.4f}' if line['sd'] is not None else '; one seed, so its spread is unknown') + ')' + (f'. Note: {line["note"]}' if line.get('note') else '')
    cols = ('seed', 'macro_f1', 'low', 'high', 'accuracy', 'valid', 'best_epoch', 'minutes', 'threads', 'gpu')
    rows = ['| ' + ' | '.join(c.replace('_', ' ') for c in cols) + ' |', '|---' * len(cols) + '|', *('| ' + ' | '.join(cell(s.get(c)) for c in cols) + ' |' for s in line['seeds'])]
    return head + '\n\n' + '\n'.join(rows)


def steps(line):
    "What each step of an ablation gained, a row a step"
    about = table((k, v) for k, v in line.items() if k not in ('what', 'steps', 'seconds') and k not in MACHINE)
    head = '| step | macro-F1 | 95 % confidence interval | seeds | gain | 95 % confidence interval | seconds a training |\n' + '|---' * 7 + '|'
    rows = [f'| {s["step"]} | {s["f1"]:.3f} | {s["interval"][0]:.3f}–{s["interval"][1]:.3f} | {", ".join(f"{v:.3f}" for v in s["seeds"])} | '
            + (f'{s["gain"]:+.3f} | {s["gain_interval"][0]:+.3f} – {s["gain_interval"][1]:+.3f}' if 'gain' in s else ' | ') + f' | {t} |' for s, t in zip(line['steps'], [*line['seconds'], ''])]
    return about + '\n\n' + '\n'.join([head, *rows])


def explored(lines, spread):
    "Experiments of explore.py, a row each; `spread` holds standard deviations over seeds, of recipes that were trained with several"
    rows = ['| what | recipe | changes | seed | epochs | training accuracy | macro-F1 | its negative log-likelihood | macro-F1 in other sizes |', '|---' * 9 + '|']
    for l in lines:
        others = ', '.join(f'{k.removeprefix("flip ")} {v["f1"]:.3f}' for k, v in l.items() if k.startswith('flip '))
        changes = ', '.join(f'{k}={v}' for k, v in l['changes'].items() if k != 'seed')
        rows.append(f'| {cell(l["name"])} | {l["recipe"]} | {cell(changes)} | {l["seed"]} | {l["epochs"]} | {l["train_accuracy"]:.3f} | {l["flip"]["f1"]:.3f} | {l["flip"]["nll"]:.3f} | {others} |')
    return f'Scored on {lines[0]["n"]:,} images after the last epoch, mirror image included; one seed each. Over seeds, macro-F1 of the recipes above had standard deviations of {min(spread):.3f} to {max(spread):.3f}.\n\n' + '\n'.join(rows)


def tables(lines):
    "Experiments that can stand in one table: on as many images and the same machine"
    groups = {}
    for l in lines: groups.setdefault(tuple(l.get(k) for k in ('n', *MACHINE)), []).append(l)
    return groups.values()


def one(line):
    "A measurement as Markdown"
    if line['what'] == 'reproduced': return reproduced(line)
    if 'steps' in line: return steps(line)
    return table((k, v) for k, v in line.items() if k != 'what' and k not in MACHINE)


def render(lines):
    "All measurements, those of a kind together, in the order in which they were first made"
    out = ['# What was measured', 'Ratios and differences were measured with both sides in one run; times alone mean little, as machines differ and drift. Each script says in its first lines what it does.']
    spread = [l['sd'] for l in lines if l['what'] == 'reproduced' and len(l['seeds']) >= 3]
    for what in dict.fromkeys(l['what'] for l in lines):
        out.append(f'## {TITLES.get(what, what[0].upper() + what[1:])}')
        same = [l for l in lines if l['what'] == what]
        for group in tables(same) if what == 'explored' else [[l] for l in same]:
            where = ', '.join(f'{k} {group[0][k]}' for k in MACHINE if group[0].get(k))
            out += [explored(group, spread) if what == 'explored' else one(group[0]), *([f'Measured with {where}.'] if where else [])]
    return NOTE + '\n\n'.join(out) + '\n'


if __name__ == '__main__':
    lines = [json.loads(l) for l in open(HERE/'results.jsonl', encoding='utf-8') if l.strip()]
    (Path(sys.argv[1] if len(sys.argv) > 1 else HERE)/'RESULTS.md').write_text(render(lines), encoding='utf-8')
