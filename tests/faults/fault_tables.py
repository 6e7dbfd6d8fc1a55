"Faults 16 to 28: tables, labels and splits"
import csv, warnings

import numpy as np
import pytest

from har_fastai import cli
from har_fastai.data.checks import check_data
from har_fastai.data.tables import read_har
from har_fastai.data.checks import check_har, find_duplicates, summarise_check, usable
from har_fastai.data.splits import grouped_split, keep_parts, split_har, tail_split
from har_fastai.files import HARError
from helpers import dataset, image, write_table
from rows import row

GOOD = [(f'Image_{i}.png', ('running', 'sitting')[i % 2]) for i in range(8)]
def table(data, rows, columns=('filename', 'label')): return write_table(data/'Training_set.csv', rows, columns)
def rows_of(data): return [*csv.reader(open(data/'Training_set.csv'))][1:]
def checked(data): return usable(check_har(read_har(data)))
def parts_of(df, ids): return {i: set(df.part[ids == i]) - {'unused'} for i in set(ids)}


def refused(b, number:int, rows, says, columns=('filename', 'label'), scored=True, where=None) -> str:
    "A table is refused with one sentence by the check, by training and (where `scored`) by scoring; the check gives it under its number"
    data = b.tmp/f'd{len(list(b.tmp.iterdir()))}'; dataset(data, n=8, labels=('running', 'sitting'))
    f = table(data, rows, columns) if rows is not None else data/'Training_set.csv'
    commands = [(cli.har_check, data), (cli.har_train, '--data', data, '--out', b.tmp/'run', '--device', 'cpu')] + [(cli.har_evaluate, b.trained.run, '--data', data)] * scored
    for command in commands:
        code, told = b.refuse(*command)
        assert code == 2 and not [s for s in says if s not in told], (command[0].__name__, told)
        assert not (b.tmp/'run'/'recipe.json').exists()
    try: found = check_data(data).faults
    except HARError: assert number == 24
    else: assert number in set(found.fault) and (where is None or where in set(found['where'][found.fault == number])), found
    return told.replace(str(f), f.name).replace(f'{data}/', '').replace(str(data), 'the folder').partition(': ')[2]


@row(16, 'a row whose file is missing', 'all of them listed before training')
def missing(b):
    refused(b, 16, GOOD + [(f'gone_{i}.png', 'sitting') for i in range(30)], ['gone_0.png', '30 of 38'])
    return refused(b, 16, GOOD + [(f'gone_{i}.png', 'sitting') for i in range(3)], ['gone_0.png', 'gone_1.png', 'gone_2.png', '3 of 11', 'Training_set.csv'], where='line 12')


@row(17, '../../x.jpg', 'refused')
def climbing(b):
    for name in ('a/../../x.png', '..\\x.png', 'a/..'): refused(b, 17, GOOD + [(name, 'sitting')], ['line 10', 'inside the folder'], where='line 10')
    data = dataset(b.tmp/'linked', n=8); image(7).save(b.tmp/'private.png'); (data/'train'/'way_out.png').symlink_to(b.tmp/'private.png')
    table(data, GOOD + [('way_out.png', 'sitting')])
    with pytest.raises(HARError, match='line 10: the file is a link that leads out'): read_har(data)
    return refused(b, 17, GOOD + [('../../x.png', 'sitting')], ['line 10', 'inside the folder'], where='line 10') + '; so is a link that leads out'


@row(18, 'an absolute path', 'refused')
def absolute(b):
    for name in ('C:\\x.png', '\\\\server\\x.png'): refused(b, 18, GOOD + [(name, 'sitting')], ['line 10', 'relative'], where='line 10')
    return refused(b, 18, GOOD + [('/etc/hostname', 'sitting')], ['line 10', 'relative'], where='line 10')


@row(19, 'a NaN label or filename', 'an error that names the row')
def nan(b):
    refused(b, 19, GOOD[:2] + [('nan', 'sitting')] + GOOD[3:], ['line 4', 'filename'], where='line 4')
    return refused(b, 19, GOOD[:2] + [('Image_2.png', 'NaN')] + GOOD[3:], ['line 4', 'label'], where='line 4')


