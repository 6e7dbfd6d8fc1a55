"What CONTRIBUTING.md promises: an architecture and a recipe are one entry each, and everything finds them"
from dataclasses import replace

import pytest
from torch import nn

from har_fastai import cli
from har_fastai.models import ARCHS, Arch
from har_fastai.train.recipes import RECIPES
from har_fastai.train.runs import Run
from helpers import ROOT


def small(n_out, pretrained=False):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n_out))


def test_one_entry_is_enough(monkeypatch, drawn, tmp_path, capsys):
    monkeypatch.setitem(ARCHS, 'small', Arch('small', small, 64, '2', '5', 'nowhere'))
    monkeypatch.setitem(RECIPES, 'brief', replace(RECIPES['demo'], name='brief', arch='small', epochs=1, size=32, bs=8))
    run, one = tmp_path/'run', next((drawn/'test').iterdir())
    cli.har_train(['--data', str(drawn), '--recipe', 'brief', '--out', str(run), '--device', 'cpu', '--workers', '0', '--faithful', '0'])
    assert (Run(run).recipe.name, Run(run).recipe.arch) == ('brief', 'small')
    cli.har_predict([str(one), '--model', str(run)]); assert one.name in capsys.readouterr().out
    cli.har_explain([str(one), '--model', str(run), '--out', str(tmp_path/'maps')]); assert any((tmp_path/'maps').iterdir())


@pytest.mark.parametrize('target', ['test', 'notebooks', 'docs', 'readme', '.venv-dev/installed'])
def test_the_targets_exist(target):
    assert f'make {target}' in (ROOT/'CONTRIBUTING.md').read_text(encoding='utf-8')
    assert f'\n{target}:' in (ROOT/'Makefile').read_text(encoding='utf-8')
