"Faults 16 to 28 and 41 to 47: tables, labels, layouts and splits"
import csv, shutil, unicodedata, warnings

import numpy as np
import pytest

from har_fastai import cli
from har_fastai.data.checks import check_data, check_har, summarise_check, usable
from har_fastai.data.duplicates import find_duplicates
from har_fastai.data.loaders import har_dls
from har_fastai.data.splits import grouped_split, keep_parts, split_har, tail_split
from har_fastai.data.tables import read_har
from har_fastai.files import HARError
from har_fastai.train.runs import Run
from helpers import dataset, image, write_table
from registry import row

GOOD = [(f'Image_{i}.png', ('running', 'sitting')[i % 2]) for i in range(8)]


def two_classes(folder, **kw): return dataset(folder, n=8, labels=('running', 'sitting'), **kw)
def table(data, rows, columns=('filename', 'label')): return write_table(data/'Training_set.csv', rows, columns)
def rows_of(data): return [*csv.reader(open(data/'Training_set.csv'))][1:]
def checked(data): return usable(check_har(read_har(data)))
def parts_of(df, ids): return {i: set(df.part[ids == i]) - {'unused'} for i in set(ids)}
def after_colon(message): return message.partition(': ')[2]


def refused(b, number:int, rows, words, columns=('filename', 'label'), scored=True, where=None) -> str:
    """The check, training and (if `scored`) evaluation reject a table with one sentence that contains `words`

    The check lists the fault under its number; returns the sentence without paths of this machine."""
    data = two_classes(b.tmp/f'd{len(list(b.tmp.iterdir()))}')
    file = table(data, rows, columns)
    commands = [(cli.har_check, data), (cli.har_train, '--data', data, '--out', b.tmp/'run', '--device', 'cpu')]
    if scored: commands.append((cli.har_evaluate, b.trained.run, '--data', data))
    for command in commands:
        code, message = b.refuse(*command)
        assert code == 2 and not [w for w in words if w not in message], (command[0].__name__, message)
        assert not (b.tmp/'run'/'recipe.json').exists()
    try: found = check_data(data).faults
    except HARError: assert number == 24
    else:
        listed = found[found.fault == number]
        assert len(listed) and (where is None or where in set(listed['where'])), found
    return after_colon(message.replace(str(file), file.name).replace(f'{data}/', '').replace(str(data), 'the folder'))


@row(16, 'a row whose file is missing', 'all such rows listed before training')
def missing(b):
    refused(b, 16, GOOD + [(f'gone_{i}.png', 'sitting') for i in range(30)], ['gone_0.png', '30 of 38'])
    words = ['gone_0.png', 'gone_1.png', 'gone_2.png', '3 of 11', 'Training_set.csv']
    return refused(b, 16, GOOD + [(f'gone_{i}.png', 'sitting') for i in range(3)], words, where='line 12')


@row(17, 'the filename ../../x.jpg', 'rejected')
def climbing(b):
    def outside(name): return refused(b, 17, GOOD + [(name, 'sitting')], ['line 10', 'inside the folder'], where='line 10')
    for name in ('a/../../x.png', '..\\x.png', 'a/..'): outside(name)
    data = dataset(b.tmp/'linked', n=8)
    image(7).save(b.tmp/'private.png'); (data/'train'/'way_out.png').symlink_to(b.tmp/'private.png')
    table(data, GOOD + [('way_out.png', 'sitting')])
    with pytest.raises(HARError, match='line 10: the file is a link that leads out'): read_har(data)
    return outside('../../x.png') + '; a link that leads out of the folder is rejected too'


@row(18, 'an absolute path', 'rejected')
def absolute(b):
    def absolute_path(name): return refused(b, 18, GOOD + [(name, 'sitting')], ['line 10', 'relative'], where='line 10')
    for name in ('C:\\x.png', '\\\\server\\x.png'): absolute_path(name)
    return absolute_path('/etc/hostname')


def with_line_4(name, label): return [*GOOD[:2], (name, label), *GOOD[3:]]


@row(19, 'a NaN label or filename', 'an error that names the row')
def nan(b):
    refused(b, 19, with_line_4('nan', 'sitting'), ['line 4', 'filename'], where='line 4')
    return refused(b, 19, with_line_4('Image_2.png', 'NaN'), ['line 4', 'label'], where='line 4')


