"Bad pictures, tables and labels: each is found early, and told in one sentence that names it"
import csv, io, struct, warnings

import numpy as np
import pytest
from PIL import Image

from broken import UNREADABLE, flip_bytes, jpeg, make, png
from har_fastai import cli
from har_fastai.data import check_har, find_copies, grouped_split, honour_parts, read_har, split_har, summarise_check, tail_split, usable
from har_fastai.files import HARError, PictureError, eval_array, open_picture, sha256_file
from helpers import dataset, picture, write_table


def notes(record) -> str: return ' '.join(str(w.message) for w in record)
def lone(img, x=0, y=0): return img.getpixel((x, y))


# ---- pictures that cannot be used (faults 1, 2, 4–6, 11, 15) ----

@pytest.mark.parametrize('fault', UNREADABLE)
def test_check_finds_unreadable_pictures(tmp_path, fault, capsys):
    data = dataset(tmp_path/'d')
    bad = make(data/'train'/'bad', fault)
    write_table(data/'Training_set.csv', [*csv.reader(open(data/'Training_set.csv'))][1:] + [(bad.name, 'sitting')])
    df = check_har(read_har(data))
    reason = UNREADABLE[fault][2]
    assert df.filename[df.problem != ''].tolist() == [bad.name] and reason in df.problem.iloc[-1], df.problem.iloc[-1]
    with pytest.warns(UserWarning, match=f'(?s)1 of 25.*{bad.name}.*{reason}'): assert len(usable(df)) == 24
    cli.har_check([str(data)])
    out = capsys.readouterr().out
    assert 'cannot be used: 1' in out and f'{bad.name}: ' in out and reason in out


@pytest.mark.parametrize('fault', UNREADABLE)
def test_opening_an_unreadable_picture_names_it(tmp_path, fault):
    bad = make(tmp_path/'bad', fault)
    with pytest.raises(PictureError) as e: open_picture(bad)
    assert str(bad) in str(e.value) and len(str(e.value).splitlines()) == 1


def test_too_many_pixels_are_refused_before_decoding():
    with pytest.raises(PictureError, match='megapixels'): open_picture(png(10000, 10000, whole=False)) # has no pixels to decode
    with pytest.raises(PictureError) as e: open_picture(png(100, 100, whole=False))
    assert 'megapixels' not in str(e.value)
    assert len(png(20000, 10000)) < 50_000


def test_training_sets_broken_pictures_aside(tmp_path, capsys):
    data = dataset(tmp_path/'d')
    bad = [make(data/'train'/f'bad_{i}', fault).name for i, fault in enumerate(UNREADABLE)]
    write_table(data/'Training_set.csv', [*csv.reader(open(data/'Training_set.csv'))][1:] + [(b, 'sitting') for b in bad])
    with warnings.catch_warnings():
        warnings.simplefilter('always') # even where pytest was told to ignore them
        cli.har_train([*map(str, ('--data', data, '--recipe', 'demo', '--size', 32, '--epochs', 1, '--device', 'cpu', '--out', tmp_path/'run'))]) # has batches of 32
    said = capsys.readouterr().err
    assert f'set aside: {len(bad)} of {24 + len(bad)}' in said and bad[0] in said
    assert 'a batch has' in said and 'not 32' in said # fault 25
    rows = list(csv.DictReader(open(tmp_path/'run'/'split.csv')))
    assert len(rows) == 24 and not {r['filename'] for r in rows} & set(bad)
    [epoch] = csv.DictReader(open(tmp_path/'run'/'history.csv'))
    assert np.isfinite([float(v) for v in epoch.values()]).all()