@row(20, "the labels '' and ' Run'", 'stripped; empty is an error that names the row')
def blank(b):
    for name, label, what in (('Image_2.png', '  \t', 'label'), ('', 'sitting', 'filename')): refused(b, 20, GOOD[:2] + [(name, label)] + GOOD[3:], ['line 4', what, 'empty'], where='line 4')
    data = dataset(b.tmp/'spaces', n=8, labels=('running', 'sitting'))
    (data/'Training_set.csv').write_bytes(('\ufefffilename , label\r\n' + ''.join(f' {f} ,  {l}\t\r\n' for f, l in GOOD) + '\r\n').encode())
    df, found = read_har(data), check_data(data).faults
    assert list(zip(df.filename, df.label)) == GOOD and (found.fault == 20).sum() == 8 and found.kept.all()
    return 'spaces go; ' + refused(b, 20, GOOD[:2] + [('Image_2.png', '')] + GOOD[3:], ['line 4', 'label', 'empty'], where='line 4')


@row(21, 'the same row or the same image in two splits', 'cannot happen; the check says how many were moved')
def copies(b):
    data = dataset(b.tmp/'d', n=60); rows = rows_of(data)
    for i in range(0, 40, 4): # ten exact and ten near copies
        (data/'train'/f'exact_{i}.png').write_bytes((data/'train'/f'Image_{i}.png').read_bytes())
        image(i).resize((44, 44)).save(data/'train'/f'near_{i}.jpg', quality=80)
        rows += [(f'exact_{i}.png', rows[i][1]), (f'near_{i}.jpg', rows[i][1])]
    np.random.default_rng(0).shuffle(rows); table(data, rows)
    df = checked(data); ids = find_duplicates(df)
    assert ids.nunique() == 60
    for split in ('grouped', 'tail'):
        with warnings.catch_warnings(record=True) as w:
            warnings.simplefilter('always'); cut = split_har(df, split)
        assert all(len(p) <= 1 for p in parts_of(cut, ids).values()), 'an image and its copy are in two parts'
        assert set(cut.part) == {'train', 'valid', 'test'} | ({'unused'} if split == 'tail' else set())
    said = str(w[-1].message)
    assert (cut.part[-16:] == 'test').all() and said.endswith(f': {(cut.part == "unused").sum()}')
    leaky = df.assign(part=np.where(np.arange(len(df)) < 48, 'train', 'test'))
    assert any(len(p) > 1 for p in parts_of(leaky, ids).values()), 'a leak would not be seen'
    given_parts(data, rows)
    with pytest.warns(UserWarning, match='repeat.*: 3.*line 10'): assert len(read_har(dataset(b.tmp/'twice', n=8, labels=('running', 'sitting'), extra=GOOD[:3]))) == 8
    refused(b, 21, GOOD + [('Image_0.png', 'sitting')], ['Image_0.png', 'running', 'sitting', 'line 2', 'line 10'], where='line 10')
    return f'copies stay on one side; {said} (of 80)'


def given_parts(data, rows) -> None:
    "Parts that the table gives lose their copies"
    part = {f: 'test' if f.startswith('exact') else 'valid' if f in {f'Image_{i}.png' for i in range(40, 60)} else 'train' for f, _ in rows}
    table(data, [(f, l, part[f]) for f, l in rows], ('filename', 'label', 'part'))
    with pytest.warns(UserWarning, match='not used, .*: 20'): df = keep_parts(checked(data))
    assert all(len(p) <= 1 for p in parts_of(df, find_duplicates(df)).values()) and (df.part[df.filename.str.startswith('exact')] == 'test').all()
    assert 'families in different parts: 10' in summarise_check(checked(data))


@row(22, 'a label that is only in valid', 'a split keeps every label in train, or an early error')
def only_in_valid(b):
    data = dataset(b.tmp/'d', n=24); rows = rows_of(data)
    table(data, [(f, l, 'valid' if l == 'texting' else ('train', 'test')[i % 12 < 2]) for i, (f, l) in enumerate(rows)], ('filename', 'label', 'part'))
    code, told = b.refuse(cli.har_train, '--data', data, '--out', b.tmp/'run', '--device', 'cpu')
    assert code == 2 and 'texting' in told and 'train' in told
    data = dataset(b.tmp/'tail', n=40); table(data, rows_of(data)[:-1] + [(rows_of(data)[-1][0], 'flying')])
    with pytest.raises(HARError, match='flying'): tail_split(checked(data))
    return told.partition(': ')[2]