@row(20, "the labels '' and ' Run'", 'stripped; an empty one is an error that names the row')
def blank(b):
    for name, label, column in (('Image_2.png', '  \t', 'label'), ('', 'sitting', 'filename')):
        refused(b, 20, with_line_4(name, label), ['line 4', column, 'empty'], where='line 4')
    data = two_classes(b.tmp/'spaces')
    text = '\ufefffilename , label\r\n' + ''.join(f' {f} ,  {l}\t\r\n' for f, l in GOOD) + '\r\n'
    (data/'Training_set.csv').write_bytes(text.encode())
    df, found = read_har(data), check_data(data).faults
    assert list(zip(df.filename, df.label)) == GOOD and (found.fault == 20).sum() == 8 and found.kept.all()
    empty = refused(b, 20, with_line_4('Image_2.png', ''), ['line 4', 'label', 'empty'], where='line 4')
    return f'spaces are removed; {empty}'


def with_duplicates(data) -> list:
    "The rows of a data set of 60 images with ten exact duplicates and ten near-duplicates, in random order"
    rows = rows_of(data)
    for i in range(0, 40, 4):
        (data/'train'/f'exact_{i}.png').write_bytes((data/'train'/f'Image_{i}.png').read_bytes())
        image(i).resize((44, 44)).save(data/'train'/f'near_{i}.jpg', quality=80)
        rows += [(f'exact_{i}.png', rows[i][1]), (f'near_{i}.jpg', rows[i][1])]
    np.random.default_rng(0).shuffle(rows)
    return rows


@row(21, 'the same row or the same image in two parts of the split', 'cannot happen; the number of excluded images is reported')
def duplicates(b):
    data = dataset(b.tmp/'d', n=60); rows = with_duplicates(data); table(data, rows)
    df = checked(data); ids = find_duplicates(df)
    assert ids.nunique() == 60
    for split in ('grouped', 'tail'):
        with warnings.catch_warnings(record=True) as w:
            warnings.simplefilter('always'); cut = split_har(df, split)
        assert all(len(p) <= 1 for p in parts_of(cut, ids).values()), 'an image and its duplicate are in two parts'
        assert set(cut.part) == {'train', 'valid', 'test'} | ({'unused'} if split == 'tail' else set())
    warning = str(w[-1].message)
    assert (cut.part[-16:] == 'test').all() and warning.endswith(f': {(cut.part == "unused").sum()}')
    leaky = df.assign(part=np.where(np.arange(len(df)) < 48, 'train', 'test'))
    assert any(len(p) > 1 for p in parts_of(leaky, ids).values()), 'the test could not detect a leak'
    given_parts(data, rows)
    twice = two_classes(b.tmp/'twice', extra=GOOD[:3])
    with pytest.warns(UserWarning, match='repeat.*: 3.*line 10'): assert len(read_har(twice)) == 8
    refused(b, 21, GOOD + [('Image_0.png', 'sitting')], ['Image_0.png', 'running', 'sitting', 'line 2', 'line 10'], where='line 10')
    return f'duplicates stay in one part; {warning} (of 80)'


def given_parts(data, rows) -> None:
    "Parts that the table defines lose the duplicates of other parts"
    late = {f'Image_{i}.png' for i in range(40, 60)}
    def part(f): return 'test' if f.startswith('exact') else 'valid' if f in late else 'train'
    table(data, [(f, l, part(f)) for f, l in rows], ('filename', 'label', 'part'))
    with pytest.warns(UserWarning, match='not used, .*: 20'): df = keep_parts(checked(data))
    assert all(len(p) <= 1 for p in parts_of(df, find_duplicates(df)).values())
    assert (df.part[df.filename.str.startswith('exact')] == 'test').all()
    assert 'groups in different parts: 10' in summarise_check(checked(data))


@row(22, 'a label that occurs only in valid', 'every label is in train, or an error before training')
def only_in_valid(b):
    data = dataset(b.tmp/'d', n=24)
    rows = [(f, l, 'valid' if l == 'texting' else ('train', 'test')[i % 12 < 2]) for i, (f, l) in enumerate(rows_of(data))]
    table(data, rows, ('filename', 'label', 'part'))
    code, message = b.refuse(cli.har_train, '--data', data, '--out', b.tmp/'run', '--device', 'cpu')
    assert code == 2 and 'texting' in message and 'train' in message
    with pytest.raises(HARError, match='flying'): tail_split(checked(with_single(b.tmp/'tail')))
    return after_colon(message)


def with_single(folder):
    "A data set of 40 images, in which the last one is the only one of its class"
    data = dataset(folder, n=40); *rows, (last, _) = rows_of(data)
    table(data, [*rows, (last, 'flying')])
    return data


@row(23, 'an unknown label at evaluation', 'an error that names it and the known labels')
def unknown(b):
    data = dataset(b.tmp/'d', n=8, labels=('running', 'flying'))
    code, message = b.refuse(cli.har_evaluate, b.trained.run, '--data', data, '--split', 'all')
    assert code == 2 and 'flying' in message and 'running' in message and 'using_laptop' in message
    return after_colon(message)


@row(24, 'a missing column; an empty table; a table with one row', 'one clear error')
def no_table(b):
    contents = ((b'', 'empty'), (b'\xff\xfe\x00bad\x81', 'cannot be read'), (b'filename,label\n"Image_0.png,running\n', 'Training_set.csv'))
    for content, words in contents:
        data = dataset(b.tmp/f'raw{len(content)}', n=8); (data/'Training_set.csv').write_bytes(content)
        train, score = (cli.har_train, '--data', data, '--out', b.tmp/'run'), (cli.har_evaluate, b.trained.run, '--data', data)
        for command in ((cli.har_check, data), train, score):
            code, message = b.refuse(*command)
            assert code == 2 and words in message
    wrong_part = [(*r, 'train') for r in GOOD[:7]] + [(*GOOD[7], 'exam')]
    refused(b, 24, wrong_part, ['line 9', 'exam', 'train, valid or test'], ('filename', 'label', 'part'), where='line 9')
    return '; '.join([refused(b, 24, GOOD, ['label', 'action'], ('filename', 'action')), refused(b, 24, [], ['no rows']),
                      refused(b, 24, GOOD[:1], ['running', 'rows: 1'], scored=False)])


@row(25, 'fewer rows than a batch', 'a smaller batch, with a warning')
def small(b):
    df = grouped_split(checked(dataset(b.tmp/'d', n=24))); n = (df.part == 'train').sum()
    with pytest.warns(UserWarning, match=f'only {n} training images.*not 64') as w:
        dls = har_dls(df, size=32, bs=64, num_workers=0, device='cpu')
    assert len(dls.train) == 1 and len(dls.train.one_batch()[0]) == n
    assert 'a batch has' in b.broken_run.stderr and 'not 32' in b.broken_run.stderr # har_train as well, and its loss was finite
    return str(w[-1].message)


@row(26, 'a single class', 'an error')
def single(b):
    folders = b.tmp/'folders'; (folders/'running').mkdir(parents=True)
    for i in range(4): image(i).save(folders/'running'/f'{i}.png')
    for command in ((cli.har_check, folders), (cli.har_train, '--data', folders, '--out', b.tmp/'run')):
        code, message = b.refuse(*command)
        assert code == 2 and 'single class' in message and 'running' in message
    rows = [(f, 'running') for f, _ in GOOD]
    return refused(b, 26, rows, ['single class', 'running', 'two'], scored=False) # a single class can be scored


@row(27, 'a class with one image', 'stays in train, with a warning')
def lonely(b):
    data = with_single(b.tmp/'d')
    for seed in range(6): # with a single seed, it could be there by chance
        with pytest.warns(UserWarning, match='stay in train.*flying') as w: df = grouped_split(checked(data), seed=seed)
        assert df.part[df.label == 'flying'].tolist() == ['train']
    found = check_data(data).faults
    assert found.label[found.fault == 27].tolist() == ['flying']
    for n in (2, 3):
        few = dataset(b.tmp/f'few{n}', n=n, labels=('running', 'sitting', 'texting')[:n])
        with pytest.raises(HARError, match='too few'): grouped_split(checked(few))
    return str(w[-1].message)


@row(28, 'sampling weights that are NaN, negative or too few', 'an error')
def weights(b):
    df, messages = grouped_split(checked(dataset(b.tmp/'d', n=24))), []
    ones = np.ones(23)
    cases = {'nan': np.r_[ones, np.nan], 'inf': np.r_[ones, np.inf], '-1': np.r_[ones, -1], '0': np.zeros(24), '23 weights': ones}
    for words, values in cases.items():
        with pytest.raises(HARError, match=words) as e: har_dls(df, size=32, bs=8, wgts=values, num_workers=0, device='cpu')
        messages.append(str(e.value))
    return f'{messages[0]}; {messages[-1]}'


def classes(folder, names=('running', 'sitting'), n=4):
    "Class folders with `n` images each"
    for k, name in enumerate(names):
        (folder/name).mkdir(parents=True, exist_ok=True)
        for i in range(n): image(n * k + i).save(folder/name/f'{i}.png')
    return folder


def reading(data, **kw):
    "The table of a data set, and the warnings about it without its folder"
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        df = read_har(data, **kw)
    return df, '; '.join(str(x.message) for x in w).replace(f'{data}: ', '').replace(str(data), 'the folder')


@row(41, 'class folders with other files: HEIC, .jpe, no extension, a text', 'used, or counted and named')
def other_files(b):
    data = classes(b.tmp/'d')
    for name in ('photo', 'photo.jpe', 'photo.JPG.old'): image(1).save(data/'running'/name, 'JPEG')
    (data/'running'/'notes.txt').write_text('Notes'); (data/'loose.png').write_bytes((data/'sitting'/'0.png').read_bytes())
    df, warning = reading(data)
    assert len(df) == 11 and 'photo' in warning + ' '.join(df.filename) and '2 files not used' in warning
    assert [f for f in check_data(data).faults.query('fault == 41').filename] == ['running/notes.txt', 'loose.png']
    heif = pytest.importorskip('pillow_heif')
    (data/'standing').mkdir()
    for i in range(3): heif.from_pillow(image(20 + i)).save(data/'standing'/f'{i}.HEIC')
    assert len(usable(check_har(read_har(data)))) == 14
    return f'recognised by content, HEIC included (with pillow-heif, otherwise set aside with the command that installs it); {warning}'


@row(42, 'training_set/training_set and test_set/test_set; class folders that hold only folders', 'the right parts; an error')
def layouts(b):
    data = b.tmp/'d'
    classes(data/'training_set'/'training_set', n=6); classes(data/'test_set'/'test_set', n=2)
    df, _ = reading(data)
    assert set(df.label) == {'running', 'sitting'} and df.part.value_counts().to_dict() == {'train': 12, 'test': 4}
    for other in ('Train', 'val', 'dev', 'evaluation', 'Testing', 'test-data'):
        named = b.tmp/other; classes(named/'train'); classes(named/other)
        assert set(reading(named)[0].label) == {'running', 'sitting'} and 'part' in reading(named)[0]
    deep = b.tmp/'deep'
    for k in ('a', 'b'): classes(deep/k)
    commands = ((cli.har_check, deep), (cli.har_train, '--data', deep, '--out', b.tmp/'run'),
                (cli.har_evaluate, b.trained.run, '--data', deep))
    messages = {after_colon(after_colon(b.refuse(*c)[1])) for c in commands}
    assert len(messages) == 1 and not (b.tmp/'run'/'recipe.json').exists()
    assert set(read_har(deep, layout='classes').label) == {'a', 'b'}
    assert cli.har_check([str(deep), '--layout', 'classes']) is None
    return f'parts are recognised; {messages.pop()}'


@row(43, 'a run or a model inside the data folder', 'not read as a class or as labels')
def own_output(b):
    data = classes(b.tmp/'d')
    shutil.copytree(b.trained.run, data/'runs'/'first'); shutil.copytree(b.trained.run, data/'running'/'run')
    df, warning = reading(data)
    assert set(df.label) == {'running', 'sitting'} and len(df) == 8
    at_top = classes(b.tmp/'top'); shutil.copytree(b.trained.run, at_top, dirs_exist_ok=True)
    assert set(reading(at_top)[0].label) == {'running', 'sitting'}
    return warning


