"Every architecture of the registry can be trained, evaluated, explained, saved and used by the same calls; weights are loaded from files"
import os, shutil

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torchvision.models import get_model

from har_fastai import cli
from har_fastai.core import load_run, train_baseline
from har_fastai.data.tables import read_har
from har_fastai.evaluate.interpretation import learner_table
from har_fastai.explain.gradcam import GradCAM
from har_fastai.files import HARError, write_json
from har_fastai.models import ARCHS, check_size, create_model, find_arch
from har_fastai.predict.bundle import load_bundle, read_card
from har_fastai.predict.predictor import Predictor
from har_fastai.train.recipes import RECIPES, find_recipe
from har_fastai.train.runs import Run
from helpers import DATA, call, mostly_slow, write_table
from interruptions import Stop

QUICK = {'baseline', 'xresnet18', 'resnet10t'} # small networks of our own, of fastai and of timm


@pytest.fixture(scope='module')
def photos(drawn, shared):
    "Images of three actions in several shapes: 45 photographs if available, otherwise 18 synthetic samples"
    def make(to):
        df = read_har(DATA or drawn)
        df = pd.concat([g.head(15 if DATA else 6) for _, g in df.groupby('label')][:3])
        (to/'har'/'train').mkdir(parents=True)
        for i, (f, p) in enumerate(zip(df.filename, df.path)):
            file = to/'har'/'train'/os.path.basename(f)
            if DATA: shutil.copy(p, file)
            else: Image.open(p).resize(((96, 64), (64, 96), (64, 64))[i % 3]).save(file) # synthetic samples are square
        rows = [(os.path.basename(f), l) for f, l in zip(df.filename, df.label)]
        return str(write_table(to/'har'/'Training_set.csv', rows).parent)
    return type(drawn)(shared('photos', make))


def train(photos, out, *options):
    always = ('--data', photos, '--out', out, '--bs', 8, '--device', 'cpu', '--workers', 0, '--faithfulness', 0)
    cli.har_train([*map(str, (*always, *options))])


# ---- from images to predictions ----

@pytest.mark.parametrize('arch', mostly_slow([*ARCHS, 'resnet10t'], QUICK, 'large architectures'))
def test_from_images_to_predictions(arch, photos, tmp_path):
    run, a, one = tmp_path/'run', find_arch(arch), next((photos/'train').iterdir())
    size = a.size if a.fixed else max(64, a.min_size)
    train(photos, run, '--arch', arch, '--pretrained', 'no', '--epochs', 1, '--size', size)
    model, card = load_bundle(run)
    assert (card.arch, card.size, card.resize, len(card.vocab)) == (arch, size, find_arch(arch).resize, 3)
    assert tuple(card.mean) == find_arch(arch).mean
    assert Run(run).recipe.freeze == 0, 'random layers must not be frozen'
    assert 'macro-F1' in call('har_evaluate', run, '--data', photos, '--split', 'all', '--report', 'no').stdout
    assert call('har_explain', one, '--model', run, '--out', tmp_path/'maps').returncode == 0
    assert len(list((tmp_path/'maps').iterdir())) == 1
    printed = call('har_predict', one, '--model', run, '--top', 3).stdout
    assert all(l in printed for l in card.vocab)
    assert abs(Predictor(run).predict(one)[2].sum() - 1) < 1e-4
    shutil.rmtree(run) # some take half a gigabyte


IMAGE_RECIPES = [k for k, r in RECIPES.items() if not r.streams] # tests/pose has the others


@pytest.mark.parametrize('recipe', mostly_slow(IMAGE_RECIPES, set(RECIPES) - {'finetune'}, 'large architectures'))
def test_every_recipe_trains(recipe, photos, tmp_path):
    run = tmp_path/'run'
    train(photos, run, '--recipe', recipe, '--pretrained', 'no', '--epochs', 2, '--size', 64)
    r, card = Run(run).recipe, read_card(run)
    assert (r.name, r.arch, len(Run(run).history)) == (recipe, RECIPES[recipe].arch, 2)
    assert (card.resize, card.tta) == (r.resize_rule, r.tta)
    assert r == find_recipe(recipe, pretrained=False, freeze=0, probe=False, frozen=0., freeze_bn=False, epochs=2, size=64, bs=8)
    shutil.rmtree(run)


