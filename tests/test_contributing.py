"As CONTRIBUTING.md states, a new architecture or recipe is one registry entry, which every command accepts"
from dataclasses import replace

import pytest
from torch import nn

from har_fastai.models import ARCHS, Arch
from har_fastai.train.recipes import RECIPES
from har_fastai.train.runs import Run
from helpers import ROOT, call


def small(n_out, pretrained=False):
    body = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n_out))


def test_one_entry_is_enough(monkeypatch, drawn, tmp_path):
    monkeypatch.setitem(ARCHS, 'small', Arch('small', small, 64, '2', '5', 'nowhere'))
    monkeypatch.setitem(RECIPES, 'brief', replace(RECIPES['demo'], name='brief', arch='small', epochs=1, size=32, bs=8))
    run, one = tmp_path/'run', next((drawn/'test').iterdir())
    done = call('har_train', '--data', drawn, '--recipe', 'brief', '--out', run, '--device', 'cpu', '--workers', 0, '--faithfulness', 0)
    assert done.returncode == 0, done.stderr
    assert (Run(run).recipe.name, Run(run).recipe.arch) == ('brief', 'small')
    assert one.name in call('har_predict', one, '--model', run).stdout
    call('har_explain', one, '--model', run, '--out', tmp_path/'maps')
    assert any((tmp_path/'maps').iterdir())


@pytest.mark.parametrize('target', ['test', 'test-all', 'notebooks', 'docs', 'readme', '.venv-dev/installed'])
def test_the_targets_exist(target):
    assert f'make {target}' in (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8')
    assert f'\n{target}:' in (ROOT/'Makefile').read_text(encoding='utf-8')
