"""The faults of images and tables, handled by plain fastai, torchvision's ImageFolder, timm's dataset reader and har_fastai.

    python benchmarks/faults_side_by_side.py [--json FILE]

Each tool opens the files that the tests of the faults make (tests/faults/) through its usual interface: `ImageDataLoaders.from_df`,
`ImageFolder`, `create_dataset`, and `read_har` with `check_har`. An outcome says when the fault is detected (before training, or
during an epoch) or describes the opened image; a dash means that the tool does not read tables. Prints a table, and one JSON
line with the number of faults that each tool handles as required. Faults of runs (29 to 40) are not included, as they concern
har_fastai only.
"""
import argparse, io, json, logging, sys, tempfile, warnings
from pathlib import Path

import numpy as np, pandas as pd
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT/'tests'), str(ROOT/'tests'/'faults')]
from broken_images import flip_bytes, jpeg, make  # noqa: E402
from helpers import image  # noqa: E402

from har_fastai.data.checks import check_har, usable  # noqa: E402
from har_fastai.data.splits import grouped_split  # noqa: E402
from har_fastai.data.tables import read_har  # noqa: E402
from har_fastai.files import HARError  # noqa: E402
from har_fastai.images import open_image  # noqa: E402

TOOLS = ('fastai', 'torchvision', 'timm', 'har_fastai')


def saved(img, kind='PNG', **kw) -> bytes:
    b = io.BytesIO(); img.save(b, kind, **kw)
    return b.getvalue()


def images() -> dict:
    "Fault -> (extension, function that writes the file, None if it must be excluded, else a test of its pixels)"
    def put(data): return lambda p: p.write_bytes(data)
    def broken(fault): return lambda p: make(p.with_suffix(''), fault)
    def near(colour): return lambda a: np.abs(a.reshape(-1, 3).astype(int) - colour).max() <= 2
    exif = Image.Exif(); exif[0x0112] = 6
    ramp = np.tile(np.linspace(-2, 5, 32, dtype=np.float32), (8, 1))
    gif = saved(Image.new('RGB', (8, 8), (250, 0, 0)), 'GIF', save_all=True, append_images=[Image.new('RGB', (8, 8), (0, 0, 250))])
    return {1: ('jpg', broken('HTML'), None), 2: ('jpg', broken('truncated'), None),
            3: ('jpg', put(flip_bytes(jpeg())), lambda a: a.ndim == 3),
            4: ('png', broken('200 megapixels'), None), 5: ('png', broken('100 megapixels'), None), 6: ('png', broken('zTXt bomb'), None),
            7: ('png', put(saved(Image.new('RGB', (40, 20)), exif=exif)), lambda a: a.shape[:2] == (40, 20)),
            8: ('tif', put(saved(Image.new('CMYK', (8, 8), (0, 255, 255, 0)), 'TIFF')), near((255, 0, 0))),
            9: ('png', put(saved(Image.new('RGBA', (8, 8), (255, 0, 0, 0)))), near((255, 255, 255))),
            10: ('png', put(saved(Image.fromarray(np.full((8, 8), 32896, np.uint16)))), near((128, 128, 128))),
            11: ('tif', put(saved(Image.fromarray(ramp), 'TIFF')),
                 lambda a: a[0, 0, 0] == 0 and a[0, -1, 0] == 255 and a[0, 16, 0] not in (0, 255)),
            12: ('gif', put(gif), near((250, 0, 0))),
            13: ('jpg', put(saved(image(3))), lambda a: np.array_equal(a, np.asarray(image(3)))),
            14: ('png', put(saved(Image.new('RGB', (1, 4000), 'red'))), lambda a: a.shape[:2] == (4000, 1)),
            15: ('jpg', broken('link loop'), None)}


def look(a:np.ndarray, right) -> str:
    "Describe an opened image"
    if right is None: return f'decoded, {a.shape[1] * a.shape[0] / 1e6:.0f} megapixels'
    return 'opened correctly' if right(a) else f'opened differently: {a.shape[1]}×{a.shape[0]}, mean {a.mean():.0f}'


def by_fastai(root, bad, right):
    from fastai.vision.all import PILImage
    return look(np.asarray(PILImage.create(bad)), right)


def by_torchvision(root, bad, right):
    from torchvision.datasets import ImageFolder
    ds = ImageFolder(str(root))
    at = [i for i, (f, _) in enumerate(ds.samples) if f == str(bad)]
    return look(np.asarray(ds[at[0]][0]), right) if at else 'skipped without a message'


def by_timm(root, bad, right):
    from timm.data import create_dataset
    ds = create_dataset('', root=str(root)); names = [ds.filename(i, absolute=True) for i in range(len(ds))]
    if str(bad) not in names: return 'skipped without a message'
    img = ds[names.index(str(bad))][0]
    a = np.asarray(img.convert('RGB'))
    if right is None and a.shape == (48, 48, 3): return 'another image returned instead'
    return look(a, right)


def by_har(root, bad, right):
    df = check_har(read_har(root)); row = df[df.path == str(bad)]
    if not len(row): return 'skipped without a message'
    return 'set aside before training' if row.problem.iloc[0] else look(np.asarray(open_image(bad)), right)


