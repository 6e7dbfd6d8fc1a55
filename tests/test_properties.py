"Property-based tests: whatever a table, a recipe or an image file contains, the library returns a result or raises a one-sentence error"
import csv, os, signal, sys, warnings
from dataclasses import asdict, fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from har_fastai.data.checks import check_data, fix_table
from har_fastai.data.tables import read_har
from har_fastai.files import HARError, natural_key, read_json, write_json
from har_fastai.images import ImageError, open_image
from har_fastai.train.recipes import RECIPES, Recipe
from har_fastai.train.runs import recipe_of
from helpers import ROOT, image

sys.path.insert(0, str(ROOT/'benchmarks'))
import fuzz_images
from fuzz_images import attempt, drawn, fuzz

checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
few = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=checks)

NAMES = ['a.png', 'b.png', 'c.png', 'sub/d.png', ' a.png ', 'sub\\d.png', './a.png', 'gone.png', '../secret.png', '/etc/passwd',
         'C:\\x.png', 'sub/../../secret.png', 'way_out.png', 'sub', '', 'nan', 'NaN', '~/x.png', 'a.png\0', '%2e%2e/secret.png']
names = st.sampled_from(NAMES) | st.text(max_size=8)
labels = st.sampled_from(['running', 'sitting', ' running', 'nan', '', '=1+1', 'null', '007']) | st.text(max_size=6)
parts = st.sampled_from(['train', 'valid', 'test', 'Val', 'exam', ''])


def result(f, *args, **kw):
    "The result of `f`, or the `HARError` that it raises"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return f(*args, **kw)
    except HARError as e: assert str(e).strip(); return e


# ---- tables ----

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A folder with a few images, and a private image beside it"
    tmp = tmp_path_factory.mktemp('home'); data = tmp/'data'; (data/'sub').mkdir(parents=True)
    for i, n in enumerate(('a.png', 'b.png', 'c.png', 'sub/d.png')): image(i).save(data/n)
    image(9).save(tmp/'secret.png'); (data/'way_out.png').symlink_to(tmp/'secret.png')
    return data


def write(file, columns, rows):
    with open(file, 'w', newline='', encoding='utf-8', errors='replace') as f: csv.writer(f).writerows([columns, *rows])
    return file


def inside(df, home):
    "Assert that all images of a table are in the folder"
    assert all(str(home) + '/' in p and 'secret' not in p and 'way_out' not in p for p in df.path)


@few
@given(rows=st.lists(st.tuples(names, labels, parts), max_size=8), with_part=st.booleans())
def test_any_table_is_read_or_refused(home, rows, with_part):
    n = 2 + with_part
    file = write(home/'t.csv', ('filename', 'label', 'part')[:n], [r[:n] for r in rows])
    strict, found = result(read_har, file), []
    lenient = result(read_har, file, found=found)
    for df in (strict, lenient):
        if isinstance(df, HARError): continue
        inside(df, home)
        assert df.filename.is_unique and (df.label.str.strip() == df.label).all() and not df.label.isin(['', 'nan']).any()
    if not isinstance(strict, HARError): assert strict.equals(lenient) and all(f['kept'] or f['fault'] == 21 for f in found)
    elif not isinstance(lenient, HARError): assert any(f['error'] for f in found), f'training rejects it ({strict}), and the check does not'


@few
@given(data=st.binary(max_size=300) | st.text(max_size=200).map(lambda s: ('filename,label\n' + s).encode('utf-8', 'replace')))
def test_any_bytes_are_a_table_or_refused(home, data):
    (home/'t.csv').write_bytes(data)
    df = result(read_har, home/'t.csv')
    if not isinstance(df, HARError): inside(df, home)


@settings(few, max_examples=15)
@given(rows=st.lists(st.tuples(names, st.sampled_from(['running', 'sitting', ''])), min_size=3, max_size=8))
def test_a_fixed_table_has_no_faults(home, rows):
    for f in home.glob('*.fixed*.csv'): f.unlink()
    file = write(home/'t.csv', ('filename', 'label'), rows)
    before, checked = file.read_bytes(), result(check_data, file)
    fixed = checked if isinstance(checked, HARError) else result(fix_table, checked)
    assert file.read_bytes() == before
    if isinstance(fixed, HARError): return
    to, kept, _ = fixed
    again = result(check_data, to)
    assert again.faults.kept.all() and not again.stops and len(result(read_har, to)) == kept == len(checked.good)


# ---- recipes ----

