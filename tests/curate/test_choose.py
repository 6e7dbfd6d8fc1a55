"`har_next` as a command: images of a folder, with and without labelled ones"
import pytest

from har_fastai.cli_curate import har_next
from har_fastai.drawing.dataset import draw_har
from helpers import read_rows, write_table


@pytest.fixture(scope='module')
def pool(tmp_path_factory):
    "A folder of 24 drawings, of which one is no image, and a table with the labels of the first 12"
    home = tmp_path_factory.mktemp('pool')
    data = draw_har(home/'data', n=24, size=48, seed=2, test=0)
    rows = [(r['filename'], r['label']) for r in read_rows(data/'Training_set.csv')]
    (data/'train'/rows[-1][0]).write_bytes(b'no image')
    return data/'train', write_table(data/'labelled.csv', rows[:12]), [f for f, _ in rows]


def test_labelled_and_broken_images_are_not_chosen(pool, tmp_path, capsys):
    folder, table, names = pool
    har_next([str(folder), '--labelled', str(table), '--n', '6', '--out', str(tmp_path/'next.csv')])
    rows = read_rows(tmp_path/'next.csv')
    chosen = {r['filename'].rpartition('/')[2] for r in rows}
    assert len(rows) == len(chosen) == 6 and chosen <= set(names[12:-1]) and '6 images' in capsys.readouterr().out
    assert all(r['suggestion'] and 0 < float(r['probability']) <= 1 for r in rows)


@pytest.mark.parametrize('argv, words', [(['nowhere'], 'nowhere'), (['DIR', '--n', '0'], '--n is 0'),
                                         (['DIR', '--labelled', 'nowhere.csv'], 'nowhere.csv')])
def test_mistakes_get_one_sentence(pool, tmp_path, refuse, argv, words):
    code, message = refuse(har_next, *(str(pool[0]) if a == 'DIR' else a for a in argv), '--out', tmp_path/'next.csv')
    assert code == 2 and words in message and not (tmp_path/'next.csv').exists()
