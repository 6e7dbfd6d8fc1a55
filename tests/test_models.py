"Every architecture of the register trains, is scored, explains, is saved and predicts through the same calls; weights come from files, and never where they don't belong"
import os, shutil

import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from PIL import Image
from safetensors.torch import load_file
from torchvision.models import get_model

from har_fastai import cli
from har_fastai.explain.gradcam import GradCAM
from har_fastai.core import load_run, train_baseline
from har_fastai.evaluate.interpretation import learner_table
from har_fastai.files import HARError, write_json
from har_fastai.predict.bundle import load_bundle, read_card
from har_fastai.predict.predictor import Predictor
from har_fastai.models import ARCHS, check_size, create_model, find_arch
from har_fastai.train.recipes import RECIPES, find_recipe
from har_fastai.train.runs import Run
from har_fastai.data.tables import read_har
from helpers import write_table

SIZES = dict(inception_v3=96, vit_b_16=224) # of the images; 64 px for the others


class Stop(Callback):
    "Cut a run short, as Ctrl-C does"
    def after_batch(self): raise KeyboardInterrupt


@pytest.fixture(scope='module')
def photos(drawn, tmp_path_factory):
    "45 images of three actions, real ones where there are some"
    home, df = tmp_path_factory.mktemp('photos')/'har', read_har(os.environ.get('HAR_DATA') or drawn)
    df = pd.concat([g.head(15 if os.environ.get('HAR_DATA') else 6) for _, g in df.groupby('label')][:3])
    (home/'train').mkdir(parents=True)
    for i, (f, p) in enumerate(zip(df.filename, df.path)):
        if os.environ.get('HAR_DATA'): shutil.copy(p, home/'train'/os.path.basename(f))
        else: Image.open(p).resize(((96, 64), (64, 96), (64, 64))[i % 3]).save(home/'train'/os.path.basename(f)) # drawings are all square
    write_table(home/'Training_set.csv', [(os.path.basename(f), l) for f, l in zip(df.filename, df.label)])
    return home


def train(photos, out, *options): cli.har_train([*map(str, ('--data', photos, '--out', out, '--bs', 8, '--device', 'cpu', '--workers', 0, '--faithful', 0, *options))])


@pytest.mark.parametrize('arch', [*ARCHS, 'resnet10t'])
def test_from_images_to_answers(arch, photos, tmp_path, capsys):
    run, size, one = tmp_path/'run', SIZES.get(arch, 64), next((photos/'train').iterdir())
    train(photos, run, '--arch', arch, '--pretrained', 'no', '--epochs', 1, '--size', size)
    model, card = load_bundle(run)
    assert (card.arch, card.size, card.resize, len(card.vocab)) == (arch, size, 'squash', 3) and tuple(card.mean) == find_arch(arch).mean
    assert Run(run).recipe.freeze == 0, 'random layers have nothing to spare'
    cli.har_evaluate([str(run), '--data', str(photos), '--split', 'all', '--report', 'no'])
    assert 'macro-F1' in capsys.readouterr().out
    cli.har_explain([str(one), '--model', str(run), '--out', str(tmp_path/'maps')])
    assert len(list((tmp_path/'maps').iterdir())) == 1
    cli.har_predict([str(one), '--model', str(run), '--top', '3'])
    said = capsys.readouterr().out
    assert all(l in said for l in card.vocab)
    assert abs(Predictor(run).predict(one)[2].sum() - 1) < 1e-4
    shutil.rmtree(run) # some are half a gigabyte


@pytest.mark.parametrize('recipe', RECIPES)
def test_every_recipe_can_be_cooked(recipe, photos, tmp_path):
    run = tmp_path/'run'
    train(photos, run, '--recipe', recipe, '--pretrained', 'no', '--epochs', 2, '--size', 64)
    r, card = Run(run).recipe, read_card(run)
    assert (r.name, r.arch, len(Run(run).history)) == (recipe, RECIPES[recipe].arch, 2) and (card.resize, card.tta) == (r.resize_rule, r.tta)
    assert r == find_recipe(recipe, pretrained=False, freeze=0, epochs=2, size=64, bs=8)
    shutil.rmtree(run)