@row(23, 'an unknown label at evaluation', 'an error that names it and the known ones')
def unknown(b):
    code, told = b.refuse(cli.har_evaluate, b.trained.run, '--data', dataset(b.tmp/'d', n=8, labels=('running', 'flying')), '--split', 'all')
    assert code == 2 and 'flying' in told and 'running' in told and 'using_laptop' in told
    return told.partition(': ')[2]


@row(24, 'a missing column, an empty table, one row', 'one clear error')
def no_table(b):
    for content, says in ((b'', 'empty'), (b'\xff\xfe\x00bad\x81', 'cannot be read'), (b'filename,label\n"Image_0.png,running\n', 'Training_set.csv')):
        data = dataset(b.tmp/f'raw{len(content)}', n=8); (data/'Training_set.csv').write_bytes(content)
        for command in ((cli.har_check, data), (cli.har_train, '--data', data, '--out', b.tmp/'run'), (cli.har_evaluate, b.trained.run, '--data', data)):
            code, told = b.refuse(*command); assert code == 2 and says in told
    said = [refused(b, 24, GOOD, ['label', 'action'], ('filename', 'action')), refused(b, 24, [], ['no rows']), refused(b, 24, GOOD[:1], ['running', 'rows: 1'], scored=False)]
    refused(b, 24, [(*r, 'train') for r in GOOD[:7]] + [(*GOOD[7], 'exam')], ['line 9', 'exam', 'train, valid or test'], ('filename', 'label', 'part'), where='line 9')
    return '; '.join(said)


@row(25, 'fewer rows than a batch', 'the batch shrinks, with a warning')
def small(b):
    from har_fastai.data.loaders import har_dls
    df = grouped_split(checked(dataset(b.tmp/'d', n=24))); n = (df.part == 'train').sum()
    with pytest.warns(UserWarning, match=f'only {n} training images.*not 64') as w: dls = har_dls(df, size=32, bs=64, num_workers=0, device='cpu')
    assert len(dls.train) == 1 and len(dls.train.one_batch()[0]) == n
    assert 'a batch has' in b.broken_run.said and 'not 32' in b.broken_run.said # by the command as well, whose loss was a number
    return str(w[-1].message)


@row(26, 'a single class', 'an error')
def single(b):
    (b.tmp/'folders'/'running').mkdir(parents=True)
    for i in range(4): image(i).save(b.tmp/'folders'/'running'/f'{i}.png')
    for command in ((cli.har_check, b.tmp/'folders'), (cli.har_train, '--data', b.tmp/'folders', '--out', b.tmp/'run')):
        code, told = b.refuse(*command); assert code == 2 and 'single class' in told and 'running' in told
    return refused(b, 26, [(f, 'running') for f, _ in GOOD], ['single class', 'running', 'two'], scored=False) # one class can be scored


@row(27, 'a class with one image', 'stays in train, warned of')
def lonely(b):
    data = dataset(b.tmp/'d', n=40); table(data, rows_of(data)[:-1] + [(rows_of(data)[-1][0], 'flying')])
    for seed in range(6): # one seed could put it there by chance
        with pytest.warns(UserWarning, match='stay in train.*flying') as w: df = grouped_split(checked(data), seed=seed)
        assert df.part[df.label == 'flying'].tolist() == ['train']
    found = check_data(data).faults
    assert found.label[found.fault == 27].tolist() == ['flying']
    for n in (2, 3):
        with pytest.raises(HARError, match='too few'): grouped_split(checked(dataset(b.tmp/f'few{n}', n=n, labels=('running', 'sitting', 'texting')[:n])))
    return str(w[-1].message)


@row(28, 'weights that are NaN, negative or too few', 'an error')
def weights(b):
    from har_fastai.data.loaders import har_dls
    df, said = grouped_split(checked(dataset(b.tmp/'d', n=24))), []
    for values, says in ((np.r_[np.ones(23), np.nan], 'nan'), (np.r_[np.ones(23), np.inf], 'inf'), (np.r_[np.ones(23), -1], '-1'), (np.zeros(24), '0'), (np.ones(23), '23 weights')):
        with pytest.raises(HARError, match=says) as e: har_dls(df, size=32, bs=8, wgts=values, num_workers=0, device='cpu')
        said.append(str(e.value))
    return f'{said[0]}; {said[-1]}'
