"Drawn clips: the command writes them with their labels, and they are read as video"
import pandas as pd

from har_fastai.predict.video import Frames
from helpers import call


def test_the_command_draws_clips(tmp_path):
    done = call('har_draw', tmp_path/'d', '--n', 15, '--size', 32, '--clips', 2)
    assert done.returncode == 0 and done.stdout.splitlines() == [str(tmp_path/'d'), str(tmp_path/'d/clips')], done.stderr
    table = pd.read_csv(tmp_path/'d/clips/clips.csv')
    assert [*table.label] == ['calling', 'clapping']
    for name in table.filename: assert len(list(Frames(tmp_path/'d/clips'/name, 10))) == 30


def test_a_negative_number_is_refused(tmp_path):
    done = call('har_draw', tmp_path/'d', '--clips', -1)
    assert done.returncode == 2 and '--clips is -1' in done.stderr and not (tmp_path/'d').exists()