@pytest.mark.parametrize('packed', ['yes', 'no'])
def test_images_in_their_own_proportions(packed, photos, tmp_path, capsys):
    "What is validated, saved, scored again, explained and shown are the same answers, whatever shapes come together"
    run = tmp_path/'run'
    train(photos, run, '--arch', 'baseline', '--resize', 'keep', '--size', 64, '--epochs', 2, '--packed', packed)
    assert read_card(run).resize == 'keep' and Run(run).recipe.resize_rule == 'keep'
    m, h = Run(run).metrics, Run(run).history
    assert abs(m['valid']['macro_f1']['value'] - h.valid_macro_f1[m['best_epoch']]) < 1e-6
    again, kept = learner_table(load_run(run, photos, 'cpu')), Run(run).predictions.query('part == "valid"')
    assert again.filename.tolist() == kept.filename.tolist() and again.predicted.tolist() == kept.predicted.tolist() and again.label.tolist() == kept.label.tolist()
    shapes = {Predictor(run).array(p).shape for p in again.path}
    assert len(shapes) > 1
    cli.har_evaluate([str(run), '--data', str(photos), '--split', 'all', '--faithful', '4'])
    cli.har_explain([*again.path, '--model', str(run), '--out', str(tmp_path/'maps')])
    assert len(list((tmp_path/'maps').iterdir())) == len(again)


def test_shapes_that_a_network_cannot_take(photos, tmp_path):
    for options, why in ((['--arch', 'vit_b_16', '--size', 224], 'squares only'), (['--arch', 'baseline', '--size', 39], '40 px at least')):
        with pytest.raises(HARError, match=why): find_recipe('report', resize='keep', arch=options[1], size=options[3])
        with pytest.raises(SystemExit): train(photos, tmp_path/'run', *options, '--resize', 'keep', '--pretrained', 'no')
        assert not (tmp_path/'run').exists()


def test_what_timm_has_of_every_shape():
    "Channels may come last; some networks want sides that fit, and some name a layer that is not there"
    arch = find_arch('swin_tiny_patch4_window7_224')
    with GradCAM(arch.build(3, False).eval(), arch.target_layer) as cam: assert cam(torch.randn(1, 3, 224, 224)).shape == (1, 7, 7)
    with pytest.raises(HARError, match='some proportions only'): check_size(find_arch('dla34'), 128, 'keep')
    check_size(find_arch('dla34'), 128); check_size(find_arch('resnet10t'), 128, 'keep')
    with pytest.raises(HARError, match='heat-map'): find_arch('mvitv2_tiny')


def test_a_run_from_a_file_of_weights_begins_with_it_again(photos, tmp_path):
    "Cut short before its first checkpoint"
    torch.save(create_model('baseline', 3).state_dict(), tmp_path/'w.pth')
    options = dict(recipe='demo', epochs=2, size=32, bs=8, device='cpu', faithful=0, weights=tmp_path/'w.pth')
    weights = lambda run: load_bundle(run)[0].state_dict()
    train_baseline(photos, out=tmp_path/'whole', **options)
    with pytest.raises(KeyboardInterrupt): train_baseline(photos, out=tmp_path/'run', cbs=[Stop()], **options)
    train_baseline(out=tmp_path/'run', resume=True, faithful=0)
    for k, v in weights(tmp_path/'whole').items(): assert torch.equal(v, weights(tmp_path/'run')[k]), k
    with pytest.raises(KeyboardInterrupt): train_baseline(photos, out=tmp_path/'lost', cbs=[Stop()], **options)
    (tmp_path/'w.pth').write_bytes(b'')
    with pytest.raises(HARError, match='gone or have changed'): train_baseline(out=tmp_path/'lost', resume=True)
    with pytest.raises(HARError, match='not a whole weights file'): create_model('baseline', 3, weights=tmp_path/'w.pth')