@pytest.mark.parametrize('cache', ['yes', 'no'])
def test_images_with_their_aspect_ratio_kept(cache, photos, tmp_path):
    "Validation, the saved model, evaluation and explanations give the same predictions, whatever shapes a batch contains"
    run = tmp_path/'run'
    train(photos, run, '--arch', 'baseline', '--resize', 'keep', '--size', 64, '--epochs', 2, '--cache', cache)
    assert read_card(run).resize == Run(run).recipe.resize_rule == 'keep'
    m, h = Run(run).metrics, Run(run).history
    assert abs(m['valid']['macro_f1']['value'] - h.valid_macro_f1[m['best_epoch']]) < 1e-6
    again, kept = learner_table(load_run(run, photos, 'cpu')), Run(run).predictions.query('part == "valid"')
    for column in ('filename', 'predicted', 'label'): assert again[column].tolist() == kept[column].tolist()
    assert len({Predictor(run).array(p).shape for p in again.path}) > 1
    assert call('har_evaluate', run, '--data', photos, '--split', 'all', '--faithfulness', 4).returncode == 0
    assert call('har_explain', *again.path, '--model', run, '--out', tmp_path/'maps').returncode == 0
    assert len(list((tmp_path/'maps').iterdir())) == len(again)


# ---- shapes ----

def test_shapes_that_a_network_cannot_take(photos, tmp_path):
    for arch, size, why in (('vit_b_16', 224, 'squares only'), ('baseline', 39, 'at least 40 px')):
        with pytest.raises(HARError, match=why): find_recipe('report', resize='keep', arch=arch, size=size)
        with pytest.raises(SystemExit):
            train(photos, tmp_path/'run', '--arch', arch, '--size', size, '--resize', 'keep', '--pretrained', 'no')
        assert not (tmp_path/'run').exists()


def test_architectures_of_timm():
    "Features may be channels-last; some networks accept only certain sides, and some list a layer that does not exist"
    arch = find_arch('swin_tiny_patch4_window7_224')
    with GradCAM(arch.build(3, False).eval(), arch.target_layer) as cam: assert cam(torch.randn(1, 3, 224, 224)).shape == (1, 7, 7)
    with pytest.raises(HARError, match='some aspect ratios only'): check_size('dla34', 128, 'keep')
    check_size('dla34', 128); check_size('resnet10t', 128, 'keep')
    with pytest.raises(HARError, match='heat-map'): find_arch('mvitv2_tiny')


# ---- weights ----

def test_a_resumed_run_starts_from_its_weights_file(photos, tmp_path):
    "Also if the run was interrupted before its first checkpoint"
    torch.save(create_model('baseline', 3).state_dict(), tmp_path/'w.pth')
    options = dict(recipe='demo', epochs=2, size=32, bs=8, device='cpu', faithfulness=0, weights=tmp_path/'w.pth')
    weights = lambda run: load_bundle(run)[0].state_dict()
    train_baseline(photos, out=tmp_path/'whole', **options)
    with pytest.raises(KeyboardInterrupt): train_baseline(photos, out=tmp_path/'run', cbs=[Stop()], **options)
    train_baseline(out=tmp_path/'run', resume=True, faithfulness=0)
    for k, v in weights(tmp_path/'whole').items(): assert torch.equal(v, weights(tmp_path/'run')[k]), k
    with pytest.raises(KeyboardInterrupt): train_baseline(photos, out=tmp_path/'lost', cbs=[Stop()], **options)
    (tmp_path/'w.pth').write_bytes(b'')
    with pytest.raises(HARError, match='missing or have changed'): train_baseline(out=tmp_path/'lost', resume=True)
    with pytest.raises(HARError, match='not a weights file'): create_model('baseline', 3, weights=tmp_path/'w.pth')


