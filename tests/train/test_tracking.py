"A training can be logged to TensorBoard and Weights & Biases; a resumed one continues the same curves"
import math

import pytest
from fastai.callback.core import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from har_fastai.core import train_baseline
from har_fastai.testing import tiny_har
from helpers import call

KW = dict(size=32, epochs=3, device='cpu', faithfulness=0)


class Stop(Callback):
    def before_batch(self):
        if self.training and self.epoch == 2: raise KeyboardInterrupt


def curve(folder, name):
    events = EventAccumulator(str(folder)); events.Reload()
    return [(s.step, s.value) for s in events.Scalars(name)]


def test_tensorboard_continues_after_an_interrupt(tmp_path):
    whole = train_baseline(tiny_har(150), 'demo', out=tmp_path/'whole', log='tensorboard', **KW)
    with pytest.raises(KeyboardInterrupt): train_baseline(tiny_har(150), 'demo', out=tmp_path/'cut', log='tensorboard', cbs=Stop(), **KW)
    resumed = train_baseline(out=tmp_path/'cut', resume=True, log='tensorboard', faithfulness=0)
    for name in ('train_loss', 'valid_macro_f1', 'lr_0'):
        assert curve(tmp_path/'whole'/'tensorboard', name) == curve(tmp_path/'cut'/'tensorboard', name)
    assert whole.run.history.valid_macro_f1.tolist() == resumed.run.history.valid_macro_f1.tolist()


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    "Without a key, the training is logged to files in the run folder"
    monkeypatch.setenv('HOME', str(tmp_path)); monkeypatch.delenv('WANDB_API_KEY', raising=False)
    done = call('har_train', '--data', tiny_har(150), '--recipe', 'demo', '--size', 32, '--epochs', 2, '--device', 'cpu',
                '--log', 'wandb', '--faithfulness', 0, '--out', tmp_path/'run')
    assert done.returncode == 0, done.stderr
    folder, = (tmp_path/'run'/'wandb').glob('offline-run-*')
    assert [*folder.glob('*.wandb')] and 'wandb sync' in done.stdout + done.stderr


def test_a_resumed_run_has_the_id_and_the_epoch_of_its_beginning(tmp_path, monkeypatch):
    wandb = pytest.importorskip('wandb')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    seen = []
    class Watch(Callback):
        order = 60
        def after_epoch(self): seen.append((wandb.run.id, wandb.run.summary['epoch'], wandb.run.config['size']))
    with pytest.raises(KeyboardInterrupt):
        train_baseline(tiny_har(150), 'demo', out=tmp_path/'run', log='wandb', cbs=[Watch(), Stop()], **KW)
    assert wandb.run is None # ended, even though the training was interrupted
    train_baseline(out=tmp_path/'run', resume=True, log='wandb', cbs=Watch(), faithfulness=0)
    assert [math.ceil(e) for _, e, _ in seen] == [1, 2, 3] # the end of an epoch is written with the next step
    assert len({i for i, _, _ in seen}) == 1 and {s for _, _, s in seen} == {32}


def test_unknown_trackers_are_refused(tmp_path):
    done = call('har_train', '--data', tiny_har(150), '--log', 'mlflow', '--out', tmp_path/'run')
    assert done.returncode == 2 and 'tensorboard' in done.stderr and not (tmp_path/'run').exists()