def test_prediction_passes_over_broken_pictures(trained, tmp_path, capsys):
    bad = [make(tmp_path/f'bad_{i}', fault) for i, fault in enumerate(UNREADABLE) if fault not in ('folder', 'link loop')]
    (tmp_path/'good.jpg').write_bytes(jpeg())
    with pytest.raises(SystemExit) as e: cli.har_predict([*map(str, [*bad, tmp_path/'good.jpg']), '--model', str(trained.run), '--csv', str(tmp_path/'t.csv')])
    assert e.value.code == 1 # some could not be read
    rows = list(csv.DictReader(open(tmp_path/'t.csv')))
    assert [bool(r['problem']) for r in rows] == [True] * len(bad) + [False]
    out = capsys.readouterr()
    assert all(str(b) in r['problem'] for b, r in zip(bad, rows)) and len(out.out.splitlines()) == 1 and all(str(b) in out.err for b in bad)


# ---- pictures that can be used, and what must be seen in them (faults 3, 7–14) ----

def saved(img, kind, **kw) -> bytes:
    b = io.BytesIO(); img.save(b, kind, **kw)
    return b.getvalue()


def palette():
    img = Image.new('P', (8, 8), 1); img.putpalette([0, 0, 0, 200, 10, 20])
    return saved(img, 'PNG')


def animation(): return saved(Image.new('RGB', (8, 8), (250, 0, 0)), 'GIF', save_all=True, append_images=[Image.new('RGB', (8, 8), (0, 0, 250))])
def grey16(value): return saved(Image.fromarray(np.full((8, 8), value, np.uint16)), 'PNG')


@pytest.mark.parametrize('data, colour', [
    (saved(Image.new('CMYK', (8, 8), (0, 255, 255, 0)), 'TIFF'), (255, 0, 0)), (palette(), (200, 10, 20)), (saved(Image.new('L', (8, 8), 100), 'PNG'), (100,) * 3),
    (saved(Image.new('LA', (8, 8), (9, 255)), 'PNG'), (9,) * 3), (saved(Image.new('LA', (8, 8), (9, 0)), 'PNG'), (255,) * 3), (saved(Image.new('1', (8, 8), 1), 'PNG'), (255,) * 3),
    (saved(Image.new('RGBA', (8, 8), (255, 0, 0, 0)), 'PNG'), (255,) * 3), (saved(Image.new('RGBA', (8, 8), (255, 0, 0, 51)), 'PNG'), (255, 204, 204)),
    (grey16(0), (0,) * 3), (grey16(32896), (128,) * 3), (grey16(65535), (255,) * 3), (animation(), (250, 0, 0)),
], ids=['CMYK', 'palette', 'L', 'LA opaque', 'LA clear', '1-bit', 'RGBA clear', 'RGBA fifth', '16-bit black', '16-bit grey', '16-bit white', 'GIF'])
def test_colours_are_those_that_people_see(data, colour):
    img = open_picture(data)
    assert img.mode == 'RGB' and img.size == (8, 8) and np.abs(np.subtract(lone(img, 3, 3), colour)).max() <= 1, lone(img, 3, 3)


def test_float_tiff_keeps_its_shape():
    ramp = np.tile(np.linspace(-2, 5, 32, dtype=np.float32), (4, 1))
    grey = np.asarray(open_picture(saved(Image.fromarray(ramp), 'TIFF')))[0, :, 0].astype(int)
    assert grey[0] == 0 and grey[-1] == 255 and (np.diff(grey) > 0).all()