def test_a_fine_tuned_run_comes_back_without_its_pretrained_weights(photos, tmp_path, monkeypatch):
    run = tmp_path/'run'
    train(photos, run, '--recipe', 'finetune', '--arch', 'resnet50', '--pretrained', 'no', '--epochs', 2, '--size', 64)
    note = Run(run).info; note['recipe']['pretrained'] = True; write_json(run/'recipe.json', note) # as if it had begun with them
    monkeypatch.setattr('torchvision.models.get_model', lambda name, weights=None, **kw: pytest.fail('weights were asked for') if weights else get_model(name, **kw))
    assert torch.equal(load_run(run, photos).model.fc.weight, load_bundle(run)[0].fc.weight)
    train_baseline(out=run, resume=True, device='cpu', faithful=0)


def test_fine_tuning_from_a_file(photos, tmp_path, capsys):
    "A file as torchvision gives it, for a thousand classes"
    from torchvision.models import resnet50
    torch.manual_seed(1); body = resnet50().state_dict(); torch.save(body, tmp_path/'w.pth')
    run = tmp_path/'run'
    train(photos, run, '--arch', 'resnet50', '--weights', tmp_path/'w.pth', '--epochs', 2, '--size', 64)
    assert 'last layer is new' in capsys.readouterr().out
    r, h = Run(run).recipe, Run(run).history
    assert (r.name, r.freeze, r.pretrained) == ('finetune', 1, False) and len(h) == 2
    early = torch.load(tmp_path/'w.pth', weights_only=True)['conv1.weight']
    last = load_file(run/'checkpoint'/'last.safetensors')['model.conv1.weight'] # of the last epoch, whichever is the best one
    moved = (last - early).abs().max().item()
    assert 0 < moved < 1e-3, 'the first layers learn, and slowly'


def test_fine_tuning_takes_the_size_of_the_weights():
    assert find_recipe('finetune', arch='inception_v3').size == 299 and find_recipe('finetune', arch='resnet50').size == 224


def test_weights_of_another_architecture(photos, tmp_path, refuse):
    torch.save(create_model('xresnet18', 3).state_dict(), tmp_path/'w.pth')
    code, told = refuse(cli.har_train, '--data', photos, '--out', tmp_path/'run', '--arch', 'resnet50', '--weights', tmp_path/'w.pth', '--size', 64, '--device', 'cpu')
    assert code == 2 and 'does not fit this architecture' in told and not (tmp_path/'run'/'recipe.json').exists()


def test_weights_that_cannot_be_had(photos, tmp_path, refuse, monkeypatch):
    for name in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'): monkeypatch.setenv(name, 'http://127.0.0.1:9') # nobody listens there
    for name in ('no_proxy', 'NO_PROXY'): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path/'hub'))
    code, told = refuse(cli.har_train, '--data', photos, '--out', tmp_path/'run', '--arch', 'resnet50', '--device', 'cpu')
    assert code == 2 and 'resnet50' in told and '--weights FILE' in told and '--pretrained no' in told
    code, told = refuse(cli.har_train, '--data', photos, '--out', tmp_path/'run', '--arch', 'xresnet18', '--pretrained', 'yes', '--size', 64, '--device', 'cpu')
    assert code == 2 and 'no pretrained weights of xresnet18' in told


@pytest.mark.parametrize('options, told', [(['--arch', 'resnet51'], 'did you mean resnet50'), (['--arch', 'inception_v3', '--size', 64], 'must be 75 px at least'),
                                           (['--arch', 'vit_b_16', '--size', 128], '224 px only'), (['--arch', 'baseline', '--size', 8], 'between 16 and 1024'),
                                           (['--weights', 'none.pth'], 'does not exist')])
def test_what_cannot_be_is_refused_at_once(options, told, photos, tmp_path, refuse):
    code, said = refuse(cli.har_train, '--data', photos, '--out', tmp_path/'run', '--device', 'cpu', *options)
    assert code == 2 and told in said