numbers = st.integers(-10, 2000) | st.floats(allow_nan=True) | st.booleans() | st.none() | st.text(max_size=3) | st.just([]) | st.just({})
words = st.sampled_from(['baseline', 'adamw', 'muon', 'vgg16', 'hf-hub:x/y', 'local-dir:/etc', '../x', 'resnet18.evil'])
lists = st.lists(numbers, max_size=3) | st.lists(st.lists(numbers, max_size=3), max_size=2)
changed = st.dictionaries(st.sampled_from([f.name for f in fields(Recipe)]), numbers | words | lists, max_size=3)


def demo_with(changes): return {'recipe': {**asdict(RECIPES['demo']), **changes}}


@settings(few, max_examples=200)
@given(changes=changed)
def test_any_recipe_is_valid_or_refused(tmp_path_factory, changes):
    r = result(recipe_of, demo_with(changes), 'recipe.json')
    if isinstance(r, HARError): return
    file = tmp_path_factory.mktemp('r', numbered=True)/'recipe.json'
    write_json(file, {'recipe': asdict(r)})
    assert recipe_of(read_json(file), file) == r and all(16 <= r.size_at(e) <= r.size for e in range(min(r.epochs, 20)))


leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
nested = st.recursive(leaves, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.sampled_from(['recipe', 'name', 'x']), x, max_size=2),
                      max_leaves=5)


@few
@given(info=nested)
def test_any_json_is_a_recipe_or_refused(info): assert isinstance(result(recipe_of, info, 'recipe.json'), (Recipe, HARError))


@settings(few, max_examples=150)
@given(name=st.text(max_size=20))
def test_any_name_can_be_sorted(name):
    assert natural_key(name) == natural_key(name) and sorted([name, 'b10', 'b2'], key=natural_key)


# ---- images ----

HEADS = [b'', b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n', b'GIF89a', b'RIFF\0\0\0\0WEBP', b'II*\0', b'MM\0*', b'BM', b'P6 ', b'%!PS-Adobe']


@pytest.mark.filterwarnings('ignore')
@settings(few, max_examples=100)
@given(head=st.sampled_from(HEADS), tail=st.binary(max_size=120))
def test_any_bytes_are_an_image_or_refused(head, tail): assert attempt(head + tail) in ('image', 'refused')


def test_mutated_images():
    "A part of benchmarks/fuzz_images.py, in a process with a memory limit and an alarm"
    res = fuzz(drawn(), 1500, first=100_000)
    assert res['broken'] == {} and res['inputs'] == 1500 and res['images'] > 200 and res['refused'] > 200


@pytest.mark.parametrize('kind, why', [('error', 'KeyError'), ('hang', 'SIGPROF'), ('crash', 'SIGSEGV')])
def test_the_fuzz_test_detects_failures(monkeypatch, kind, why):
    def opener(data):
        while kind == 'hang': pass
        if kind == 'crash': os.kill(os.getpid(), signal.SIGSEGV)
        raise KeyError('not a sentence for users')
    monkeypatch.setattr(fuzz_images, 'open_image', opener); monkeypatch.setattr(fuzz_images, 'mutated', lambda pool, i: kind.encode())
    res = fuzz([b''], 1, seconds=.2)
    assert len(res['broken']) == 1 and why in res['broken'][0]


# ---- regressions: errors that these tests and the fuzz test have found ----

@pytest.mark.parametrize('name, size', [('notes_that_cannot_be_rewritten.webp', (36, 48)), ('offset_that_is_no_integer.tif', None)])
def test_images_that_broke_a_decoder(name, size):
    "Made from synthetic samples; Pillow raised struct.error while it wrote the EXIF data again, and TypeError while it decoded"
    data = (Path(__file__).parent/'regressions'/name).read_bytes()
    if size: assert open_image(data).size == size
    else:
        with pytest.raises(ImageError) as e: open_image(data)
        assert len(str(e.value).splitlines()) == 1


TABLES = {'one file, two labels, three rows': ['a.png,running', 'a.png,sitting', 'a.png,sitting', 'b.png,sitting'],
          'no label at all': ['a.png,', 'b.png, '], 'a superscript digit': ['¹.png,running']}


@pytest.mark.parametrize('kind', TABLES)
def test_tables_that_broke_the_reader(home, kind):
    (home/'t.csv').write_text('\n'.join(['filename,label', *TABLES[kind]]))
    assert isinstance(result(read_har, home/'t.csv'), HARError)
    assert not isinstance(result(read_har, home/'t.csv', found=[]), BaseException)


def test_names_that_broke_the_order(): assert sorted(['b', 'a²', 'a10'], key=natural_key) == ['a10', 'a²', 'b']


@pytest.mark.parametrize('changes', [dict(arch=0), dict(arch=['baseline']), dict(arch='resnet18.evil'), dict(growth=[[48]]),
                                     dict(name='../x')], ids=str)
def test_recipes_that_broke_the_check(changes): assert isinstance(result(recipe_of, demo_with(changes), 'recipe.json'), HARError)