@pytest.mark.parametrize('orientation, turn', [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_orientation_is_honoured_in_training_and_prediction(tmp_path, trained, orientation, turn):
    from har_fastai.inference import Predictor
    from har_fastai.loaders import HARImage
    img = picture(5).resize((40, 20)); exif = Image.Exif(); exif[0x0112] = orientation
    img.save(tmp_path/'a.png', exif=exif)
    upright = np.rot90(np.asarray(img), turn)
    assert np.array_equal(open_picture(tmp_path/'a.png'), upright) and np.array_equal(HARImage.create(tmp_path/'a.png'), upright)
    p = Predictor(trained.run)
    assert np.array_equal(p.array(tmp_path/'a.png'), eval_array(Image.fromarray(upright), p.card.size))


def test_flipped_bytes_are_accepted_unless_a_checksum_says_otherwise(tmp_path):
    data = dataset(tmp_path/'d', n=6); whole = jpeg()
    assert flip_bytes(whole) != whole
    (data/'train'/'flipped.jpg').write_bytes(whole); sha = sha256_file(data/'train'/'flipped.jpg')
    (data/'train'/'flipped.jpg').write_bytes(flip_bytes(whole))
    rows = [*csv.reader(open(data/'Training_set.csv'))][1:] + [('flipped.jpg', 'sitting')]
    write_table(data/'Training_set.csv', rows)
    assert (check_har(read_har(data)).problem == '').all()
    write_table(data/'Training_set.csv', [(*r, sha if r[0] == 'flipped.jpg' else sha256_file(data/'train'/r[0])) for r in rows], ('filename', 'label', 'sha256'))
    df = check_har(read_har(data))
    assert df.filename[df.problem != ''].tolist() == ['flipped.jpg'] and 'checksum' in df.problem.iloc[-1]


def test_png_named_jpg(tmp_path):
    picture(3).save(tmp_path/'a.jpg', 'PNG')
    assert np.array_equal(open_picture(tmp_path/'a.jpg'), picture(3))


@pytest.mark.parametrize('size', [(1, 1), (1, 4000)])
def test_tiny_pictures_load_with_a_warning(tmp_path, size):
    data = dataset(tmp_path/'d', n=6); Image.new('RGB', size, 'red').save(data/'train'/'tiny.png')
    write_table(data/'Training_set.csv', [*csv.reader(open(data/'Training_set.csv'))][1:] + [('tiny.png', 'sitting')])
    with pytest.warns(UserWarning, match='very small or narrow.*1, .*tiny.png'): df = check_har(read_har(data))
    assert (df.problem == '').all() and eval_array(open_picture(data/'train'/'tiny.png'), 32).shape == (3, 32, 32)


# ---- tables that must be refused (faults 16–20, 24, 26): by every command that reads them ----

GOOD = [(f'Image_{i}.png', ('running', 'sitting')[i % 2]) for i in range(8)]
TABLES = { # fault -> (rows, columns, what the sentence must say)
    'missing files':      (GOOD + [(f'gone_{i}.png', 'sitting') for i in range(3)], None, ['gone_0.png', 'gone_1.png', 'gone_2.png', '3 of 11']),
    'many missing files': (GOOD + [(f'gone_{i}.png', 'sitting') for i in range(30)], None, ['gone_0.png', '30 of 38']),
    'climbs out':         (GOOD + [('../../x.png', 'sitting')], None, ['line 10', 'inside the folder']),
    'climbs out midway':  (GOOD + [('a/../../x.png', 'sitting')], None, ['line 10', 'inside the folder']),
    'climbs, Windows':    (GOOD + [('..\\x.png', 'sitting')], None, ['line 10', 'inside the folder']),
    'absolute':           (GOOD + [('/etc/hostname', 'sitting')], None, ['line 10', 'relative']),
    'absolute, Windows':  (GOOD + [('C:\\x.png', 'sitting')], None, ['line 10', 'relative']),
    'network share':      (GOOD + [('\\\\server\\x.png', 'sitting')], None, ['line 10', 'relative']),
    'NaN label':          (GOOD[:2] + [('Image_2.png', 'NaN')] + GOOD[3:], None, ['line 4', 'label']),
    'NaN filename':       (GOOD[:2] + [('nan', 'sitting')] + GOOD[3:], None, ['line 4', 'filename']),
    'empty label':        (GOOD[:2] + [('Image_2.png', '')] + GOOD[3:], None, ['line 4', 'label', 'empty']),
    'blank label':        (GOOD[:2] + [('Image_2.png', '  \t')] + GOOD[3:], None, ['line 4', 'label', 'empty']),
    'empty filename':     (GOOD[:2] + [('', 'sitting')] + GOOD[3:], None, ['line 4', 'filename', 'empty']),
    'two labels':         (GOOD + [('Image_0.png', 'sitting')], None, ['Image_0.png', 'running', 'sitting', 'line 2', 'line 10']),
    'unknown part':       ([(*r, 'train') for r in GOOD[:7]] + [(*GOOD[7], 'exam')], ('filename', 'label', 'part'), ['line 9', 'exam', 'train, valid or test']),
    'missing column':     (GOOD, ('filename', 'action'), ['label', 'action']),
    'no rows':            ([], None, ['no rows']),
    'one row':            (GOOD[:1], None, ['running']),
    'a single class':     ([(f, 'running') for f, _ in GOOD], None, ['single class', 'running', 'two']),
}


@pytest.fixture(params=['check', 'train', 'evaluate'])
def read_by(request, tmp_path, refuse):
    "Let one of the commands refuse a data set"
    def check(data, says):
        if request.param == 'evaluate' and ('single class' in says or says[1:] == ['running']): return # a single class can be scored
        argv = {'check': lambda: (cli.har_check, data), 'train': lambda: (cli.har_train, '--data', data, '--out', tmp_path/'run', '--device', 'cpu'),
                'evaluate': lambda: (cli.har_evaluate, request.getfixturevalue('trained').run, '--data', data)}[request.param]()
        code, told = refuse(*argv)
        assert code == 2 and not [s for s in says if s not in told], told
        assert not (tmp_path/'run'/'recipe.json').exists()
    return check


@pytest.mark.parametrize('fault', TABLES)
def test_bad_tables_are_refused(tmp_path, fault, read_by):
    rows, columns, says = TABLES[fault]
    data = dataset(tmp_path/'d', n=8, labels=('running', 'sitting'))
    read_by(write_table(data/'Training_set.csv', rows, columns or ('filename', 'label')), [str(data/'Training_set.csv'), *says])


@pytest.mark.parametrize('content, says', [(b'', 'empty'), (b'\xff\xfe\x00bad\x81', 'cannot be read'), (b'filename,label\n"Image_0.png,running\n', 'Training_set.csv')],
                         ids=['zero bytes', 'not text', 'open quote'])
def test_files_that_are_no_tables(tmp_path, content, says, read_by):
    data = dataset(tmp_path/'d', n=8)
    (data/'Training_set.csv').write_bytes(content)
    read_by(data/'Training_set.csv', [says])


@pytest.mark.parametrize('what, says', [('nowhere', 'does not exist'), ('file.txt', 'CSV'), ('empty', 'no table')])
def test_no_data_set(tmp_path, what, says, read_by):
    (tmp_path/'file.txt').write_text('x'); (tmp_path/'empty').mkdir()
    read_by(tmp_path/what, [what, says])


def test_a_single_class_of_folders(tmp_path, read_by):
    (tmp_path/'d'/'running').mkdir(parents=True)
    for i in range(4): picture(i).save(tmp_path/'d'/'running'/f'{i}.png')
    read_by(tmp_path/'d', ['single class', 'running'])


def test_spaces_and_windows_line_ends(tmp_path):
    data = dataset(tmp_path/'d', n=8, labels=('running', 'sitting'))
    text = '\ufefffilename , label\r\n' + ''.join(f' {f} ,  {l}\t\r\n' for f, l in GOOD) + '\r\n'
    (data/'Training_set.csv').write_bytes(text.encode())
    df = read_har(data)
    assert list(zip(df.filename, df.label)) == GOOD


# ---- splits (faults 21, 22, 27) ----

def checked(data): return usable(check_har(read_har(data)))


def parts_of(df, ids): return {i: set(df.part[ids == i]) - {'unused'} for i in set(ids)}


@pytest.fixture
def with_copies(tmp_path):
    "A data set of 60 with ten exact and ten near copies"
    data = dataset(tmp_path/'d', n=60)
    rows = [*csv.reader(open(data/'Training_set.csv'))][1:]
    for i in range(0, 40, 4):
        (data/'train'/f'exact_{i}.png').write_bytes((data/'train'/f'Image_{i}.png').read_bytes())
        picture(i).resize((44, 44)).save(data/'train'/f'near_{i}.jpg', quality=80)
        rows += [(f'exact_{i}.png', rows[i][1]), (f'near_{i}.jpg', rows[i][1])]
    np.random.default_rng(0).shuffle(rows)
    write_table(data/'Training_set.csv', rows)
    return data


@pytest.mark.parametrize('split', ['grouped', 'tail'])
def test_copies_stay_on_one_side(with_copies, split):
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        df = split_har(checked(with_copies), split)
    ids = find_copies(df)
    assert ids.nunique() == 60 and all(len(p) <= 1 for p in parts_of(df, ids).values()), 'a picture and its copy are in two parts'
    assert set(df.part) == {'train', 'valid', 'test'} | ({'unused'} if split == 'tail' else set())
    if split == 'tail': assert (df.part[-16:] == 'test').all() and f'not used, because they copy a test or valid picture or belong to its group: {(df.part == "unused").sum()}' in notes(w)


def test_a_leaking_split_would_be_seen(with_copies):
    df = checked(with_copies)
    df['part'] = np.where(np.arange(len(df)) < 48, 'train', 'test')
    assert any(len(p) > 1 for p in parts_of(df, find_copies(df)).values())


def test_given_parts_lose_their_copies(with_copies):
    rows = [*csv.reader(open(with_copies/'Training_set.csv'))][1:]
    part = {f: 'test' if f.startswith('exact') else 'valid' if f in {f'Image_{i}.png' for i in range(40, 60)} else 'train' for f, _ in rows}
    write_table(with_copies/'Training_set.csv', [(f, l, part[f]) for f, l in rows], ('filename', 'label', 'part'))
    with pytest.warns(UserWarning, match='not used, .*: 20'): df = honour_parts(checked(with_copies))
    assert all(len(p) <= 1 for p in parts_of(df, find_copies(df)).values())
    assert (df.part[df.filename.str.startswith('exact')] == 'test').all()
    assert 'families in different parts: 10' in summarise_check(checked(with_copies))


def test_repeated_rows_count_once(tmp_path):
    data = dataset(tmp_path/'d', n=8, labels=('running', 'sitting'), extra=GOOD[:3])
    with pytest.warns(UserWarning, match='repeat.*: 3.*line 10'): assert len(read_har(data)) == 8


def test_label_only_in_valid_is_refused(tmp_path, refuse):
    data = dataset(tmp_path/'d', n=24)
    rows = [*csv.reader(open(data/'Training_set.csv'))][1:]
    write_table(data/'Training_set.csv', [(f, l, 'valid' if l == 'texting' else ('train', 'test')[i % 12 < 2]) for i, (f, l) in enumerate(rows)], ('filename', 'label', 'part'))
    code, told = refuse(cli.har_train, '--data', data, '--out', tmp_path/'run', '--device', 'cpu')
    assert code == 2 and 'texting' in told and 'train' in told


def test_label_only_in_the_tail_is_refused(tmp_path):
    data = dataset(tmp_path/'d', n=40)
    rows = [*csv.reader(open(data/'Training_set.csv'))][1:]
    write_table(data/'Training_set.csv', rows[:-1] + [(rows[-1][0], 'flying')])
    with pytest.raises(HARError, match='flying'): tail_split(checked(data))


def test_a_class_with_one_picture_stays_in_train(tmp_path):
    data = dataset(tmp_path/'d', n=40)
    rows = [*csv.reader(open(data/'Training_set.csv'))][1:]
    write_table(data/'Training_set.csv', rows[:-1] + [(rows[-1][0], 'flying')])
    for seed in range(6): # one seed could put it there by chance
        with pytest.warns(UserWarning, match='stay in train.*flying'): df = grouped_split(checked(data), seed=seed)
        assert df.part[df.label == 'flying'].tolist() == ['train']


@pytest.mark.parametrize('n', [2, 3])
def test_too_few_pictures_to_split(tmp_path, n):
    data = dataset(tmp_path/'d', n=n, labels=('running', 'sitting', 'texting')[:n])
    with pytest.raises(HARError, match='too few'): grouped_split(checked(data))


def test_a_data_set_of_broken_pictures_only(tmp_path, refuse):
    data = dataset(tmp_path/'d', n=8)
    for f in (data/'train').iterdir(): f.write_bytes(b'')
    code, told = refuse(cli.har_train, '--data', data, '--out', tmp_path/'run', '--device', 'cpu')
    assert code == 2 and 'Image_0.png' in told and '0 can be used' in told


# ---- evaluation, batches, weights (faults 23, 25, 28) ----

def test_unknown_label_at_evaluation(trained, tmp_path, refuse):
    data = dataset(tmp_path/'d', n=8, labels=('running', 'flying'))
    code, told = refuse(cli.har_evaluate, trained.run, '--data', data, '--split', 'all')
    assert code == 2 and 'flying' in told and 'running' in told and 'using_laptop' in told


def test_a_small_table_shrinks_the_batch(tmp_path):
    from har_fastai.loaders import har_dls
    df = grouped_split(checked(dataset(tmp_path/'d', n=24)))
    n = (df.part == 'train').sum()
    with pytest.warns(UserWarning, match=f'only {n} training pictures.*not 64'): dls = har_dls(df, size=32, bs=64, num_workers=0, device='cpu')
    assert len(dls.train) == 1 and len(dls.train.one_batch()[0]) == n


@pytest.mark.parametrize('weights, says', [([1, np.nan], 'nan'), ([1, np.inf], 'inf'), ([1, -1], '-1'), ([0, 0], '0'), ([1], 'weights')], ids=['NaN', 'infinite', 'negative', 'all zero', 'too few'])
def test_bad_weights(tmp_path, weights, says):
    from har_fastai.loaders import har_dls
    df = grouped_split(checked(dataset(tmp_path/'d', n=24)))
    wgts = np.ones(24) * weights[0]
    wgts = wgts[:-1] if len(weights) == 1 else np.r_[wgts[:-1], weights[1]]
    with pytest.raises(HARError, match=says): har_dls(df, size=32, bs=8, wgts=wgts, num_workers=0, device='cpu')


# ---- models that must not be opened (faults 33, 35) ----

@pytest.fixture
def copied(trained, tmp_path):
    "A copy of the model of a run"
    for f in ('model.json', 'model.safetensors'): (tmp_path/'model'/f).parent.mkdir(exist_ok=True); (tmp_path/'model'/f).write_bytes((trained.run/f).read_bytes())
    return tmp_path/'model'


def told_by_predict(refuse, model, tmp_path):
    picture(0).save(tmp_path/'p.png')
    code, told = refuse(cli.har_predict, tmp_path/'p.png', '--model', model)
    assert code == 2
    return told


def test_a_truncated_model(copied, tmp_path, refuse):
    f = copied/'model.safetensors'; f.write_bytes(f.read_bytes()[:-1000])
    assert 'sha256' in (told := told_by_predict(refuse, copied, tmp_path)) and str(f) in told


@pytest.mark.parametrize('content', [b'', b'{', b'[]', b'{"format": 1}', b'{"format": 99}', struct.pack('8d', *range(8))], ids=['empty', 'cut short', 'list', 'no fields', 'newer', 'binary'])
def test_a_damaged_card(copied, tmp_path, refuse, content):
    (copied/'model.json').write_bytes(content)
    assert 'model.json' in told_by_predict(refuse, copied, tmp_path)


@pytest.mark.parametrize('name', ['evil.pkl', 'evil.pth'])
def test_a_pickle_is_never_opened(tmp_path, refuse, name):
    import pickle
    class Evil:
        def __reduce__(self): return (open, (str(tmp_path/'ran'), 'w'))
    (tmp_path/name).write_bytes(pickle.dumps(Evil()))
    assert 'pickle' in told_by_predict(refuse, tmp_path/name, tmp_path)
    code, told = refuse(cli.har_train, '--data', dataset(tmp_path/'d'), '--out', tmp_path/'run', '--recipe', 'demo', '--device', 'cpu', '--weights', tmp_path/name)
    assert code == 2 and name in told and not (tmp_path/'ran').exists()
