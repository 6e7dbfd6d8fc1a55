"""Does training on drawings as well make a model worse on photographs? A comparison on the same test photographs.

RUN is a run of ship_lite.py with the settings of a recipe, which trains on the photographs and on 1,200 drawings:

    python ship_lite.py --data photos --arch efficientnet_lite0 --epochs 10 --growth "((192, .4), (224, .6))" --run RUN --to lite0

It is compared with the runs in the last line of `reproduce.py` for the same recipe in results.jsonl, which were trained on
photographs alone. The test photographs are the same; the validation photographs depend on the seed. The intervals are those of a
paired bootstrap over the test photographs. Prints one JSON line.
"""
import argparse
import json
from pathlib import Path

from har_fastai.evaluate.metrics import accuracy, macro_f1, paired_bootstrap
from har_fastai.train.recipes import Recipe
from har_fastai.train.runs import Run

from explore import settings
from reproduce import test_table, unpacked


def difference(y, before, after, n):
    "Both scores with drawings minus without, with 95 % confidence intervals, and the images that only one side gets right"
    scores = {f.__name__: dict(zip(('value', 'low', 'high'), paired_bootstrap(y, before, after, n, f))) for f in (macro_f1, accuracy)}
    return dict(scores, only_with=int(((before != y) & (after == y)).sum()), only_without=int(((before == y) & (after != y)).sum()))


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('run', type=Path)
    p.add_argument('--results', type=Path, default=Path(__file__).parent/'results.jsonl')
    a = p.parse_args()
    run, lines = Run(a.run), [json.loads(line) for line in a.results.read_text(encoding='utf-8').splitlines()]
    new = settings(Recipe()) # fields that were added after a line was written had their default values
    same = [d for d in lines if d['what'] == 'reproduced' and new | d.get('settings', {}) == settings(run.recipe)]
    if not same: raise SystemExit('results.jsonl has no line of reproduce.py with the settings of this run')
    alone, table = same[-1], test_table(run)
    photos, drawings = (table[table.filename.str.startswith(k)] for k in ('photos/', 'drawings/'))
    y, after = (photos[c].map(alone['vocab'].index).to_numpy() for c in ('label', 'predicted'))
    if list(y) != list(unpacked(alone['truth'])): raise SystemExit('the two sides were tested on different images')
    seed, n = run.recipe.seed, len(alone['vocab'])
    pairs = {s['seed']: difference(y, unpacked(s['answers']), after, n) for s in alone['seeds']}
    if seed not in pairs: raise SystemExit(f'the run has the seed {seed}, and that line of reproduce.py only {", ".join(map(str, pairs))}')
    print(json.dumps(dict(
        what='photographs: trained with drawings - without', recipe=run.recipe.name, arch=run.recipe.arch, n=len(y), seed=seed,
        accuracy_with=float((after == y).mean()), drawings=dict(n=len(drawings), accuracy=float((drawings.label == drawings.predicted).mean())),
        **pairs[seed], other_seeds_without={k: v['macro_f1'] for k, v in pairs.items() if k != seed})))