def tried(f, *args) -> str:
    "The outcome of a call, or the error that it raises"
    try: return f(*args)
    except HARError: return 'error before training'
    except Exception as e: return f'{type(e).__name__} when it is opened'


def image_rows(tmp:Path) -> dict[int, dict[str, str]]:
    rows = {}
    for n, (ending, put, right) in images().items():
        root = tmp/str(n)
        for label in ('running', 'sitting'):
            (root/label).mkdir(parents=True)
            for i in range(3): image(10 * n + i + 5 * (label == 'running')).save(root/label/f'z{i}.png')
        bad = root/'running'/f'bad.{ending}'; put(bad)
        rows[n] = {t: tried(f, root, bad, right) for t, f in zip(TOOLS, (by_fastai, by_torchvision, by_timm, by_har))}
        def required(o):
            if right is not None: return o == 'opened correctly'
            return o.startswith('set aside before') or (n == 15 and 'set aside' in o)
        rows[n]['asked'] = {t: required(o) for t, o in rows[n].items()}
    return rows


GOOD = [(f'Image_{i}.png', ('running', 'sitting')[i % 2]) for i in range(24)]
TABLES = {16: GOOD + [('gone.png', 'sitting')], 17: GOOD + [('../outside.png', 'sitting')],
          18: GOOD + [('{root}/outside.png', 'sitting')], 19: GOOD[:-1] + [('Image_23.png', float('nan'))],
          20: GOOD[:-1] + [('Image_23.png', ' sitting')], 21: GOOD + GOOD[:12], 24: [],
          26: [(f, 'running') for f, _ in GOOD], 27: GOOD[:-1] + [('Image_23.png', 'flying')]}


def table_by_fastai(df, data, n) -> str:
    "An epoch over a table, as in the documentation of fastai"
    from fastai.vision.all import ImageDataLoaders, Resize
    try: dls = ImageDataLoaders.from_df(df, path=data/'train', fn_col='filename', label_col='label', valid_pct=.25, seed=1,
                                        item_tfms=Resize(32), bs=8, num_workers=0)
    except Exception as e: return f'{type(e).__name__} when the loaders are made'
    if n == 20: return f'{len(dls.vocab)} classes'
    if n == 21:
        train, valid = (set(d.items.filename) for d in (dls.train_ds, dls.valid_ds))
        return f'{len(train & valid)} images in both parts'
    if n == 27:
        parts = dict(train=dls.train_ds, valid=dls.valid_ds)
        return 'in ' + ' and '.join(p for p, d in parts.items() if 'flying' in set(d.items.label))
    try:
        for dl in (dls.train, dls.valid):
            for _ in dl: pass
    except Exception as e: return f'{type(e).__name__} during the epoch'
    return 'read outside the folder' if n in (17, 18) else 'accepted'


def table_by_har(df, data, n) -> str:
    df.to_csv(data/'Training_set.csv', index=False)
    try:
        checked = usable(check_har(read_har(data)))
        if n == 20: return f'{checked.label.nunique()} classes'
        cut = grouped_split(checked)
    except HARError: return 'error before training'
    if n == 21:
        train, others = (set(cut.filename[rows]) for rows in (cut.part == 'train', cut.part != 'train'))
        return f'{len(train & others)} images in both parts'
    return 'in ' + ' and '.join(sorted(set(cut.part[cut.label == 'flying'])))


def table_rows(tmp:Path) -> dict[int, dict[str, str]]:
    rows, right = {}, {20: '2 classes', 21: '0 images in both parts', 27: 'in train'}
    for n, table in TABLES.items():
        out = {}
        for tool, f in (('fastai', table_by_fastai), ('har_fastai', table_by_har)):
            data = tmp/f'table-{n}-{tool}'; (data/'train').mkdir(parents=True)
            for i in range(24): image(i).save(data/'train'/f'Image_{i}.png')
            image(99).save(data/'outside.png')
            df = pd.DataFrame([(a.format(root=data), b) for a, b in table], columns=['filename', 'label'])
            out[tool] = f(df, data, n)
        rows[n] = {**out, 'torchvision': '–', 'timm': '–'}
        rows[n]['asked'] = {t: o == right.get(n, 'error before training') for t, o in out.items()}
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--json', help='file for the outcomes')
    a = p.parse_args()
    warnings.simplefilter('ignore'); logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as tmp: rows = {**image_rows(Path(tmp)), **table_rows(Path(tmp))}
    from importlib.metadata import version
    def handled(tool):
        outcomes = [r['asked'][tool] for r in rows.values() if tool in r['asked']]
        return f'{sum(outcomes)} of {len(outcomes)}'
    res = dict(what='faults of images and tables handled as asked', as_asked={t: handled(t) for t in TOOLS},
               versions={t: version(t) for t in ('fastai', 'torchvision', 'timm', 'pillow')},
               rows={n: {t: r[t] for t in TOOLS} for n, r in rows.items()})
    print(pd.DataFrame(res['rows']).T.to_string()); print(json.dumps(res, ensure_ascii=False))
    if a.json: Path(a.json).write_text(json.dumps(res, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


if __name__ == '__main__': main()
