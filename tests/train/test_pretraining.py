"Pretraining: a killed command continues, and its weights are those with which training begins"
import os, signal, time

import pytest
import torch

from har_fastai.models import create_model, read_weights
from har_fastai.testing import tiny_har
from helpers import call, start
from interruptions import wait_for

OPTIONS = '--arch', 'baseline', '--size', 32, '--bs', 16, '--epochs', 3, '--device', 'cpu'


@pytest.mark.slow('three runs of a command')
def test_a_killed_command_is_continued(tmp_path):
    data, out = tiny_har(), tmp_path/'weights.safetensors'
    with start('har_pretrain', '--data', data, '--out', out, *OPTIONS) as p:
        try:
            wait_for(p, 'epoch 1/')
            while not (tmp_path/'weights.checkpoint.safetensors').exists(): assert p.poll() is None; time.sleep(.001)
        finally: p.kill()
    assert p.returncode == -signal.SIGKILL and not out.exists()
    assert call('har_pretrain', '--data', data, '--out', out, *OPTIONS).returncode == 2, 'the checkpoint would be lost'
    assert call('har_pretrain', '--data', data, '--out', out, *OPTIONS, '--resume').returncode == 0
    assert call('har_pretrain', '--data', data, '--out', tmp_path/'whole.safetensors', *OPTIONS).returncode == 0
    a, b = read_weights(out), read_weights(tmp_path/'whole.safetensors')
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) and os.listdir(tmp_path).count(out.name) == 1


@pytest.mark.parametrize('arch', ['xresnet18', pytest.param('resnet50', marks=pytest.mark.slow('another architecture'))])
def test_the_weights_fit_the_architecture(tmp_path, arch):
    done = call('har_pretrain', '--data', tiny_har(), '--out', tmp_path/'w.safetensors', '--arch', arch, '--size', 32, '--bs', 40,
                '--epochs', 1, '--device', 'cpu')
    assert done.returncode == 0, done.stderr
    torch.manual_seed(0)
    plain, model = create_model(arch, 15), create_model(arch, 15, weights=tmp_path/'w.safetensors')
    saved, own = read_weights(tmp_path/'w.safetensors'), model.state_dict()
    assert all(torch.equal(saved[k], own[k]) for k in saved) and len(own) - len(saved) == 2 # the new last layer
    assert not torch.equal(next(plain.parameters()), next(model.parameters()))


def test_a_wrong_argument_is_one_sentence(tmp_path):
    for args, words in ((('--arch', 'x'), 'unknown architecture'), (('--resume',), 'nothing to resume'),
                        (('--epochs', 0), '--epochs is 0')):
        done = call('har_pretrain', '--data', tmp_path, '--out', tmp_path/'w.safetensors', *args)
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr
