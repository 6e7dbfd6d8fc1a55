"Labelling in one process: damaged, huge and vanished images are rows with reasons; the command; tables, archives, DuckDB's view"
import io, os, sys, tarfile

import pandas as pd
import pytest

from har_fastai.cli_scale import har_label, har_review
from har_fastai.files import HARError
from har_fastai.scale.label import label_images
from har_fastai.scale.parts import LabelJob, begin_job, done_blocks
from har_fastai.scale.sources import list_images
from har_fastai.testing import put_shapes


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
    "Forty drawings, one that is cut short, and one with 200 megapixels"
    from PIL import Image
    folder = tmp_path_factory.mktemp('photos')
    put_shapes(folder, [(f'{i:02d}.png', 'circles') for i in range(40)])
    (folder/'11.png').write_bytes((folder/'11.png').read_bytes()[:300])
    Image.new('1', (20_000, 10_000)).save(folder/'22.png')
    return folder


def test_bad_images_are_rows_with_reasons(photos, tmp_path):
    done = label_images(photos, tmp_path, 'baseline', block=16)
    df = pd.read_parquet(tmp_path)
    assert df.row.tolist() == list(range(40)) and done.errors == 2
    bad = df[df.error.notna()]
    assert bad.row.tolist() == [11, 22] and bad.label.isna().all()
    assert '200 megapixels' in bad.error.iloc[1] and 'cannot be read' in bad.error.iloc[0]


def test_a_file_that_vanishes_after_the_job_began(photos, tmp_path):
    import shutil
    from har_fastai.scale.blocks import label_block, pack_model, unpack_model
    shutil.copytree(photos, tmp_path/'photos')
    job = LabelJob(tmp_path/'labels')
    begin_job(job, list_images(tmp_path/'photos'), block=50, top=1)
    (tmp_path/'photos'/'03.png').unlink()
    assert label_block(job, unpack_model(pack_model('baseline')), 0)['errors'] == 3
    assert 'there is no such file' in pd.read_parquet(tmp_path/'labels').error[3]


def test_sources_of_all_kinds_give_the_same_labels(photos, tmp_path):
    files = sorted(photos.iterdir())[:6]
    with tarfile.open(tmp_path/'shard.tar', 'w') as tar:
        for f in files: tar.add(f, f.name); tar.addfile(tarfile.TarInfo(f'{f.stem}.json'), io.BytesIO())
    pd.DataFrame([dict(image=dict(bytes=f.read_bytes(), path=f.name)) for f in files]).to_parquet(tmp_path/'images.parquet')
    pd.DataFrame(dict(path=[str(f) for f in files])).to_csv(tmp_path/'table.csv', index=False)
    probs = []
    for i, source in enumerate(('shard.tar', 'images.parquet', 'table.csv', 'shard.t*')):
        label_images(tmp_path/source, tmp_path/f'labels{i}', 'baseline')
        probs.append(pd.read_parquet(tmp_path/f'labels{i}').probabilities.map(list).tolist())
    assert len(probs[0]) == 6 and all(p == probs[0] for p in probs)


def test_the_command_resumes_and_refuses(photos, tmp_path, capsys, refuse):
    options = [str(photos), '--out', str(tmp_path/'labels'), '--model', 'baseline', '--block', '16']
    har_label(options)
    next((tmp_path/'labels').glob('part-*1.parquet')).unlink()
    capsys.readouterr()
    har_label([*options, '--price', '0.05'])
    said = capsys.readouterr().out
    assert '16 labelled' in said and 'for a million images' in said and '2 not read' in said
    assert done_blocks(LabelJob(tmp_path/'labels')) == {0, 1, 2}
    for argv, words in ((['nowhere', '--out', tmp_path/'x'], 'nowhere'), ([*options[:3], '--model', 'lite2'], 'another model'),
                        ([*options, '--workers', '0'], '--workers is 0')):
        code, text = refuse(har_label, *argv)
        assert code == 2 and words in text
    assert refuse(har_review, tmp_path)[0] == 2


def test_a_table_may_hold_anything_beside_the_names(photos, tmp_path):
    "More than a piece of a CSV table, in which a type changes or texts have several lines; rows without a name are left out"
    head = ''.join(f'{photos}/00.png,{i}\n' for i in range(40_000))
    for end in (f'{photos}/01.png,none\n', f'{photos}/01.png,"two\nlines"\n', f'{photos}/01.png,one,more\n\n,x\n'):
        (tmp_path/'table.csv').write_text('path,note\n' + head + end)
        names = [r.path for r in list_images(tmp_path/'table.csv')]
        assert len(names) == 40_001 and names[-1] == f'{photos}/01.png'
    for bad in (f'path,note\n{photos}/00.png,"open\n{photos}/01.png,x\n'.encode(), b'path\n\xe9.png\n'):
        (tmp_path/'bad.csv').write_bytes(bad)
        with pytest.raises(HARError, match='cannot be read as a CSV table'): list(list_images(tmp_path/'bad.csv'))
    pd.DataFrame(dict(path=[str(photos/'00.png'), None, ''])).to_parquet(tmp_path/'table.parquet')
    assert len(list(list_images(tmp_path/'table.parquet'))) == 1


@pytest.mark.skipif(sys.platform != 'linux', reason='file names are text')
def test_a_file_name_that_is_not_utf8(photos, tmp_path):
    os.makedirs(tmp_path/'photos')
    with open(os.fsencode(tmp_path/'photos')+b'/caf\xe9.png', 'wb') as f: f.write((photos/'00.png').read_bytes())
    label_images(tmp_path/'photos', tmp_path/'labels', 'baseline')
    df = pd.read_parquet(tmp_path/'labels')
    assert df.error.isna().all() and df.path.str.endswith('caf\N{REPLACEMENT CHARACTER}.png').all()