@pytest.mark.slow('large architectures')
def test_a_fine_tuned_run_is_loaded_without_its_pretrained_weights(photos, tmp_path, monkeypatch):
    run = tmp_path/'run'
    train(photos, run, '--recipe', 'finetune', '--arch', 'resnet50', '--pretrained', 'no', '--epochs', 2, '--size', 64)
    note = Run(run).info; note['recipe']['pretrained'] = True; write_json(run/'recipe.json', note) # as if it had started from them
    def without(name, weights=None, **kw): return pytest.fail('weights were requested') if weights else get_model(name, **kw)
    monkeypatch.setattr('torchvision.models.get_model', without)
    assert torch.equal(load_run(run, photos).model.fc.weight, load_bundle(run)[0].fc.weight)
    train_baseline(out=run, resume=True, device='cpu', faithfulness=0)


@pytest.mark.slow('large architectures')
def test_fine_tuning_from_a_file(photos, tmp_path, capsys):
    "A file as torchvision provides it, for 1,000 classes"
    from torchvision.models import resnet50
    torch.manual_seed(1); body = resnet50().state_dict(); torch.save(body, tmp_path/'w.pth')
    run = tmp_path/'run'
    train(photos, run, '--arch', 'resnet50', '--weights', tmp_path/'w.pth', '--epochs', 2, '--size', 64)
    assert 'last layer is new' in capsys.readouterr().out
    r, h = Run(run).recipe, Run(run).history
    assert (r.name, r.probe, r.pretrained) == ('finetune', True, False) and h.train_loss.notna().tolist() == [False, True]
    before, after = torch.load(tmp_path/'w.pth', weights_only=True), load_file(run/'checkpoint'/'last.safetensors')
    names = 'conv1', 'layer1.0.conv1', 'layer4.2.conv3'
    change = {k: (after[f'model.{k}.weight'] - before[f'{k}.weight']).abs().max().item() for k in names}
    assert change['conv1'] == change['layer1.0.conv1'] == 0, 'the first layers are frozen' # of the last epoch, even if it is not the best
    assert 0 < change['layer4.2.conv3'] < 0.05, 'the others are trained after the probe, and keep what the file had'


def test_fine_tuning_takes_the_size_of_the_weights():
    assert find_recipe('finetune', arch='inception_v3').size == 299 and find_recipe('finetune', arch='resnet50').size == 224


def test_weights_of_another_architecture(photos, tmp_path, refuse):
    torch.save(create_model('xresnet18', 3).state_dict(), tmp_path/'w.pth')
    argv = ('--data', photos, '--out', tmp_path/'run', '--arch', 'resnet50', '--weights', tmp_path/'w.pth', '--size', 64, '--device', 'cpu')
    code, message = refuse(cli.har_train, *argv)
    assert code == 2 and 'does not fit this architecture' in message and not (tmp_path/'run'/'recipe.json').exists()


def test_weights_that_cannot_be_downloaded(photos, tmp_path, refuse, monkeypatch):
    for name in ('http_proxy', 'https_proxy'): # an address where nothing listens
        for n in (name, name.upper()): monkeypatch.setenv(n, 'http://127.0.0.1:9')
    for name in ('no_proxy', 'NO_PROXY'): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path/'hub'))
    argv = ('--data', photos, '--out', tmp_path/'run', '--device', 'cpu', '--arch')
    code, message = refuse(cli.har_train, *argv, 'resnet50')
    assert code == 2 and 'resnet50' in message and '--weights FILE' in message and '--pretrained no' in message
    code, message = refuse(cli.har_train, *argv, 'xresnet18', '--pretrained', 'yes', '--size', 64)
    assert code == 2 and 'no pretrained weights of xresnet18' in message


@pytest.mark.parametrize('options, words', [
    (['--arch', 'resnet51'], 'did you mean resnet50'), (['--arch', 'inception_v3', '--size', 64], 'must be at least 75 px'),
    (['--arch', 'vit_b_16', '--size', 128], '224 px only'), (['--arch', 'baseline', '--size', 8], 'between 16 and 1024'),
    (['--weights', 'none.pth'], 'does not exist')])
def test_impossible_options_are_refused_at_once(options, words, photos, tmp_path, refuse):
    code, message = refuse(cli.har_train, '--data', photos, '--out', tmp_path/'run', '--device', 'cpu', *options)
    assert code == 2 and words in message