@row(44, 'columns split, is_valid, subject, fold; columns without a meaning', 'used or rejected, and named')
def other_columns(b):
    data = two_classes(b.tmp/'d')
    def read(columns, *values):
        table(data, [(*r, *v) for r, v in zip(GOOD, zip(*values))], ('filename', 'label', *columns))
        return reading(data)
    parts = ['train', 'Train', 'training', 'val', 'dev', 'test', 'test set', 'train']
    df, warning = read(('split', 'subject', 'size'), parts, 'aabbccdd', '12345678')
    assert df.part.tolist() == ['train'] * 3 + ['valid'] * 2 + ['test'] * 2 + ['train'] and list(df.group) == list('aabbccdd')
    assert read(('is_valid',), ['True', '0', '1', 'false'] * 2)[0].part.tolist() == ['valid', 'train'] * 4
    columns = ('filename', 'label', 'fold')
    folds = refused(b, 24, [(*r, str(i % 3)) for i, r in enumerate(GOOD)], ['the column fold', 'group'], columns)
    refused(b, 24, [(*r, 'train', 'train') for r in GOOD], ['split and set', 'rename'], ('filename', 'label', 'split', 'set'))
    return f'{warning}; {folds}'


@row(45, 'accents composed in the table and decomposed on disk; a class folder with a space at its end', 'the same name')
def spelling(b):
    composed, apart = (unicodedata.normalize(form, 'café') for form in ('NFC', 'NFD'))
    data = classes(b.tmp/'d', (f'{apart} ', 'sitting'))
    df, _ = reading(data)
    assert set(df.label) == {composed, 'sitting'} and df.filename[0] == f'{composed} /0.png'
    assert len(usable(check_har(df))) == 8
    named = two_classes(b.tmp/'t'); (named/'train'/'Image_0.png').rename(named/'train'/f'{apart}.png')
    table(named, [(f'{composed}.png', 'running'), *GOOD[1:]])
    assert len(checked(named)) == 8
    both, warning = reading(classes(b.tmp/'case', ('Sitting', 'sitting')))
    assert len(both) == 8
    return f'names are compared in the Unicode form NFC, without outer spaces; {warning}'


NAMES = ('label', 'predicted', 'path', 'part', 'accuracy', 'macro avg', 'p_label', 'all')


@row(46, 'classes called label, predicted, path, part, accuracy, macro avg', 'no different from other names')
def reserved_names(b):
    data, run = classes(b.tmp/'d', NAMES, n=8), b.tmp/'run'
    small = ['--recipe', 'demo', '--size', '32', '--epochs', '1', '--device', 'cpu', '--faithfulness', '0']
    cli.har_train(['--data', str(data), '--out', str(run), *small])
    cli.har_train(['--resume', '--out', str(run), '--faithfulness', '0'])
    cli.har_evaluate([str(run), '--data', str(data), '--split', 'all', '--csv', str(b.tmp/'p.csv'), *small[-4:]])
    rows = [*csv.DictReader(open(b.tmp/'p.csv'))]
    assert len(rows) == 64 and {r['label'] for r in rows} == set(NAMES)
    assert all(abs(sum(float(r[f'p_{n}']) for n in NAMES) - 1) < 1e-4 for r in rows)
    table = Run(run).metrics['table']
    assert set(table) == {*NAMES, 'macro avg (all classes)', 'accuracy (all classes)', 'weighted avg'}
    assert (run/'report.html').is_file() and (run/'report-all.html').is_file()
    return 'trained, resumed, evaluated and reported; columns of probabilities begin with p_, and rows of averages say (all classes)'


@row(47, 'a fixed camera: all images look almost the same', 'an error that names the images and the option; own parts are kept')
def fixed_camera(b):
    scene, data = image(0, 64), b.tmp/'d'
    for k, name in enumerate(('open', 'shut')):
        (data/name).mkdir(parents=True)
        for i in range(12):
            scene.putpixel((k, i), (255, 255 * k, i))
            scene.save(data/name/f'{i}.png')
    out = b.tmp/'run'
    code, message = b.refuse(cli.har_train, '--data', data, '--out', out, '--device', 'cpu')
    assert code == 2 and '24 images' in message and '--copies exact' in message
    df = checked(data)
    assert set(split_har(df, copies='exact').part) == {'train', 'valid', 'test'}
    own = df.assign(part=['train', 'train', 'valid', 'test'] * 6)
    assert split_har(own).part.tolist() == own.part.tolist()
    return after_colon(message) if ': ' in message else message
